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
    attributes::Access,
    choice::{self, Files, Plugins},
    cli::{Mode, Places},
    crash,
    directory::{Directory, Listing},
    entry::{Entry, PLUGIN},
    journal::{self, Journal, Phase},
    place,
    plan::{self, Change, Step},
    probe, remarks, users,
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
    #[error("{name} would add no Pod with Sluice's entry, which is not put in: {reason}")]
    Unserved { name: String, reason: String },
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
            ..
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
        let was_there = path.exists();
        if !is_in_place(&path, &plugin) {
            place::replace(&path, &plugin, &Access::own(EXECUTABLE))?;
            report.done.push(format!("placed {}", path.display()));
        }
        match self.configure(Some(wanted), &mut report) {
            Err(error @ Error::Unserved { .. }) => {
                // A network without the entry is better than one that adds no Pod.
                self.configure(None, &mut report)?;
                if !was_there {
                    place::remove(&path)?;
                }
                Err(error)
            }
            done => done.map(|()| report),
        }
    }

    /// Takes the configuration back.
    pub(crate) fn withdraw(&mut self) -> Result<Report, Error> {
        let mut report = Report::default();
        self.note(|journal| journal.phase = Phase::Removing)?;
        self.configure(None, &mut report)?;
        Ok(report)
    }

    /// Takes the rest back, once no configuration names the plugin: neither one in use nor one that
    /// was cached for a Pod.
    pub(crate) fn remove(self) -> Result<Report, Error> {
        let mut report = Report::default();
        let path = self.places.cni_bin.join(PLUGIN);
        let users = users::of_plugin(&self.places.cni_cache);
        if path.exists()
            && let [first, ..] = &users[..]
        {
            report.warnings.push(format!(
                "{} stays, because the end of {} Pods needs it, which {} and others of its \
                 directory record: run 'sluice-install uninstall' again when they have ended",
                path.display(),
                users.len(),
                first.display()
            ));
            return Ok(report);
        }
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

    /// Leaves no directory behind, where nothing is installed: the look has made it.
    pub(crate) fn abandon(self) {
        let _ = fs::remove_dir(&self.places.state);
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
            plugins,
            warnings,
        } = self.plan(wanted)?;
        // For tests: a pause in which somebody else changes a file.
        fail_point!("planned");
        report.warnings = warnings;
        let after = plan::changes(&pristine, &target);
        let steps = plan::steps(&current, &target);
        let is_new = !(steps.is_empty() && report.done.is_empty() && self.changes() == after);
        if wanted.is_some() && is_new {
            self.prove(&target, &plugins)?;
        }
        if !steps.is_empty() {
            // Whichever of the steps will have been taken, the journal can tell.
            let mut earlier = self.changes();
            earlier.retain(|change| !after.contains(change));
            self.note(|journal| journal.changes = [&after[..], &earlier].concat())?;
        }
        let primary = choice::choose(&pristine, &plugins).first();
        for step in &steps {
            Directory(&self.places.cni_conf).take(step, &current, primary)?;
            report.done.push(describe(step));
        }
        self.note(|journal| journal.changes = after)
    }

    /// That the plugin serves every network that is to carry its entry, in the network's versions.
    fn prove(&self, target: &Files, plugins: &Plugins) -> Result<(), Error> {
        let path = self.places.cni_bin.join(PLUGIN);
        for name in choice::choose(target, plugins).candidates {
            let Some(entry) = plan::entry(name, target) else {
                continue;
            };
            probe::serves(&path, &target[name], &entry).map_err(|reason| Error::Unserved {
                name: name.to_owned(),
                reason,
            })?;
        }
        Ok(())
    }

    /// Looks at the configuration directory, and works out what has to become of it.
    fn plan(&self, wanted: Option<&Wanted>) -> Result<Plan, Error> {
        let Listing {
            files: current,
            unreadable,
        } = Directory(&self.places.cni_conf).read()?;
        let plugins = Directory::plugins(&self.places.cni_bin);
        let pristine = plan::pristine(&current, &self.changes());
        let target = match wanted {
            Some(Wanted { mode, entry, .. }) => {
                plan::target(&pristine, &current, &plugins, *mode, entry)?
            }
            None => pristine.clone(),
        };
        let mut warnings = remarks::on_choice(&pristine, &plugins, &unreadable);
        match wanted {
            Some(wanted) => warnings.extend(remarks::on_install(&pristine, &plugins, wanted.mode)),
            None => warnings.extend(remarks::on_removal(&current, &pristine)),
        }
        Ok(Plan {
            current,
            pristine,
            target,
            plugins,
            warnings,
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
    plugins: Plugins,
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
        && Access::of(path).is_some_and(|access| access.is_like(&Access::own(EXECUTABLE)))
}

fn describe(step: &Step) -> String {
    match step {
        Step::Write { name, .. } => format!("wrote {name}"),
        Step::Remove { name } => format!("removed {name}"),
    }
}
