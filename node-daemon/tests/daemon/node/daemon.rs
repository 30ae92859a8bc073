//! The daemon under test, with a private socket, cgroup and BPF file system.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread::{panicking, sleep},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use sluice_abi::{ABI_VERSION, NetnsEntry};
use sluice_testbed::{bpffs::Bpffs, cgroup, mountinfo};
use tempfile::TempDir;

use crate::{
    client::{self, Reply},
    wait,
};

const PATIENCE: Duration = Duration::from_secs(20);
const CONFIG: &str = "sluiced.toml";
const STATE: &str = "pods";

/// The built daemon, with a private socket and cgroup.
pub(crate) struct Daemon {
    process: Child,
    pub(crate) socket: PathBuf,
    pub(crate) directory: TempDir,
    cgroup: PathBuf,
    pins: Bpffs,
}

/// Lines that the daemon logged.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// All lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().expect("a list").clone()
    }

    /// The first line with these parts, as soon as it is logged.
    #[track_caller]
    pub(crate) fn await_line(&self, parts: &[&str]) -> String {
        let has_all = |line: &String| parts.iter().all(|part| line.contains(part));
        let found = || self.lines().into_iter().find(has_all);
        wait::until(
            || found().is_some(),
            || format!("{parts:?} is not in\n{}", self.lines().join("\n")),
        );
        found().expect("the line")
    }
}

impl Daemon {
    pub(crate) fn start(test: &str) -> Self {
        Self::configured(test, "")
    }

    /// Starts a daemon with a configuration file.
    pub(crate) fn configured(test: &str, daemon_config: &str) -> Self {
        Self::launched(&[], test, daemon_config)
    }

    /// Starts a daemon with more arguments.
    pub(crate) fn with_arguments(test: &str, daemon_config: &str, arguments: &[&str]) -> Self {
        Self::spawned(test, daemon_config, |directory, cgroup, pins| {
            let mut command = command(&[], directory, cgroup, pins);
            command.args(arguments);
            command
        })
    }

    /// Starts a daemon by a program that executes it, with the test's directory as `$DIRECTORY`.
    pub(crate) fn launched(launcher: &[&str], test: &str, daemon_config: &str) -> Self {
        Self::spawned(test, daemon_config, |directory, cgroup, pins| {
            command(launcher, directory, cgroup, pins)
        })
    }

    fn spawned(
        test: &str,
        daemon_config: &str,
        command: impl FnOnce(&Path, &Path, &Bpffs) -> Command,
    ) -> Self {
        assert!(geteuid().is_root(), "this test must run as root");
        let cgroup2 = mountinfo::cgroup2().expect("a cgroup2 mount");
        let cgroup = cgroup2.join(format!("sluiced-{test}-{}", std::process::id()));
        fs::create_dir(&cgroup).expect("a cgroup for the test");
        let directory = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .expect("a directory for the socket");
        let socket = directory.path().join("run/sluiced.sock");
        fs::write(directory.path().join(CONFIG), daemon_config).expect("a file");
        let pins = Bpffs::mount().expect("a BPF file system");
        let daemon = Self {
            process: command(directory.path(), &cgroup, &pins)
                .spawn()
                .expect("the daemon starts"),
            socket,
            directory,
            cgroup,
            pins,
        };
        daemon.await_ready();
        daemon
    }

    fn is_ready(&self) -> bool {
        client::try_send(&self.socket, "GET", "/readyz", "").is_some_and(|r| r.status == 200)
    }

    fn await_ready(&self) {
        wait::until(|| self.is_ready(), || "the daemon is not ready");
    }

    /// Starts a second daemon on the same socket. Returns its exit code and output.
    pub(crate) fn rival(&self) -> (Option<i32>, String) {
        self.rival_launched(&[])
    }

