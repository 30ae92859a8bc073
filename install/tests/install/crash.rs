//! The installer is killed at every moment at which it changes something, and started again.

use std::os::unix::process::ExitStatusExt as _;

use crate::host::{CHAINED, Host, LIST, PLUGIN, Tree};

const SINGLE: &str = "{\"name\":\"n\",\r\n\"type\":\"bridge\"}";

/// A run that is killed at its nth moment; `false` if it has fewer.
fn is_killed(host: &Host, job: &str, arguments: &[&str], moment: usize) -> bool {
    let mut command = host.command(job);
    command.args(arguments);
    command.env("FAILPOINTS", format!("crash={moment}*off->return"));
    let status = command.output().unwrap().status;
    let killed = status.signal() == Some(9);
    assert!(killed || status.success(), "{status}");
    killed
}

/// Kills a job at every moment on a host that was made ready for it. Run again, it must get as far
/// as undisturbed; and an uninstall must leave nothing, with or without that.
fn survive(files: &[(&str, &str)], prepare: fn(&Host), job: &str, arguments: &[&str]) -> usize {
    let ready = || {
        let host = Host::with(files);
        let before = host.tree();
        prepare(&host);
        (host, before)
    };
    let (undisturbed, _) = ready();
    assert!(undisturbed.run(job, arguments).status.success());
    let expected: Tree = undisturbed.tree();
    for (moment, again) in (0..).flat_map(|moment| [(moment, true), (moment, false)]) {
        let (host, before) = ready();
        let killed = is_killed(&host, job, arguments, moment);
        assert!(host.is_networked(), "moment {moment}: {:?}", host.tree());
        if again {
            assert!(host.run(job, arguments).status.success());
            assert_eq!(host.tree(), expected, "moment {moment}");
            assert_eq!(host.plugin().exists(), undisturbed.plugin().exists());
        }
        host.succeed("uninstall");
        host.assert_clean(&before);
        if !killed {
            return moment;
        }
    }
    unreachable!("the moments end");
}

fn nothing(_: &Host) {}

fn installed(host: &Host) {
    host.succeed("install");
}

#[test]
fn killed_install_is_completed_by_the_next_run() {
    let moments = survive(&[("10-calico.conflist", LIST)], nothing, "install", &[]);
    assert!(moments > 8, "{moments}");
    survive(&[("10-n.conf", SINGLE)], nothing, "install", &[]);
    survive(
        &[("10-n.conf", SINGLE)],
        nothing,
        "install",
        &["--mode", "standalone"],
    );
}

#[test]
fn killed_uninstall_is_completed_by_the_next_run() {
    let moments = survive(&[("10-calico.conflist", LIST)], installed, "uninstall", &[]);
    assert!(moments > 8, "{moments}");
    survive(&[("10-n.conf", SINGLE)], installed, "uninstall", &[]);
}

#[test]
fn killed_change_is_completed_by_the_next_run() {
    let own = &["--mode", "standalone"];
    survive(&[("10-n.conf", SINGLE)], installed, "install", own);
    let socket = &["--socket", "/run/other.sock"];
    survive(&[("10-n.conf", SINGLE)], installed, "install", socket);
}

#[test]
fn an_edit_made_between_a_crash_and_the_next_run_stays() {
    for moment in 0.. {
        let host = Host::with(&[("10-calico.conflist", LIST)]);
        let killed = is_killed(&host, "install", &[], moment);
        let edit = |text: String| text.replace("\"calico\"", "\"calico\", \"mtu\": 1400");
        host.write("10-calico.conflist", &edit(host.read("10-calico.conflist")));
        host.write("20-new.conflist", LIST);
        host.succeed("install");
        assert_eq!(host.read("10-calico.conflist"), edit(CHAINED.to_owned()));
        host.succeed("uninstall");
        assert_eq!(host.read("10-calico.conflist"), edit(LIST.to_owned()));
        assert_eq!(host.read("20-new.conflist"), LIST);
        if !killed {
            break;
        }
    }
}

#[test]
fn an_edit_made_during_a_run_stays() {
    let host = Host::with(&[("10-calico.conflist", LIST)]);
    let mut install = host.command("install");
    install.env("FAILPOINTS", "planned=1*sleep(400)->off");
    let mut install = install.spawn().unwrap();
    while !host.plugin().exists() {
        assert_eq!(install.try_wait().unwrap(), None);
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    let edit = |text: &str| text.replace("calico", "cilium-cni");
    host.write("10-calico.conflist", &edit(LIST));
    assert!(install.wait().unwrap().success());
    assert_eq!(host.read("10-calico.conflist"), edit(CHAINED));
    host.succeed("uninstall");
    assert_eq!(host.read("10-calico.conflist"), edit(LIST));
}

#[test]
fn plugin_is_complete_while_configured() {
    for moment in 0.. {
        let host = Host::with(&[("10-calico.conflist", LIST)]);
        let killed = is_killed(&host, "install", &[], moment);
        if host.read("10-calico.conflist") == CHAINED {
            assert_eq!(std::fs::read(host.plugin()).unwrap(), PLUGIN);
        }
        installed(&host);
        is_killed(&host, "uninstall", &[], moment);
        assert!(host.plugin().exists() || host.read("10-calico.conflist") == LIST);
        if !killed {
            break;
        }
    }
}
