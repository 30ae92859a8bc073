//! The BPF objects of the machine, before and after.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use anyhow::Result;
use aya::{
    maps::loaded_maps,
    programs::{loaded_links, loaded_programs},
};

use crate::interrupt::Interrupt;

/// The kernel frees objects a little after their last user is gone.
const GRACE: Duration = Duration::from_secs(5);

/// Kind and id, as a process's `fdinfo` names them.
type Object = (&'static str, u32);

/// The objects that exist at one time.
pub(crate) struct Census(BTreeMap<Object, String>);

impl Census {
    /// Counts. An object that goes away meanwhile is left out.
    pub(crate) fn take() -> Self {
        let mut found = BTreeMap::new();
        for program in loaded_programs().flatten() {
            let name = program.name_as_str().unwrap_or_default().to_owned();
            found.insert(("prog_id", program.id()), name);
        }
        for map in loaded_maps().flatten() {
            let name = map.name_as_str().unwrap_or_default().to_owned();
            found.insert(("map_id", map.id()), name);
        }
        for link in loaded_links().flatten() {
            found.insert(("link_id", link.id()), String::new());
        }
        Self(found)
    }

    /// How many objects were not there `before`.
    pub(crate) fn since(&self, before: &Self) -> usize {
        self.0
            .keys()
            .filter(|object| !before.0.contains_key(*object))
            .count()
    }

    /// Waits for the objects in `during` that are not in `self` to go; returns those that stay,
    /// unless a process has them open: then they are not the lab's, whose processes have ended.
    pub(crate) fn left(&self, during: &Self, interrupt: &Interrupt) -> Result<Vec<String>> {
        let mut left = Vec::new();
        interrupt.wait(GRACE, || {
            let (now, held) = (Self::take(), held());
            left = now
                .0
                .iter()
                .filter(|(object, _)| during.0.contains_key(*object))
                .filter(|(object, _)| !self.0.contains_key(*object) && !held.contains(*object))
                .map(|((kind, id), name)| format!("BPF {kind} {id} {name}"))
                .collect();
            Ok(left.is_empty())
        })?;
        Ok(left)
    }
}

/// The objects that processes have open.
fn held() -> BTreeSet<Object> {
    let entries = |path: String| fs::read_dir(path).into_iter().flatten().flatten();
    let mut held = BTreeSet::new();
    for process in entries("/proc".to_owned()) {
        for file in entries(format!("{}/fdinfo", process.path().display())) {
            let Ok(info) = fs::read_to_string(file.path()) else {
                continue;
            };
            held.extend(info.lines().filter_map(object));
        }
    }
    held
}

fn object(line: &str) -> Option<Object> {
    let (key, value) = line.split_once(':')?;
    let kind = ["prog_id", "map_id", "link_id"]
        .into_iter()
        .find(|kind| *kind == key)?;
    Some((kind, value.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_recognised_in_fdinfo() {
        assert_eq!(object("prog_id:\t17"), Some(("prog_id", 17)));
        assert_eq!(object("flags:\t02"), None);
    }
}
