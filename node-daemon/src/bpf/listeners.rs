//! The map of the proxies' listeners. The kernel programs add new listeners and the kernel removes
//! closed ones; the daemon adds those that existed before.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya::maps::{MapData, MapError, SockHash};
use sluice_abi::{ListenerKey, maps};

use super::{Error, loaded::Loaded, typed_map};

/// `BPF_NOEXIST`: a used slot stays unchanged.
const IF_FREE: u64 = 1;

/// The map `proxy_listeners`.
pub(super) struct Listeners(SockHash<MapData, ListenerKey>);

impl Listeners {
    /// Opens the map of the object.
    pub(super) fn open(object: &mut Loaded) -> Result<Self, Error> {
        typed_map::open(object, maps::PROXY_LISTENERS).map(Self)
    }

    /// Stores a listening socket in the first free slot.
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

    /// The netns cookies of the Pods whose proxy has a registered listener of a family (`AF_INET`,
    /// `AF_INET6`).
    pub(super) fn of_family(&self, family: u16) -> Result<BTreeSet<u64>, Error> {
        let keys = self.0.keys().filter_map(|key| match key {
            Ok(key) => (key.family == family).then_some(Ok(key.cookie)),
            Err(source) => Some(Err(failed("read", source))),
        });
        keys.collect()
    }

    /// The number of registered listeners of each Pod's proxy, by netns cookie.
    pub(super) fn counts(&self) -> Result<BTreeMap<u64, usize>, Error> {
        let mut found = BTreeMap::new();
        for key in self.0.keys() {
            let key = key.map_err(|source| failed("read", source))?;
            *found.entry(key.cookie).or_default() += 1;
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
