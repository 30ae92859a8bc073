//! What is installed on the host, and every change to it.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use daemon_api::owned;
use fail::fail_point;
use thiserror::Error;

use crate::{
    choice::{self, Files},
    cli::{Mode, Places},
    crash,
    directory::{Directory, Listing},
    entry::{Entry, PLUGIN},
    journal::{self, Journal, Phase},
    place::{self, Access},
    plan::{self, Change, Step},
};

/// How often somebody else may change a file between the look at it and the change.
const ATTEMPTS: usize = 5;
/// The plugin's mode.
const EXECUTABLE: u32 = 0o755;

#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Place(#[from] place::Error),
    #[error(transparent)]
    Journal(#[from] journal::Error),
    #[error(transparent)]
    Plan(#[from] plan::Error),
    #[error("cannot read the plugin at {}: {source}; build it, or name it with --plugin",
            path.display())]
    NoPlugin { path: PathBuf, source: io::Error },
}

/// What is to be in place.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) plugin: PathBuf,
    pub(crate) entry: Entry,
    pub(crate) mode: Mode,
}

/// What a run found and did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// In words, in the order in which it was done.
    pub(crate) done: Vec<String>,
    /// What an operator should look at.
    pub(crate) warnings: Vec<String>,
}

/// The installation of one host. As long as it lives no other process has it.
pub(crate) struct Installation<'a> {
    places: &'a Places,
    journal: Option<Journal>,
    _locked: File,
}

impl<'a> Installation<'a> {
    /// Waits for its turn and reads what earlier runs have left.
    pub(crate) fn open(places: &'a Places) -> Result<Self, Error> {
        let Places {
            cni_bin,
            cni_conf,
            state,
        } = places;
        let locked = lock(state).map_err(place::Error::io("lock", state))?;
        let installation = Self {
            places,
            journal: Journal::read(places)?,
            _locked: locked,
        };
        let Listing { files, .. } = Directory(cni_conf).read()?;
        let directories = Directory(cni_conf).real_directories(&files);
        for directory in directories.iter().chain([state, cni_bin]) {
            place::sweep(directory)?;
        }
        Ok(installation)
    }

    /// How far things are, if anything was installed.
    pub(crate) fn phase(&self) -> Option<Phase> {
        self.journal.as_ref().map(|journal| journal.phase)
    }

    /// Puts everything in place, if all of it can be: the plugin first, because a configuration
    /// that names a plugin which is not there lets no Pod start.
    pub(crate) fn install(&mut self, wanted: &Wanted) -> Result<Report, Error> {
        let Places {
            cni_bin, cni_conf, ..
        } = self.places;
        let plugin = fs::read(&wanted.plugin).map_err(|source| Error::NoPlugin {
            path: wanted.plugin.clone(),
            source,
        })?;
        self.plan(Some(wanted))?;
        let missing = missing(&[cni_bin, cni_conf]);
        self.note(|journal| {
            journal.phase = Phase::Installed;
            journal.made.extend(missing);
            journal.made.sort();
            journal.made.dedup();
        })?;
        for directory in [cni_bin, cni_conf] {
            fs::create_dir_all(directory).map_err(place::Error::io("make", directory))?;
            crash::moment();
        }
        let mut report = Report::default();
        let path = cni_bin.join(PLUGIN);
        if !is_in_place(&path, &plugin) {
            place::write(&path, &plugin, Access::own(EXECUTABLE))?;
            report.done.push(format!("placed {}", path.display()));
        }
        self.configure(Some(wanted), &mut report)?;
        Ok(report)
    }

    /// Takes the configuration back.
    pub(crate) fn withdraw(&mut self) -> Result<Report, Error> {
        let mut report = Report::default();
        self.note(|journal| journal.phase = Phase::Removing)?;
        self.configure(None, &mut report)?;
        Ok(report)
    }

    /// Takes the rest back, once no configuration names the plugin.
    pub(crate) fn remove(self) -> Result<Report, Error> {
        let mut report = Report::default();
        let path = self.places.cni_bin.join(PLUGIN);
        if path.exists() {
            place::remove(&path)?;
            report.done.push(format!("removed {}", path.display()));
        }
        let made = self.journal.map(|journal| journal.made).unwrap_or_default();
        for directory in made.iter().rev() {
            // One that others use by now stays.
            let _ = fs::remove_dir(directory);
            crash::moment();
        }
        Journal::remove(self.places)?;
        let _ = fs::remove_dir(&self.places.state);
        Ok(report)
    }

    /// Brings the configuration directory to where it should be, with Sluice or without.
    fn configure(&mut self, wanted: Option<&Wanted>, report: &mut Report) -> Result<(), Error> {
        for _ in 1..ATTEMPTS {
            match self.try_configure(wanted, report) {
                Err(Error::Place(place::Error::Changed { .. })) => {}
                done => return done,
            }
        }
        self.try_configure(wanted, report)
    }

