//! Asynchronous reads of the programs' ring buffers.

use std::{io, marker::PhantomData};

use aya::{
    Pod,
    maps::{MapData, RingBuf},
};
use tokio::io::unix::AsyncFd;

use super::{Error, loaded::Loaded, typed_map};

/// A ring buffer of elements from the programs.
pub(crate) struct Ring<T> {
    ring: AsyncFd<RingBuf<MapData>>,
    of: PhantomData<fn() -> T>,
}

impl<T: Pod> Ring<T> {
    /// Opens the ring of the object. Requires a tokio runtime.
    pub(super) fn open(object: &mut Loaded, name: &'static str) -> Result<Self, Error> {
        let ring = typed_map::open(object, name)?;
        #[expect(unsafe_code, reason = "aya's ring implements `AsRawFd` alone")]
        // SAFETY: a ring keeps its map's descriptor open for its whole life, and always returns the
        // same one.
        let registered = unsafe { AsyncFd::register(ring) };
        let ring = registered.map_err(|error| Error::Listen(error.into()))?;
        Ok(Self {
            ring,
            of: PhantomData,
        })
    }

    /// Waits until the ring has elements, and removes and returns all of them.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<T>> {
        let mut ready = self.ring.readable_mut().await?;
        let mut found = Vec::new();
        while let Some(bytes) = ready.get_inner_mut().next() {
            if bytes.len() >= size_of::<T>() {
                #[expect(unsafe_code, reason = "an element is as the programs wrote it")]
                // SAFETY: there are as many bytes, and `T` is plain data.
                found.push(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() });
            }
        }
        ready.clear_ready();
        Ok(found)
    }
}
