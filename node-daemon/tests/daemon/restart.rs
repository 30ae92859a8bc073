//! Restarts of the daemon: unchanged programs are adopted.

use std::{collections::BTreeMap, fs};

use sluice_api::{Status, path};

use crate::node::Daemon;

fn status(daemon: &Daemon) -> Status {
    daemon.get(path::STATUS).ok()
}

/// The IDs of the programs by their names.
fn ids(status: Status) -> BTreeMap<String, u32> {
    let programs = status.programs.into_iter();
    programs.map(|one| (one.name, one.id)).collect()
}

#[test]
fn restarted_daemon_adopts_unchanged_programs() {
    let mut daemon = Daemon::start("adopt");
    let first = status(&daemon);
    assert!(!first.programs_adopted);
    let loaded = ids(first);
    for crashes in [true, false] {
        if crashes {
            daemon.crash();
        } else {
            daemon.stop();
        }
        daemon.restart();
        let next = status(&daemon);
        assert!(next.programs_adopted && next.ready, "{:?}", next.problems);
        assert_eq!(ids(next), loaded);
        let printed = daemon.ask(&["status"]);
        assert!(printed.contains(", adopted, unchanged"), "{printed}");
    }

    // With other constants the code differs.
    daemon.stop();
    fs::write(
        daemon.directory.path().join("sluiced.toml"),
        "acceleration = \"all\"\n",
    )
    .unwrap();
    daemon.restart();
    let changed = status(&daemon);
    assert!(!changed.programs_adopted && changed.ready);
    let changed = ids(changed);
    assert!(loaded.iter().all(|(name, id)| changed[name] != *id));
}
