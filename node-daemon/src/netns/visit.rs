//! Visits: opens and reads many namespaces, one after the other.

use std::{
    collections::{BTreeSet, HashMap},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use super::{Error, Interface, Netns, NetnsFile, enter, links, syscalls};

/// A namespace that was opened and read in one visit.
#[derive(Debug)]
pub(crate) struct Visited {
    /// The namespace.
    pub(crate) netns: Netns,
    /// Its interfaces.
    pub(crate) interfaces: Vec<Interface>,
}

/// Opens and reads the namespaces at some paths. One thread enters them one after the other. It ends in the last
/// one. Returns what `keep` keeps of each. A namespace that cannot be opened or
/// read is absent.
pub(crate) fn visit_all<'a, T: Send>(
    paths: impl Iterator<Item = &'a Path>,
    keep: impl Fn(Visited) -> T + Sync,
) -> HashMap<PathBuf, T> {
    let paths: BTreeSet<&Path> = paths.collect();
    let visit = |path: &'a Path| {
        let visited = NetnsFile::open(path).and_then(NetnsFile::visit);
        Some((path.to_owned(), keep(visited.ok()?)))
    };
    let visit_all = || paths.into_iter().filter_map(visit).collect();
    enter::in_new_thread(visit_all).unwrap_or_default()
}

impl Netns {
    /// Reads it, as [`visit_all`] does.
    pub(crate) fn visit(self) -> Result<Visited, Error> {
        let interfaces = self.interfaces()?;
        Ok(Visited {
            netns: self,
            interfaces,
        })
    }
}

impl NetnsFile {
    /// Moves the calling thread into it, and reads it.
    fn visit(self) -> Result<Visited, Error> {
        enter::enter(self.file.as_fd())?;
        let cookie = syscalls::netns_cookie_here()?;
        Ok(Visited {
            interfaces: links::interfaces()?,
            netns: self.identified(cookie),
        })
    }
}
