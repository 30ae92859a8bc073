//! What goes wrong is said, with what to do, and leaves nothing half done.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command},
};

use crate::host::{CHAINED, Host, LIST};

/// Runs a job that must fail, and returns what it says.
fn fail(host: &Host, job: &str) -> String {
    let output = host.run(job, &[]);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_plugin_that_was_not_built_is_named_and_nothing_is_changed() {
    let host = Host::with(&[("10-calico.conflist", LIST)]);
    fs::remove_file(host.path("image/sluice-cni")).unwrap();
    let said = fail(&host, "install");
    assert!(said.contains("image/sluice-cni"), "{said}");
    assert!(said.contains("--plugin"), "{said}");
    assert_eq!(host.read("10-calico.conflist"), LIST);
    assert!(!host.plugin().exists());
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let host = Host::with(&[("10-calico.conflist", LIST)]);
    let install = host.command("install");
    let installer = install
        .get_args()
        .map(|argument| argument.to_str().unwrap());
    // A mount that only this process sees, since root may write to every directory.
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec"])
        .arg("mount --bind \"$0\" \"$0\"; mount -o remount,bind,ro \"$0\"; exec \"$@\"")
        .arg(&host.conf)
        .arg(install.get_program())
        .args(installer)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("10-calico.conflist"), "{said}");
    assert!(
        said.contains("mount it so that it can be written"),
        "{said}"
    );
    assert_eq!(host.read("10-calico.conflist"), LIST);
    let before = host.tree();
    host.succeed("uninstall");
    host.assert_clean(&before);
}

#[test]
fn an_installation_elsewhere_is_not_forgotten() {
    let mut host = Host::with(&[("10-calico.conflist", LIST)]);
    host.succeed("install");
    let first = host.conf.clone();
    host.conf = host.path("other");
    for job in ["install", "uninstall", "status"] {
        let said = fail(&host, job);
        assert!(said.contains(first.to_str().unwrap()), "{said}");
        assert!(said.contains("uninstall there first"), "{said}");
    }
    assert!(!host.conf.exists());
}

#[test]
fn installers_take_turns() {
    let host = Host::with(&[("10-calico.conflist", LIST)]);
    let before = host.tree();
    let start = |number: usize| host.command(["install", "uninstall"][number % 2]).spawn();
    let installers: Vec<_> = (0..10).map(|number| start(number).unwrap()).collect();
    for mut installer in installers {
        assert!(installer.wait().unwrap().success());
    }
    host.succeed("install");
    assert_eq!(host.read("10-calico.conflist"), CHAINED);
    host.succeed("uninstall");
    host.assert_clean(&before);
}

#[test]
fn an_uninstall_without_an_installation_takes_out_what_it_recognises() {
    let host = Host::with(&[("10-calico.conflist", LIST)]);
    let before = host.tree();
    host.succeed("uninstall");
    host.assert_clean(&before);

    host.succeed("install");
    fs::remove_dir_all(host.path("state")).unwrap();
    host.succeed("uninstall");
    assert_eq!(host.tree(), before);
    assert!(!host.plugin().exists());
}

/// An uninstall that has taken the configuration back and now waits.
fn uninstall_waiting(host: &mut Host) -> Child {
    host.grace = 1;
    let mut uninstall = host.command("uninstall").spawn().unwrap();
    while host.read("10-calico.conflist") != LIST {
        assert_eq!(uninstall.try_wait().unwrap(), None);
    }
    assert!(host.plugin().exists());
    uninstall
}

#[test]
fn the_configuration_goes_first_and_the_plugin_after_the_grace_period() {
    let mut host = Host::with(&[("10-calico.conflist", LIST)]);
    host.succeed("install");
    assert!(uninstall_waiting(&mut host).wait().unwrap().success());
    assert!(!host.plugin().exists());
}

#[test]
fn an_installation_within_the_grace_period_stays() {
    let mut host = Host::with(&[("10-calico.conflist", LIST)]);
    host.succeed("install");
    let mut uninstall = uninstall_waiting(&mut host);
    host.succeed("install");
    assert!(uninstall.wait().unwrap().success());
    assert!(host.plugin().exists());
    assert_eq!(host.read("10-calico.conflist"), CHAINED);
}

#[test]
fn an_uninstall_that_ends_within_the_grace_period_is_finished_by_the_next() {
    let mut host = Host::with(&[("10-calico.conflist", LIST)]);
    let before = host.tree();
    host.succeed("install");
    let mut uninstall = uninstall_waiting(&mut host);
    uninstall.kill().unwrap();
    uninstall.wait().unwrap();
    assert!(host.plugin().exists());
    host.succeed("uninstall");
    host.assert_clean(&before);
}

#[test]
fn state_directory_of_others_is_refused() {
    let host = Host::with(&[("10-calico.conflist", LIST)]);
    let state = host.path("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    let said = fail(&host, "install");
    assert!(
        said.contains("cannot lock") && said.contains("mode 0777"),
        "{said}"
    );
    assert_eq!(host.read("10-calico.conflist"), LIST);
}

#[test]
fn hostile_file_names_are_shown_in_one_line() {
    let name = "05-a\nERROR forged\u{1b}[2J\u{202e}.conf";
    let host = Host::with(&[("10-calico.conflist", LIST), (name, "{")]);
    let shown = "05-a\\nERROR forged\\u{1b}[2J\\u{202e}.conf";
    let table = String::from_utf8(host.run("status", &[]).stdout).unwrap();
    let json = String::from_utf8(host.run("status", &["--json"]).stdout).unwrap();
    let log = host.succeed("install");
    for text in [&table, &log] {
        assert!(text.contains(shown), "{text}");
    }
    for text in [table, json, log] {
        let safe = |one| (' '..='~').contains(&one) || one == '\n';
        assert!(text.chars().all(safe), "{text:?}");
        assert!(
            !text.lines().any(|line| line.starts_with("ERROR")),
            "{text}"
        );
    }
}
