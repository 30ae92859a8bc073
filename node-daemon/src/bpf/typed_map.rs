//! A typed hash map in the kernel that only the daemon writes.

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};

use super::{Error, loaded::Loaded};

/// A typed map with its name for error messages.
pub(super) struct TypedMap<K: Pod, V: Pod> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
}

/// Opens a map of the object.
pub(super) fn open<M>(object: &mut Loaded, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = object.take_map(name).ok_or(Error::Missing { name })?;
    map.try_into()
        .map_err(|source| Error::map(name, "open", source))
}

impl<K: Pod, V: Pod> TypedMap<K, V> {
    /// Opens a map of the object.
    pub(super) fn open(object: &mut Loaded, name: &'static str) -> Result<Self, Error> {
        Ok(Self {
            name,
            map: open(object, name)?,
        })
    }

    /// Writes an entry, and replaces an existing one.
    pub(super) fn set(&mut self, key: K, value: V) -> Result<(), Error> {
        let Self { name, map } = self;
        map.insert(key, value, 0)
            .map_err(|source| Error::map(name, "write to", source))
    }

    /// Removes an entry, if it exists.
    pub(super) fn remove(&mut self, key: K) -> Result<(), Error> {
        let Self { name, map } = self;
        absent_is_none(map.remove(&key))
            .map(drop)
            .map_err(|source| Error::map(name, "remove from", source))
    }

    /// Every entry. One that changes concurrently may be missing, or appear twice.
    pub(super) fn all(&self) -> Result<Vec<(K, V)>, Error> {
        let Self { name, map } = self;
        map.iter()
            .collect::<Result<_, _>>()
            .map_err(|source| Error::map(name, "read", source))
    }

    /// Every key, with the same limitation.
    pub(super) fn keys(&self) -> Result<Vec<K>, Error> {
        let Self { name, map } = self;
        map.keys()
            .collect::<Result<_, _>>()
            .map_err(|source| Error::map(name, "read", source))
    }

    /// Reads an entry.
    pub(super) fn get(&self, key: K) -> Result<Option<V>, Error> {
        let Self { name, map } = self;
        absent_is_none(map.get(&key, 0)).map_err(|source| Error::map(name, "read", source))
    }
}

/// Maps an absent key to `None`.
pub(super) fn absent_is_none<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