    fn try_configure(&mut self, wanted: Option<&Wanted>, report: &mut Report) -> Result<(), Error> {
        let Plan {
            current,
            pristine,
            target,
            warnings,
        } = self.plan(wanted)?;
        // For tests: a pause in which somebody else changes a file.
        fail_point!("planned");
        report.warnings = warnings;
        let after = plan::changes(&pristine, &target);
        let steps = plan::steps(&current, &target);
        if !steps.is_empty() {
            // Whichever of the steps will have been taken, the journal can tell.
            let mut earlier = self.changes();
            earlier.retain(|change| !after.contains(change));
            self.note(|journal| journal.changes = [&after[..], &earlier].concat())?;
        }
        let primary = choice::choose(&pristine).chosen;
        for step in &steps {
            Directory(&self.places.cni_conf).take(step, &current, primary)?;
            report.done.push(describe(step));
        }
        self.note(|journal| journal.changes = after)
    }

    /// Looks at the configuration directory, and works out what has to become of it.
    fn plan(&self, wanted: Option<&Wanted>) -> Result<Plan, Error> {
        let Listing {
            files: current,
            unreadable,
        } = Directory(&self.places.cni_conf).read()?;
        let pristine = plan::pristine(&current, &self.changes());
        let target = match wanted {
            Some(Wanted { mode, entry, .. }) => plan::target(&pristine, &current, *mode, entry)?,
            None => pristine.clone(),
        };
        Ok(Plan {
            warnings: warnings(&pristine, &unreadable, wanted),
            current,
            pristine,
            target,
        })
    }

    fn changes(&self) -> Vec<Change> {
        let journal = self.journal.as_ref();
        journal.map_or_else(Vec::new, |journal| journal.changes.clone())
    }

    /// Changes the journal, on disk as well.
    fn note(&mut self, change: impl FnOnce(&mut Journal)) -> Result<(), Error> {
        let mut journal = match &self.journal {
            Some(journal) => journal.clone(),
            None => Journal::new(self.places),
        };
        change(&mut journal);
        if self.journal.as_ref() != Some(&journal) {
            journal.write(self.places)?;
            self.journal = Some(journal);
        }
        Ok(())
    }
}

/// Makes the state directory, and waits until no other process has it.
fn lock(state: &Path) -> io::Result<File> {
    loop {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(state)?;
        // Whoever can write there could have any content put in the place of a configuration.
        let directory = owned::directory(state)?;
        directory.lock()?;
        // An uninstall may have removed it while it was waited for.
        let is_same = |found: Metadata| Ok(found.ino() == directory.metadata()?.ino());
        match fs::metadata(state).and_then(is_same) {
            Ok(true) => return Ok(directory),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// States of the configuration directory.
struct Plan {
    current: Files,
    pristine: Files,
    target: Files,
    warnings: Vec<String>,
}

/// The directories on the way to these that are not there.
fn missing(directories: &[&PathBuf]) -> Vec<PathBuf> {
    let ancestors = directories.iter().flat_map(|path| path.ancestors());
    ancestors
        .filter(|path| !path.as_os_str().is_empty() && !path.exists())
        .map(Path::to_owned)
        .collect()
}

/// Whether the plugin is there, whole, and can be started.
fn is_in_place(path: &Path, plugin: &[u8]) -> bool {
    fs::read(path).is_ok_and(|present| present == plugin)
        && Access::of(path) == Some(Access::own(EXECUTABLE))
}

fn warnings(
    files: &Files,
    unreadable: &[(String, io::Error)],
    wanted: Option<&Wanted>,
) -> Vec<String> {
    let choice = choice::choose(files);
    let skipped = choice.skipped.iter().map(|(name, reason)| {
        format!(
            "{name} is passed over as kubelet does, though containerd would stop at it: {reason}"
        )
    });
    let unread = unreadable
        .iter()
        .map(|(name, reason)| format!("{name} cannot be read: {reason}"));
    let none = (wanted.is_some() && choice.chosen.is_none()).then(|| {
        "there is no network configuration to put the entry into yet: \
         'sluice-install watch' does it when one appears"
            .to_owned()
    });
    let superseded = files
        .keys()
        .filter(|name| plan::is_aside(name))
        .map(|name| {
            format!("{name} stays aside: the list that replaced it was edited and stays in force")
        });
    skipped
        .chain(unread)
        .chain(superseded)
        .chain(none)
        .collect()
}

fn describe(step: &Step) -> String {
    match step {
        Step::Write { name, .. } => format!("wrote {name}"),
        Step::Move { name, to } => format!("moved {name} to {to}"),
        Step::Remove { name } => format!("removed {name}"),
    }
}
