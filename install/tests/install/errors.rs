//! Errors name the cause and the remedy, and leave no partial change.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command},
};

use crate::host::{CHAINED, Host, LIST};

/// Runs a command that must fail, and returns its output.
fn fail(host: &Host, job: &str) -> String {
    let output = host.run(job, &[]);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn missing_plugin_is_named_and_changes_nothing() {
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
fn immutable_file_is_named_with_the_remedy() {
    let host = Host::with(&[("10-calico.conflist", LIST)]);
    let path = host.conf.join("10-calico.conflist");
    let chattr = |how: &str| Command::new("chattr").arg(how).arg(&path).status().unwrap();
    assert!(chattr("+i").success());
    let said = fail(&host, "install");
    assert!(chattr("-i").success());
    assert!(said.contains("is immutable: run 'chattr -i"), "{said}");
    assert!(!said.contains("run as root"), "{said}");
    let before = host.tree();
    host.succeed("uninstall");
    host.assert_clean(&before);
}

#[test]
fn file_with_two_names_is_edited_under_both() {
    let host = Host::with(&[("10-calico.conflist", LIST)]);
    let other = host.path("image/other-name");
    fs::hard_link(host.conf.join("10-calico.conflist"), &other).unwrap();
    host.succeed("install");
    assert_eq!(fs::read_to_string(&other).unwrap(), CHAINED);
    host.succeed("uninstall");
    assert_eq!(fs::read_to_string(&other).unwrap(), LIST);
    assert_eq!(host.read("10-calico.conflist"), LIST);
}

#[test]
fn unserved_version_is_refused_before_any_change() {
    let list = LIST.replacen('{', "{\n  \"cniVersion\": \"9.9.9\",", 1);
    let host = Host::with(&[("10-calico.conflist", &list)]);
    let said = fail(&host, "install");
    assert!(
        said.contains("10-calico.conflist would add no Pod"),
        "{said}"
    );
    assert!(said.contains("does not speak CNI 9.9.9"), "{said}");
    assert_eq!(host.read("10-calico.conflist"), list);
    assert!(!host.plugin().exists());
}

#[test]
fn plugin_that_cannot_start_is_not_installed() {
    let host = Host::with(&[("10-calico.conflist", LIST)]);
    fs::write(host.path("image/sluice-cni"), "\x7fELF and so on").unwrap();
    let said = fail(&host, "install");
    assert!(said.contains("the plugin cannot be started"), "{said}");
    assert_eq!(host.read("10-calico.conflist"), LIST);
    assert!(!host.plugin().exists());
}

#[test]
fn plugin_stays_until_its_last_pod_ends() {
    let host = Host::with(&[("10-calico.conflist", LIST)]);
    let before = host.tree();
    host.succeed("install");
    let cached = host.path("cache/results/n-a-eth0");
    fs::create_dir_all(cached.parent().unwrap()).unwrap();
    // {"plugins":[{"type":"bridge"},{"type":"sluice-cni"}]}
    let list = "eyJwbHVnaW5zIjpbeyJ0eXBlIjoiYnJpZGdlIn0seyJ0eXBlIjoic2x1aWNlLWNuaSJ9XX0=";
    fs::write(
        &cached,
        format!(r#"{{"kind":"cniCacheV1","config":"{list}"}}"#),
    )
    .unwrap();
    let said = host.succeed("uninstall");
    assert!(said.contains("cache/results/n-a-eth0"), "{said}");
    assert!(said.contains("again when they have ended"), "{said}");
    assert_eq!(host.tree(), before);
    assert!(host.plugin().exists());
    let status = String::from_utf8(host.run("status", &[]).stdout).unwrap();
    assert!(status.contains("plugin stays  for 1 Pods"), "{status}");
    fs::remove_dir_all(host.path("cache")).unwrap();
    host.succeed("uninstall");
    host.assert_clean(&before);
}

#[test]
fn second_directory_needs_an_uninstall_first() {
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
fn log_filter_that_is_no_level_is_refused() {
    let host = Host::new();
    for (filter, is_good) in [
        ("inof", false),
        ("json", false),
        ("debug", true),
        ("x=trace,warn", true),
    ] {
        let output = host.run("status", &["--log", filter]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            !said.contains("neither a level"),
            is_good,
            "{filter}: {said}"
        );
    }
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
fn uninstall_without_state_removes_recognised_entries() {
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
fn uninstall_removes_the_configuration_before_the_plugin() {
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
fn uninstall_in_the_grace_period_is_completed_by_the_next() {
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
