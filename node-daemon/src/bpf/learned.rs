//! Hearing from the kernel that it has found an awaited Pod.

use std::io;

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use sluice_abi::maps;
use tokio::io::unix::AsyncFd;

use super::{Error, table};

/// The ring of network namespaces in which an awaited Pod was found.
pub(crate) struct Learned(AsyncFd<RingBuf<MapData>>);

impl Learned {
    /// Takes the ring out of the object. Within a runtime of tokio.
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        let ring = table::take(object, maps::LEARNED)?;
        #[expect(unsafe_code, reason = "aya's ring implements `AsRawFd` alone")]
        // SAFETY: a ring keeps its map's descriptor open for as long as it lives, and tells no
        // other.
        let registered = unsafe { AsyncFd::register(ring) };
        registered
            .map(Self)
            .map_err(|error| Error::Listen(error.into()))
    }

    /// Waits until something is in the ring, and empties it: what was found is in `process_ip`.
    pub(crate) async fn wait(&mut self) -> io::Result<()> {
        let mut ready = self.0.readable_mut().await?;
        while ready.get_inner_mut().next().is_some() {}
        ready.clear_ready();
        Ok(())
    }
}