    /// Likewise, by a program that executes it.
    pub(crate) fn rival_launched(&self, launcher: &[&str]) -> (Option<i32>, String) {
        let mut command = command(launcher, self.directory.path(), &self.cgroup, &self.pins);
        let output = command.output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The `cgroup.procs` file of its cgroup.
    pub(crate) fn members(&self) -> String {
        self.cgroup.join("cgroup.procs").display().to_string()
    }

    /// The number of entries in `process_ip`.
    pub(crate) fn processes(&self) -> usize {
        let map = self.pins().join(format!("v{ABI_VERSION}/maps/process_ip"));
        let map = aya::maps::MapData::from_pin(map).expect("a pinned map");
        let map = aya::maps::HashMap::<_, u64, [u8; size_of::<NetnsEntry>()]>::try_from(
            aya::maps::Map::HashMap(map),
        );
        map.expect("a hash map").keys().count()
    }

    /// The cgroup root that it serves.
    pub(crate) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Creates a child of that root, and restarts the daemon, which attaches to it.
    pub(crate) fn restart_with_child(&mut self, name: &str) {
        fs::create_dir(self.cgroup.join(name)).expect("a cgroup");
        self.crash();
        self.restart();
    }

    /// Moves a process into a new cgroup below the daemon's.
    pub(crate) fn move_below(&self, process: u32, below: &str) {
        let cgroup = self.cgroup.join(below);
        fs::create_dir_all(&cgroup).expect("a cgroup");
        fs::write(cgroup.join("cgroup.procs"), process.to_string()).expect("a member");
    }

    /// Collects its log from now on.
    pub(crate) fn log(&mut self) -> Log {
        let stderr = self.process.stderr.take().expect("its log is read once");
        let lines = Log::default();
        let written = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                written.0.lock().expect("a list").push(line);
            }
        });
        lines
    }

    /// The `/proc` status of each of its threads.
    pub(crate) fn threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("it runs");
        let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status"));
        tasks
            .map(|task| status(task.expect("a thread")).expect("its status"))
            .collect()
    }

    /// Makes every record older.
    pub(crate) fn age_records(&self, by: Duration) {
        for record in fs::read_dir(self.directory.path().join(STATE)).expect("records") {
            let file = fs::File::open(record.expect("a record").path()).expect("a record");
            let earlier = std::time::SystemTime::now() - by;
            file.set_modified(earlier).expect("its time");
        }
    }

    /// Kills it, as a crash would.
    pub(crate) fn crash(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Starts its successor.
    pub(crate) fn restart(&mut self) {
        self.restart_by(&[]);
    }

    /// Likewise, by a program that executes it.
    pub(crate) fn restart_by(&mut self, launcher: &[&str]) {
        let mut command = command(launcher, self.directory.path(), &self.cgroup, &self.pins);
        self.process = command.spawn().expect("the daemon starts");
        self.await_ready();
    }

    /// Starts a daemon that crashes at the state change with the index `moment` (from 0). `false`
    /// if it crashed before it was ready.
    #[cfg(feature = "failpoints")]
    pub(crate) fn restart_crashing(&mut self, moment: usize) -> bool {
        let when = format!("crash={moment}*off->return");
        let mut command = command(&[], self.directory.path(), &self.cgroup, &self.pins);
        command.env("FAILPOINTS", when.replace("=0*off->", "="));
        self.process = command.spawn().expect("the daemon starts");
        let end = Instant::now() + PATIENCE;
        while !self.is_ready() {
            assert!(Instant::now() < end, "the daemon is neither ready nor dead");
            if self.process.try_wait().expect("its state").is_some() {
                return false;
            }
            sleep(Duration::from_millis(5));
        }
        true
    }

    /// Waits until it has crashed.
    #[cfg(feature = "failpoints")]
    pub(crate) fn await_crash(&mut self) {
        self.process.wait().expect("it ends");
    }

    /// `sluiced detach`.
    pub(crate) fn detach(&self) -> Output {
        self.detach_by(Command::new("env"))
    }

    /// Likewise, by a program that executes it.
    pub(crate) fn detach_by(&self, mut launcher: Command) -> Output {
        launcher
            .arg(env!("CARGO_BIN_EXE_sluiced"))
            .arg("detach")
            .arg("--state")
            .arg(self.directory.path().join(STATE))
            .arg("--bpffs")
            .arg(self.pins())
            .output()
            .expect("it runs")
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.pins.pins()
    }

    /// Stops it, as an operator would. Returns its exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        terminate(&self.process);
        self.process.wait().expect("it ends").code()
    }

    /// Stops it. Returns its log.
    pub(crate) fn final_log(&mut self) -> String {
        self.stop();
        let mut log = String::new();
        let stderr = self.process.stderr.as_mut().expect("a pipe");
        stderr.read_to_string(&mut log).expect("text");
        log
    }

    pub(crate) fn terminate(&self) {
        terminate(&self.process);
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        client::send(&self.socket, "GET", path, "")
    }

    pub(crate) fn post(&self, path: &str, body: &impl serde::Serialize) -> Reply {
        let body = serde_json::to_string(body).expect("a body");
        client::send(&self.socket, "POST", path, &body)
    }

    /// `sluiced doctor` or `sluiced bug-report` for this daemon.
    pub(crate) fn examine(&self, command: &str) -> Command {
        let mut examine = Command::new(env!("CARGO_BIN_EXE_sluiced"));
        examine
            .arg(command)
            .arg("--socket")
            .arg(&self.socket)
            .arg("--bpffs")
            .arg(self.pins())
            .arg("--cgroup")
            .arg(&self.cgroup)
            .arg("--config")
            .arg(self.directory.path().join(CONFIG));
        examine
    }

    /// Runs the daemon's own client.
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_sluiced"))
            .args(arguments)
            .arg("--socket")
            .arg(&self.socket)
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended_before = self.process.try_wait();
        terminate(&self.process);
        let end = Instant::now() + PATIENCE;
        while matches!(self.process.try_wait(), Ok(None)) {
            if Instant::now() > end {
                drop(self.process.kill());
            }
            sleep(Duration::from_millis(10));
        }
        if let (true, Some(stderr)) = (panicking(), &mut self.process.stderr) {
            let mut said = String::new();
            drop(stderr.read_to_string(&mut said));
            eprintln!("the daemon, ended before the test: {ended_before:?}\n{said}");
        }
        // Processes that the test started there and that still run.
        drop(fs::write(self.cgroup.join("cgroup.kill"), "1"));
        while cgroup::remove(&self.cgroup).is_err() && Instant::now() < end {
            sleep(Duration::from_millis(10));
        }
    }
}

fn command(launcher: &[&str], directory: &Path, cgroup: &Path, pins: &Bpffs) -> Command {
    let words = [launcher, &[env!("CARGO_BIN_EXE_sluiced")]].concat();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .env("DIRECTORY", directory)
        .arg("run")
        .arg("--socket")
        .arg(directory.join("run/sluiced.sock"))
        .arg("--state")
        .arg(directory.join(STATE))
        .arg("--config")
        .arg(directory.join(CONFIG))
        .arg("--bpffs")
        .arg(pins.pins())
        .arg("--cgroup")
        .arg(cgroup)
        .stderr(Stdio::piped());
    command
}

fn terminate(process: &Child) {
    let pid = i32::try_from(process.id()).expect("a pid");
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
}
