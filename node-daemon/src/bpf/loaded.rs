//! The programs and maps of this daemon, loaded from the object or opened at their pins.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use sluice_abi::maps;

use super::{Error, cgroup_prog, pins::Generation};

/// Programs and maps by their names in the object.
pub(super) struct Loaded {
    maps: HashMap<&'static str, Map>,
    programs: BTreeMap<&'static str, OwnedFd>,
    are_adopted: bool,
}

impl Loaded {
    /// Takes the maps of a loaded object, and these programs of it.
    pub(super) fn new(mut object: Ebpf, names: &[&'static str]) -> Result<Self, Error> {
        let mut programs = BTreeMap::new();
        for name in names {
            let program = object.program(name).ok_or(Error::Missing { name })?;
            let fd = program
                .fd()
                .and_then(|fd| Ok(fd.as_fd().try_clone_to_owned()?));
            let fd = fd.map_err(|source| Error::program(name, source))?;
            programs.insert(*name, fd);
        }
        let maps = (maps::ALL.into_iter())
            .filter_map(|name| Some((name, object.take_map(name)?)))
            .collect();
        Ok(Self {
            maps,
            programs,
            are_adopted: false,
        })
    }

    /// Opens the pins of every map and of these programs. `None` if one is absent.
    pub(super) fn open(generation: &Generation, names: &[&'static str]) -> Option<Self> {
        let map = |name: &'static str| {
            let data = MapData::from_pin(generation.map(name)).ok()?;
            Some((name, Map::from_map_data(data).ok()?))
        };
        let program = |name: &&'static str| {
            let fd = cgroup_prog::pinned(&generation.program(name)).ok()??;
            Some((*name, fd))
        };
        Some(Self {
            maps: maps::ALL.into_iter().map(map).collect::<Option<_>>()?,
            programs: names.iter().map(program).collect::<Option<_>>()?,
            are_adopted: true,
        })
    }

    /// Whether an earlier daemon loaded the programs.
    pub(super) fn are_adopted(&self) -> bool {
        self.are_adopted
    }

    /// A map that was not taken.
    pub(super) fn map(&self, name: &str) -> Option<&Map> {
        self.maps.get(name)
    }

    /// Removes a map from this collection, and returns it.
    pub(super) fn take_map(&mut self, name: &str) -> Option<Map> {
        self.maps.remove(name)
    }

    /// The descriptor of a program.
    pub(super) fn program(&self, name: &'static str) -> Result<BorrowedFd<'_>, Error> {
        let program = self.programs.get(name).ok_or(Error::Missing { name })?;
        Ok(program.as_fd())
    }

    /// The programs, in the order of their names.
    pub(super) fn programs(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        (self.programs.iter()).map(|(name, program)| (*name, program.as_fd()))
    }
}
