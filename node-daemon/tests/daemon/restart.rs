//! Restarts of the daemon: unchanged programs are adopted, and no Pod is lost.

use std::{collections::BTreeMap, fs};

use sluice_api::{AddResponse, Status, path};

use crate::{
    node::{Daemon, Pod},
    pods::add,
};

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
        "acceleration = \"off\"\n",
    )
    .unwrap();
    daemon.restart();
    let changed = status(&daemon);
    assert!(!changed.programs_adopted && changed.ready);
    let changed = ids(changed);
    assert!(loaded.iter().all(|(name, id)| changed[name] != *id));
}

/// A daemon has some 90 open files, without those of the namespaces.
#[test]
fn daemon_that_cannot_open_the_pods_namespaces_changes_nothing() {
    const PODS: usize = 60;
    let test = "few-files";
    let mut daemon = Daemon::start(test);
    let pods: Vec<_> = (0..PODS)
        .map(|index| {
            let address = format!("10.1.0.{}", 1 + index);
            let pod = Pod::new(&format!("{test}-{index}"), &[&format!("{address}/24")]);
            let request = add(&index.to_string(), &pod.path(), &[&address]);
            assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
            (pod, request.attachment)
        })
        .collect();
    daemon.crash();
    let (code, said) = daemon.rival_launched(&["timeout", "20", "prlimit", "--nofile=110:110"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("lacks descriptors"), "{said}");
    assert_eq!(daemon.processes(), PODS);
    // The daemon raises a limit that it may raise.
    daemon.restart_by(&["prlimit", "--nofile=110:1024"]);
    assert_eq!(status(&daemon).meshed_pods, PODS);
    for (_, attachment) in &pods {
        assert_eq!(daemon.post(path::CHECK, attachment).status, 204);
    }
}
