//! The map of foreign binds: processes that requested a port of a Pod's proxy and are not the proxy.

use sluice_abi::{ForeignKey, ForeignUse, maps};

use super::{Error, loaded::Loaded, typed_map::TypedMap};

/// The map `foreign_binds`.
pub(super) struct ForeignBinds(TypedMap<ForeignKey, ForeignUse>);

impl ForeignBinds {
    /// Opens the map of the object.
    pub(super) fn open(object: &mut Loaded) -> Result<Self, Error> {
        TypedMap::open(object, maps::FOREIGN_BINDS).map(Self)
    }

    /// Pod, port, UID and number of denials of each recorded process (LRU).
    pub(super) fn all(&self) -> Result<Vec<(ForeignKey, ForeignUse)>, Error> {
        self.0.all()
    }

    /// Removes the entries of a Pod.
    pub(super) fn remove(&mut self, cookie: u64) -> Result<(), Error> {
        let mut keys = self.0.keys()?;
        keys.retain(|key| key.cookie == cookie);
        keys.into_iter().try_for_each(|key| self.0.remove(key))
    }
}
