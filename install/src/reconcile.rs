//! Watches the installation, and repairs it.
//!
//! Every event in the directories triggers a check. A check that finds the desired state changes nothing,
//! so Sluice's own writes trigger one check.

use std::{
    collections::{BTreeSet, HashSet},
    os::fd::AsFd as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use tracing::{error, info, warn};

use crate::{
    backoff::Backoff,
    directory::Directory,
    install_state::Phase,
    installation::{Installation, Report},
    spec::{InstallSpec, Paths},
};

/// Delay between a change and the check: programs write files in several steps.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Time until a failed check is repeated without an event.
const RETRY: Duration = Duration::from_secs(10);

/// Installs, then repairs until SIGTERM or SIGINT. SIGHUP starts a check; SIGUSR1 and SIGUSR2 are ignored.
pub(crate) fn run(paths: &Paths, spec: &InstallSpec) -> Result<()> {
    let signals = signals()?;
    let events = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let mut reconciler = Reconciler::new(paths, spec);
    reconciler.install()?;
    let (conf, bin) = (paths.cni_conf.display(), paths.cni_bin.display());
    info!("watching {conf} and {bin}");
    let mut due = None;
    loop {
        // A directory may have changed before the watch began.
        if reconciler.directories(&events)? {
            due = Some(reconciler.backoff.next(Instant::now()));
        }
        let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
        match wait(&signals, &events, timeout)? {
            Event::End => {
                info!("ended");
                return Ok(());
            }
            Event::Change => {
                let next = reconciler.backoff.next(Instant::now() + DEBOUNCE);
                due = Some(due.map_or(next, |due| due.min(next)));
            }
            Event::Due => due = reconciler.reconcile(),
        }
    }
}

/// The signals as a pollable descriptor.
fn signals() -> Result<SignalFd> {
    let signals = SigSet::from_iter([
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ]);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?)
}

enum Event {
    End,
    Change,
    Due,
}

fn wait(signals: &SignalFd, events: &Inotify, timeout: Option<Duration>) -> Result<Event> {
    let timeout = match timeout {
        // Rounded up: the wait must not end before the time.
        Some(timeout) => PollTimeout::try_from(timeout + Duration::from_millis(1))?,
        None => PollTimeout::NONE,
    };
    let mut sources = [
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        PollFd::new(events.as_fd(), PollFlags::POLLIN),
    ];
    poll(&mut sources, timeout)?;
    let [is_signalled, is_changed] = sources.map(|source| source.any().unwrap_or(false));
    if is_signalled {
        return signalled(signals);
    }
    if !is_changed {
        return Ok(Event::Due);
    }
    match events.read_events() {
        Ok(_) | Err(Errno::EAGAIN) => Ok(Event::Change),
        Err(error) => Err(error).context("cannot read what happened in the directories"),
    }
}

fn signalled(signals: &SignalFd) -> Result<Event> {
    let number = signals.read_signal()?.map(|signal| signal.ssi_signo);
    let signal = number.and_then(|number| Signal::try_from(i32::try_from(number).ok()?).ok());
    match signal {
        Some(Signal::SIGTERM | Signal::SIGINT) => Ok(Event::End),
        Some(Signal::SIGHUP) => {
            info!("SIGHUP: checking the installation again");
            Ok(Event::Change)
        }
        Some(signal) => {
            info!("{signal} is ignored");
            Ok(Event::Change)
        }
        None => Ok(Event::Change),
    }
}

struct Reconciler<'a> {
    paths: &'a Paths,
    spec: &'a InstallSpec,
    backoff: Backoff,
    /// The messages that were logged already.
    logged: BTreeSet<String>,
    watched: HashSet<WatchDescriptor>,
}

impl<'a> Reconciler<'a> {
    fn new(paths: &'a Paths, spec: &'a InstallSpec) -> Self {
        Self {
            paths,
            spec,
            backoff: Backoff::default(),
            logged: BTreeSet::new(),
            watched: HashSet::new(),
        }
    }

    fn install(&mut self) -> Result<()> {
        let report = Installation::open(self.paths)?.install(self.spec)?;
        self.log_report(&report, "installed");
        Ok(())
    }

    /// Checks the installation and repairs it. Returns the time of the next check, if one is due without
    /// an event.
    fn reconcile(&mut self) -> Option<Instant> {
        let now = Instant::now();
        match self.ensure_installed() {
            Ok(report) => {
                self.log_report(&report, "repaired");
                if !report.done.is_empty() {
                    self.backoff.record(now);
                    self.log_backoff();
                }
                None
            }
            Err(problem) => {
                let problem = format!("{problem:#}");
                if self.logged.insert(problem.clone()) {
                    error!("repair failed: {problem}");
                }
                Some(now + RETRY)
            }
        }
    }

    /// Repairs, unless Sluice was uninstalled meanwhile.
    fn ensure_installed(&mut self) -> Result<Report> {
        if !self.paths.state.exists() {
            return Ok(uninstalled());
        }
        let mut installation = Installation::open(self.paths)?;
        match installation.phase() {
            Some(Phase::Installed) => Ok(installation.install(self.spec)?),
            Some(Phase::Removing) => Ok(uninstalled()),
            None => {
                installation.abandon();
                Ok(uninstalled())
            }
        }
    }

    fn log_report(&mut self, report: &Report, how: &str) {
        for done in &report.done {
            info!("{how}: {done}");
        }
        for warning in &report.warnings {
            if self.logged.insert(warning.clone()) {
                warn!("{warning}");
            }
        }
        self.logged
            .retain(|logged| report.warnings.contains(logged));
    }

    fn log_backoff(&self) {
        let pause = self.backoff.pause();
        if !pause.is_zero() {
            warn!(
                "another program keeps reverting the CNI configuration: next repair in {} s at the earliest",
                pause.as_secs()
            );
        }
    }

    /// Watches every relevant directory. `true` if one is new.
    fn directories(&mut self, events: &Inotify) -> Result<bool> {
        let Paths {
            cni_bin, cni_conf, ..
        } = self.paths;
        let directory = Directory(cni_conf);
        let files = directory.read().unwrap_or_default().files;
        let mut directories = directory.real_directories(&files);
        directories.push(cni_bin.clone());
        let mut is_new = false;
        for path in directories {
            if let Some(watched) = add(events, &path)? {
                is_new |= self.watched.insert(watched);
            }
        }
        Ok(is_new)
    }
}

fn uninstalled() -> Report {
    let update_state = "uninstalled: no repairs until the next install".to_owned();
    Report {
        done: Vec::new(),
        warnings: vec![update_state],
    }
}

/// A watched directory keeps its descriptor; one that was removed and created again gets a new one.
fn add(events: &Inotify, path: &Path) -> Result<Option<WatchDescriptor>> {
    let what = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    match events.add_watch(path, what) {
        Ok(watched) => Ok(Some(watched)),
        // The check that its removal causes creates it again.
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot watch {}", path.display())),
    }
}
