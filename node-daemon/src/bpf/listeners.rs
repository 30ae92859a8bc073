//! The proxies' listeners. The kernel adds those that begin to listen and drops those that
//! close; the daemon adds those that were there before.

use std::{
    io::ErrorKind,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya::{
    Ebpf,
    maps::{MapData, MapError, SockHash},
};
use sluice_abi::{ListenerKey, maps};

use super::{Error, typed_map};

/// `BPF_NOEXIST`: a place that is taken stays as it is.
const IF_FREE: u64 = 1;

/// The map `listeners`.
pub(super) struct Listeners(SockHash<MapData, ListenerKey>);

impl Listeners {
    /// Takes the map out of the object.
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, Error> {
        typed_map::open(object, maps::PROXY_LISTENERS).map(Self)
    }

    /// Puts a listening socket into the first free place.
    pub(super) fn add(
        &mut self,
        cookie: u64,
        family: u16,
        socket: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        for slot in 0..ListenerKey::SLOTS {
            let key = ListenerKey::new(cookie, family, slot);
            match self.0.insert(key, socket.as_raw_fd(), IF_FREE) {
                Ok(()) => return Ok(()),
                Err(MapError::SyscallError(error))
                    if error.io_error.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => return Err(failed("write to", source)),
            }
        }
        Err(Error::NoListenerSlot {
            slots: ListenerKey::SLOTS,
        })
    }

    /// How many listeners of a Pod's proxy are registered.
    pub(super) fn count(&self, cookie: u64) -> Result<usize, Error> {
        let mut found = 0;
        for key in self.0.keys() {
            let key = key.map_err(|source| failed("read", source))?;
            found += usize::from(key.cookie == cookie);
        }
        Ok(found)
    }
}

fn failed(operation: &'static str, source: MapError) -> Error {
    Error::Map {
        map: maps::PROXY_LISTENERS,
        operation,
        source,
    }
}
