//! Tests of restarts with pinned programs.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use sluice_abi::{ABI_VERSION, Reason};

use super::lab::{APP, Lab, WORLD};
use super::sockets::{call, listen};

/// The directory of pinned programs.
fn pins(lab: &Lab) -> PathBuf {
    lab.pins
        .directory()
        .join(format!("v{ABI_VERSION}/programs"))
}

/// The IDs of the programs by their names.
fn ids(lab: &Lab) -> BTreeMap<String, u32> {
    let programs = lab.datapath.programs().unwrap();
    programs.into_iter().map(|one| (one.name, one.id)).collect()
}

/// Restarts the daemon after a change below the directory of pinned programs, and expects new programs.
fn expect_loaded(lab: Lab, change: impl FnOnce(&Path)) -> Lab {
    let before = ids(&lab);
    change(&pins(&lab));
    let lab = lab.restart();
    assert!(!lab.datapath.programs_are_adopted());
    let after = ids(&lab);
    assert!(before.iter().all(|(name, id)| after[name] != *id));
    assert!(lab.datapath.missing().unwrap().is_empty());
    lab
}

#[test]
fn unchanged_programs_keep_their_ids() {
    let lab = Lab::meshed();
    assert!(!lab.datapath.programs_are_adopted());
    let before = ids(&lab);
    let lab = lab.restart().restart();
    assert!(lab.datapath.programs_are_adopted());
    assert_eq!(ids(&lab), before);
    assert!(lab.datapath.missing().unwrap().is_empty());
    let proxy = listen(&lab.pod, "0.0.0.0:15001");
    let to = format!("{}:80", WORLD[0]);
    assert!(call(&lab.pod, APP, &to).is_ok());
    assert_eq!(lab.count(Reason::OutboundToProxy), 1);
    drop(proxy);
}

#[test]
fn other_constants_load_the_programs() {
    let lab = Lab::meshed();
    let before = ids(&lab);
    let lab = lab.restart_as(false);
    assert!(!lab.datapath.programs_are_adopted());
    let after = ids(&lab);
    assert!(after.iter().all(|(name, id)| before[name] != *id));
    let lab = lab.restart_as(false);
    assert!(lab.datapath.programs_are_adopted());
    assert_eq!(ids(&lab), after);
}

#[test]
fn other_object_loads_the_programs() {
    let lab = Lab::meshed();
    let lab = expect_loaded(lab, |programs| {
        let seal = programs.join("seal");
        let target = fs::read_link(&seal).unwrap();
        let (_, state) = target.to_str().unwrap().split_once('-').unwrap();
        fs::remove_file(&seal).unwrap();
        symlink(format!("{:016x}-{state}", 1), &seal).unwrap();
    });
    assert!(lab.restart().datapath.programs_are_adopted());
}

#[test]
fn pins_of_other_programs_are_not_adopted() {
    let lab = Lab::meshed();
    let lab = expect_loaded(lab, |programs| {
        fs::remove_file(programs.join("connect4")).unwrap();
        fs::rename(programs.join("root_connect4"), programs.join("connect4")).unwrap();
    });
    let lab = expect_loaded(lab, |programs| {
        let [own, other, free] =
            ["connect4", "root_connect4", "free"].map(|one| programs.join(one));
        fs::rename(&own, &free).unwrap();
        fs::rename(&other, &own).unwrap();
        fs::rename(&free, &other).unwrap();
    });
    let lab = expect_loaded(lab, |programs| {
        fs::remove_file(programs.join("seal")).unwrap();
    });
    // The programs use the map that is gone.
    expect_loaded(lab, |programs| {
        let maps = programs.with_file_name("maps");
        let [own, other] = ["foreign_found", "netns_found"].map(|one| maps.join(one));
        fs::rename(&own, maps.join("free")).unwrap();
        fs::rename(&other, &own).unwrap();
        fs::rename(maps.join("free"), &other).unwrap();
    });
}
