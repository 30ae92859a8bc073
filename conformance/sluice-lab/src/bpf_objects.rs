//! The BPF objects of a subject, while it works and after it was removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::Result;
use aya::{
    maps::MapInfo,
    programs::{
        ProgramInfo,
        links::{FdLink, PinnedLink},
        loaded_links, loaded_programs,
    },
};
use sluice_testbed::interrupt::Interrupt;

/// The kernel frees objects after their last user is gone: a program after a grace period of its readers, and the
/// programs of a program array one after the other. On a busy machine this takes seconds.
const GRACE: Duration = Duration::from_mins(1);
/// The time between two looks at a map.
const PAUSE: Duration = Duration::from_secs(1);
/// The program that a daemon loads for its next Pod.
const PREPARED: &str = "sluice_entry";

/// Kind and id, as a process's `fdinfo` names them.
type Object = (&'static str, u32);

/// Objects, with their names.
#[derive(Default)]
pub struct BpfObjects(BTreeMap<Object, String>);

impl BpfObjects {
    /// The objects that a process has open, and the links below a directory of pins.
    pub fn of(pid: u32, pins: &Path) -> Result<Self> {
        let mut open = BTreeSet::new();
        for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // A descriptor may be closed meanwhile.
            let info = fs::read_to_string(file?.path()).unwrap_or_default();
            open.extend(info.lines().filter_map(object));
        }
        let programs = programs();
        let name = |object: Object| {
            let (kind, id) = object;
            let name = match kind {
                MAP => MapInfo::from_id(id)
                    .ok()
                    .and_then(|map| Some(map.name_as_str()?.to_owned())),
                _ => programs.get(&object).cloned(),
            };
            (object, name.unwrap_or_default())
        };
        let mut found: BTreeMap<_, _> = open.into_iter().map(name).collect();
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

    /// Numbers of the programs, without the one that is prepared for the next Pod.
    pub fn programs(&self) -> BTreeSet<u32> {
        let programs =
            (self.0.iter()).filter(|((kind, _), name)| *kind == PROGRAM && *name != PREPARED);
        programs.map(|((_, id), _)| *id).collect()
    }

    /// Waits for the objects to go; returns those that stay.
    ///
    /// Programs and links come first. Then it looks at each map once a second: a look opens the map, and the kernel
    /// clears a program array whenever its last descriptor is closed. If that happens twice before the first clearing
    /// has run, the map stays for ever (`prog_array_map_clear` takes a reference for each, and `schedule_work` runs once).
    pub fn wait_gone(&self, interrupt: &Interrupt) -> Result<Vec<String>> {
        let mut left = Vec::new();
        interrupt.wait(GRACE, || {
            let mut now = programs();
            now.extend(
                loaded_links()
                    .flatten()
                    .map(|link| ((LINK, link.id()), String::new())),
            );
            left = self.those(|object| now.contains_key(object));
            Ok(left.is_empty())
        })?;
        if !left.is_empty() {
            return Ok(left);
        }
        interrupt.wait(GRACE, || {
            left = self.those(|(kind, id)| *kind == MAP && MapInfo::from_id(*id).is_ok());
            if !left.is_empty() {
                thread::sleep(PAUSE);
            }
            Ok(left.is_empty())
        })?;
        Ok(left)
    }

    fn those(&self, wanted: impl Fn(&Object) -> bool) -> Vec<String> {
        let those = self.0.iter().filter(|(object, _)| wanted(object));
        those
            .map(|((kind, id), name)| format!("BPF {kind} {id} {name}"))
            .collect()
    }
}

const PROGRAM: &str = "prog_id";
const MAP: &str = "map_id";
const LINK: &str = "link_id";

/// Every program of the machine. One that goes away meanwhile is left out.
fn programs() -> BTreeMap<Object, String> {
    let name = |program: ProgramInfo| {
        let name = program.name_as_str().unwrap_or_default().to_owned();
        ((PROGRAM, program.id()), name)
    };
    loaded_programs().flatten().map(name).collect()
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
