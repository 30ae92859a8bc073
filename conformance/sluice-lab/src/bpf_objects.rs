//! The BPF objects of a subject, while it works and after it was removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use aya::{
    maps::loaded_maps,
    programs::{
        links::{FdLink, PinnedLink},
        loaded_links, loaded_programs,
    },
};
use sluice_testbed::interrupt::Interrupt;

/// The kernel frees objects after their last user is gone: a program after a grace period of its readers, and the
/// programs of a program array one after the other. On a busy machine this takes seconds.
const GRACE: Duration = Duration::from_mins(1);

/// Kind and id, as a process's `fdinfo` names them.
type Object = (&'static str, u32);

/// Objects, with their names.
#[derive(Default)]
pub struct BpfObjects(BTreeMap<Object, String>);

impl BpfObjects {
    /// The objects that a process has open, and the links below a directory of pins.
    pub fn of(pid: u32, pins: &Path) -> Result<Self> {
        let mut found = BTreeMap::new();
        for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // A descriptor may be closed meanwhile.
            let info = fs::read_to_string(file?.path()).unwrap_or_default();
            found.extend(
                info.lines()
                    .filter_map(object)
                    .map(|one| (one, String::new())),
            );
        }
        for pin in files(pins)? {
            // What is no link is a map, which the process has open.
            let link = PinnedLink::from_pin(&pin).map(FdLink::from);
            if let Ok(info) = link.and_then(|link| link.info()) {
                found.insert((LINK, info.id()), pin.display().to_string());
            }
        }
        Ok(Self(found))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Numbers of the programs.
    pub fn programs(&self) -> BTreeSet<u32> {
        let programs = self.0.keys().filter(|(kind, _)| *kind == PROGRAM);
        programs.map(|(_, id)| *id).collect()
    }

    /// Waits for the objects to go; returns those that stay.
    pub fn wait_gone(&self, interrupt: &Interrupt) -> Result<Vec<String>> {
        let mut left = Vec::new();
        interrupt.wait(GRACE, || {
            let now = loaded();
            left = (self.0.iter())
                .filter_map(|(object, pin)| Some((object, now.get(object)?, pin)))
                .map(|((kind, id), name, pin)| format!("BPF {kind} {id} {name}{pin}"))
                .collect();
            Ok(left.is_empty())
        })?;
        Ok(left)
    }
}

const PROGRAM: &str = "prog_id";
const MAP: &str = "map_id";
const LINK: &str = "link_id";

/// Every object of the machine. One that goes away meanwhile is left out.
fn loaded() -> BTreeMap<Object, String> {
    let mut found = BTreeMap::new();
    for program in loaded_programs().flatten() {
        let name = program.name_as_str().unwrap_or_default().to_owned();
        found.insert((PROGRAM, program.id()), name);
    }
    for map in loaded_maps().flatten() {
        let name = map.name_as_str().unwrap_or_default().to_owned();
        found.insert((MAP, map.id()), name);
    }
    for link in loaded_links().flatten() {
        found.insert((LINK, link.id()), String::new());
    }
    found
}

/// Every file below a directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

fn object(line: &str) -> Option<Object> {
    let (key, value) = line.split_once(':')?;
    let kind = [PROGRAM, MAP, LINK].into_iter().find(|kind| *kind == key)?;
    Some((kind, value.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_recognised_in_fdinfo() {
        assert_eq!(object("prog_id:\t17"), Some((PROGRAM, 17)));
        assert_eq!(object("flags:\t02"), None);
    }
}
