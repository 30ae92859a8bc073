//! The watcher, with a real directory and real events.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, ChildStderr, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::host::{CHAINED, Host, LIST, PLUGIN};

/// Maximum time of a repair.
const SOON: Duration = Duration::from_secs(1);
/// In which a watcher that reacts to itself would do so many times.
const A_WHILE: Duration = Duration::from_millis(700);

struct Watcher {
    process: Child,
    said: Receiver<String>,
}

impl Watcher {
    /// Returns once it watches.
    fn start(host: &Host) -> Self {
        Self::start_with(host, &[])
    }

    fn start_with(host: &Host, arguments: &[&str]) -> Self {
        let mut command = host.command("run");
        let mut process = command
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = lines(process.stderr.take().unwrap());
        let watcher = Self { process, said };
        watcher.await_line("watching");
        watcher
    }

    fn await_line(&self, part: &str) {
        let mut lines = std::iter::from_fn(|| self.said.recv_timeout(10 * SOON).ok());
        let said = lines.any(|line| line.contains(part));
        assert!(said, "it does not say '{part}'");
    }

    /// Its output since the last call.
    fn said(&self) -> Vec<String> {
        self.said.try_iter().collect()
    }

    fn end(mut self, signal: Signal) {
        self.signal(signal);
        assert!(self.process.wait().unwrap().success());
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// How often it slept and was woken.
    fn switches(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = fs::read_to_string(path).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("voluntary_ctxt"));
        line.unwrap().rsplit('\t').next().unwrap().parse().unwrap()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn lines(stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Waits until something holds, and returns how long that took.
fn within(limit: Duration, what: &str, holds: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

fn calico() -> Host {
    Host::with(&[("10-calico.conflist", LIST)])
}

#[test]
fn external_changes_are_repaired_within_a_second() {
    let host = calico();
    let _watcher = Watcher::start(&host);
    assert_eq!(host.read("10-calico.conflist"), CHAINED);

    host.write("10-calico.conflist", LIST);
    within(SOON, "rewritten in place", || {
        host.read("10-calico.conflist") == CHAINED
    });

    let newer = LIST.replace("calico", "cilium-cni");
    fs::write(host.path("new"), &newer).unwrap();
    fs::rename(host.path("new"), host.conf.join("10-calico.conflist")).unwrap();
    let chained = CHAINED.replace("calico", "cilium-cni");
    within(SOON, "replaced", || {
        host.read("10-calico.conflist") == chained
    });

    fs::remove_file(host.plugin()).unwrap();
    let is_back = || fs::read(host.plugin()).is_ok_and(|plugin| plugin == PLUGIN);
    within(SOON, "plugin removed", is_back);
}

#[test]
fn the_entry_follows_files_that_appear_and_disappear() {
    let host = Host::new();
    let watcher = Watcher::start(&host);
    host.write("50-late.conflist", LIST);
    within(SOON, "the first file", || {
        host.read("50-late.conflist") == CHAINED
    });
    host.write("10-first.conf", r#"{"name":"n","type":"bridge"}"#);
    within(SOON, "one before it", || {
        host.read("50-late.conflist") == LIST
            && host.read("10-first-sluice.conflist").contains("sluice-cni")
    });
    fs::remove_file(host.conf.join("50-late.conflist")).unwrap();
    fs::remove_dir_all(&host.conf).unwrap();
    within(SOON, "the directory", || host.conf.exists());
    host.write("10-calico.conflist", LIST);
    within(SOON, "in the new directory", || {
        host.read("10-calico.conflist") == CHAINED
    });
    watcher.end(Signal::SIGTERM);
}

#[test]
fn target_of_a_symbolic_link_is_watched() {
    let host = Host::new();
    fs::create_dir(host.path("far")).unwrap();
    let real = host.path("far/real");
    fs::write(&real, LIST).unwrap();
    std::os::unix::fs::symlink(&real, host.conf.join("10-calico.conflist")).unwrap();
    let _watcher = Watcher::start(&host);
    fs::write(&real, LIST).unwrap();
    within(SOON, "behind a link", || {
        host.read("10-calico.conflist") == CHAINED
    });
    assert!(host.conf.join("10-calico.conflist").is_symlink());
}

#[test]
fn own_writes_do_not_trigger_repairs() {
    let host = calico();
    let watcher = Watcher::start(&host);
    host.write("10-calico.conflist", LIST);
    watcher.await_line("repaired");
    thread::sleep(A_WHILE);
    assert_eq!(watcher.said(), Vec::<String>::new());
    let before = watcher.switches();
    thread::sleep(A_WHILE);
    assert_eq!(
        watcher.switches(),
        before,
        "it must sleep when nothing happens"
    );
}

#[test]
fn repeated_reverts_are_repaired_with_backoff() {
    let host = calico();
    let watcher = Watcher::start(&host);
    let start = Instant::now();
    let mut repairs = 0;
    while start.elapsed() < 4 * SOON {
        if host.read("10-calico.conflist") == CHAINED {
            repairs += 1;
            host.write("10-calico.conflist", LIST);
        }
        thread::sleep(Duration::from_millis(5));
    }
    watcher.await_line("keeps reverting");
    assert!((5..9).contains(&repairs), "{repairs}");
    watcher.end(Signal::SIGINT);
}

#[test]
fn unserved_network_loses_the_entry() {
    let host = calico();
    let watcher = Watcher::start(&host);
    let with_version = |text: &str| text.replacen('{', "{\n  \"cniVersion\": \"9.9.9\",", 1);
    host.write("10-calico.conflist", &with_version(CHAINED));
    watcher.await_line("does not speak CNI 9.9.9");
    within(SOON, "taken back", || {
        host.read("10-calico.conflist") == with_version(LIST)
    });
    host.write("10-calico.conflist", LIST);
    within(SOON, "a version that is served", || {
        host.read("10-calico.conflist") == CHAINED
    });
}

#[test]
fn copy_keeps_what_other_installers_add() {
    let host = calico();
    let watcher = Watcher::start_with(&host, &["--mode", "standalone"]);
    let own = "00-00-sluice.conflist";
    let added = host
        .read(own)
        .replace("true}}\n", "true}},\n    {\"type\": \"istio-cni\"}\n");
    host.write(own, &added);
    host.write("10-calico.conflist", &LIST.replace("calico", "cilium-cni"));
    let expected = added.replace("\"calico\"", "\"cilium-cni\"");
    within(SOON, "the copy follows", || host.read(own) == expected);
    watcher.end(Signal::SIGTERM);
    let said = host.succeed("uninstall");
    assert!(
        said.contains("with the plugins that others added to it: istio-cni"),
        "{said}"
    );
}

#[test]
fn unhandled_signals_do_not_end_the_daemon() {
    let host = calico();
    let watcher = Watcher::start(&host);
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2] {
        watcher.signal(signal);
        watcher.await_line(signal.as_str());
    }
    host.write("10-calico.conflist", LIST);
    within(SOON, "it still watches", || {
        host.read("10-calico.conflist") == CHAINED
    });
    watcher.end(Signal::SIGTERM);
}

#[test]
fn sigterm_keeps_the_installation() {
    let host = calico();
    let watcher = Watcher::start(&host);
    watcher.end(Signal::SIGTERM);
    assert_eq!(host.read("10-calico.conflist"), CHAINED);
    assert!(host.plugin().exists());
}

#[test]
fn no_repairs_after_uninstall() {
    let host = calico();
    let before = host.tree();
    let watcher = Watcher::start(&host);
    host.succeed("uninstall");
    watcher.await_line("uninstalled");
    host.write("10-calico.conflist", LIST);
    thread::sleep(A_WHILE);
    host.assert_clean(&before);
    host.succeed("install");
    host.write("10-calico.conflist", LIST);
    within(SOON, "installed again", || {
        host.read("10-calico.conflist") == CHAINED
    });
}

#[test]
fn failed_repairs_are_logged_once_and_retried() {
    let host = calico();
    let watcher = Watcher::start(&host);
    let image = host.path("image/sluice-cni");
    fs::rename(&image, host.path("gone")).unwrap();
    for _ in 0..3 {
        host.write("10-calico.conflist", LIST);
        thread::sleep(Duration::from_millis(200));
    }
    watcher.await_line("repair failed");
    assert!(
        !watcher
            .said()
            .iter()
            .any(|line| line.contains("repair failed"))
    );
    fs::rename(host.path("gone"), &image).unwrap();
    host.write("10-calico.conflist", LIST);
    within(SOON, "possible again", || {
        host.read("10-calico.conflist") == CHAINED
    });
}
