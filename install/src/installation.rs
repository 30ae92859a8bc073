//! The installation on a host: installs, repairs and uninstalls.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use fail::fail_point;
use sluice_api::owned;
use thiserror::Error;

use crate::{
    atomic_file,
    attributes::Access,
    conf_files::{Files, Plugins},
    directory::{Directory, Listing},
    entry::PLUGIN,
    failpoint,
    install_state::{self, InstallState, Phase},
    plan::{self, Change, Step},
    probe, remarks, select,
    spec::{InstallSpec, Paths},
    users,
};

/// Maximum number of attempts when another program changes a file between the read and the write.
const ATTEMPTS: usize = 5;
/// The plugin's mode.
const EXECUTABLE: u32 = 0o755;

#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(transparent)]
    File(#[from] atomic_file::Error),
    #[error(transparent)]
    InstallState(#[from] install_state::Error),
    #[error(transparent)]
    Plan(#[from] plan::Error),
    #[error("cannot read the plugin at {}: {source}; build it, or name it with --plugin",
            path.display())]
    NoPlugin { path: PathBuf, source: io::Error },
    #[error("{name} would add no Pod with Sluice's entry; the entry is not added: {reason}")]
    Unserved { name: String, reason: String },
}

/// The findings and the changes of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The changes in their order, as text.
    pub(crate) done: Vec<String>,
    /// Conditions that an operator should check.
    pub(crate) warnings: Vec<String>,
}

/// The installation of one host. Holds a lock, so no other process has it.
pub(crate) struct Installation<'a> {
    paths: &'a Paths,
    install_state: Option<InstallState>,
    _locked: File,
}

impl<'a> Installation<'a> {
    /// Waits for the lock, and reads the state of earlier runs.
    pub(crate) fn open(paths: &'a Paths) -> Result<Self, Error> {
        let Paths {
            cni_bin,
            cni_conf,
            state,
            ..
        } = paths;
        let locked = lock(state).map_err(atomic_file::Error::io("lock", state))?;
        let installation = Self {
            paths,
            install_state: InstallState::read(paths)?,
            _locked: locked,
        };
        let Listing { files, .. } = Directory(cni_conf).read()?;
        let directories = Directory(cni_conf).real_directories(&files);
        for directory in directories.iter().chain([state, cni_bin]) {
            atomic_file::sweep(directory)?;
        }
        Ok(installation)
    }

    /// The progress, if anything was installed.
    pub(crate) fn phase(&self) -> Option<Phase> {
        self.install_state
            .as_ref()
            .map(|install_state| install_state.phase)
    }

    /// Installs the plugin, then its entry: no Pod starts while a configuration names a missing plugin.
    pub(crate) fn install(&mut self, spec: &InstallSpec) -> Result<Report, Error> {
        let Paths {
            cni_bin, cni_conf, ..
        } = self.paths;
        let plugin = fs::read(&spec.plugin).map_err(|source| Error::NoPlugin {
            path: spec.plugin.clone(),
            source,
        })?;
        self.compute(Some(spec))?;
        let missing = missing(&[cni_bin, cni_conf]);
        self.update_state(|install_state| {
            install_state.phase = Phase::Installed;
            install_state.created_dirs.extend(missing);
            install_state.created_dirs.sort();
            install_state.created_dirs.dedup();
        })?;
        for directory in [cni_bin, cni_conf] {
            fs::create_dir_all(directory).map_err(atomic_file::Error::io("make", directory))?;
            failpoint::hit();
        }
        let mut report = Report::default();
        let path = cni_bin.join(PLUGIN);
        let was_there = path.exists();
        if !is_up_to_date(&path, &plugin) {
            atomic_file::replace(&path, &plugin, &Access::own(EXECUTABLE))?;
            report.done.push(format!("placed {}", path.display()));
        }
        match self.converge(Some(spec), &mut report) {
            Err(error @ Error::Unserved { .. }) => {
                // A network without the entry is better than one that adds no Pod.
                self.converge(None, &mut report)?;
                if !was_there {
                    atomic_file::remove(&path)?;
                }
                Err(error)
            }
            done => done.map(|()| report),
        }
    }

    /// Removes the entry from the configuration.
    pub(crate) fn remove_config(&mut self) -> Result<Report, Error> {
        let mut report = Report::default();
        self.update_state(|install_state| install_state.phase = Phase::Removing)?;
        self.converge(None, &mut report)?;
        Ok(report)
    }

    /// Removes the plugin and the state, once no configuration names the plugin: neither an active one
    /// nor one that was cached for a Pod.
    pub(crate) fn remove(self) -> Result<Report, Error> {
        let mut report = Report::default();
        let path = self.paths.cni_bin.join(PLUGIN);
        let users = users::of_plugin(&self.paths.cni_cache);
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
            atomic_file::remove(&path)?;
            report.done.push(format!("removed {}", path.display()));
        }
        let created_dirs = self
            .install_state
            .map(|install_state| install_state.created_dirs)
            .unwrap_or_default();
        for directory in created_dirs.iter().rev() {
            // A directory that other programs use stays.
            let _ = fs::remove_dir(directory);
            failpoint::hit();
        }
        InstallState::remove(self.paths)?;
        let _ = fs::remove_dir(&self.paths.state);
        Ok(report)
    }

    /// Removes the state directory where nothing is installed: opening the installation created it.
    pub(crate) fn abandon(self) {
        let _ = fs::remove_dir(&self.paths.state);
    }

    /// Brings the configuration directory to the desired state, with or without Sluice.
    fn converge(&mut self, spec: Option<&InstallSpec>, report: &mut Report) -> Result<(), Error> {
        for _ in 1..ATTEMPTS {
            match self.try_converge(spec, report) {
                Err(Error::File(atomic_file::Error::Changed { .. })) => {}
                done => return done,
            }
        }
        self.try_converge(spec, report)
    }

    fn try_converge(
        &mut self,
        spec: Option<&InstallSpec>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let Plan {
            current,
            pristine,
            target,
            plugins,
            warnings,
        } = self.compute(spec)?;
        // For tests: a pause in which another program changes a file.
        fail_point!("planned");
        report.warnings = warnings;
        let after = plan::changes(&pristine, &target);
        let steps = plan::steps(&current, &target);
        let is_new = !(steps.is_empty() && report.done.is_empty() && self.changes() == after);
        if spec.is_some() && is_new {
            self.prove(&target, &plugins)?;
        }
        if !steps.is_empty() {
            // The state covers every prefix of the steps.
            let mut earlier = self.changes();
            earlier.retain(|change| !after.contains(change));
            self.update_state(|install_state| {
                install_state.changes = [&after[..], &earlier].concat();
            })?;
        }
        let primary = select::select(&pristine, &plugins).first();
        for step in &steps {
            Directory(&self.paths.cni_conf).apply(step, &current, primary)?;
            report.done.push(describe(step));
        }
        self.update_state(|install_state| install_state.changes = after)
    }

    /// Checks that the plugin serves every network that gets its entry, in the network's versions.
    fn prove(&self, target: &Files, plugins: &Plugins) -> Result<(), Error> {
        let path = self.paths.cni_bin.join(PLUGIN);
        for name in select::select(target, plugins).candidates {
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

    /// Reads the configuration directory, and computes its desired state.
    fn compute(&self, spec: Option<&InstallSpec>) -> Result<Plan, Error> {
        let Listing {
            files: current,
            unreadable,
        } = Directory(&self.paths.cni_conf).read()?;
        let plugins = Directory::plugins(&self.paths.cni_bin);
        let pristine = plan::pristine(&current, &self.changes());
        let target = match spec {
            Some(InstallSpec { mode, entry, .. }) => {
                plan::target(&pristine, &current, &plugins, *mode, entry)?
            }
            None => pristine.clone(),
        };
        let mut warnings = remarks::on_choice(&pristine, &plugins, &unreadable);
        match spec {
            Some(spec) => warnings.extend(remarks::on_install(&pristine, &plugins, spec.mode)),
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
        let install_state = self.install_state.as_ref();
        install_state.map_or_else(Vec::new, |install_state| install_state.changes.clone())
    }

    /// Changes the state, and writes it to disk.
    fn update_state(&mut self, change: impl FnOnce(&mut InstallState)) -> Result<(), Error> {
        let mut install_state = match &self.install_state {
            Some(install_state) => install_state.clone(),
            None => InstallState::new(self.paths),
        };
        change(&mut install_state);
        if self.install_state.as_ref() != Some(&install_state) {
            install_state.write(self.paths)?;
            self.install_state = Some(install_state);
        }
        Ok(())
    }
}

/// Creates the state directory, and waits for its lock.
fn lock(state: &Path) -> io::Result<File> {
    loop {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(state)?;
        // A user who can write there could replace the content of a configuration.
        let directory = owned::directory(state)?;
        directory.lock()?;
        // An uninstall may have removed it while this process waited.
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

/// The missing directories on the paths to these.
fn missing(directories: &[&PathBuf]) -> Vec<PathBuf> {
    let ancestors = directories.iter().flat_map(|path| path.ancestors());
    ancestors
        .filter(|path| !path.as_os_str().is_empty() && !path.exists())
        .map(Path::to_owned)
        .collect()
}

/// Whether the plugin is installed, complete and executable.
fn is_up_to_date(path: &Path, plugin: &[u8]) -> bool {
    fs::read(path).is_ok_and(|present| present == plugin)
        && Access::of(path).is_some_and(|access| access.is_like(&Access::own(EXECUTABLE)))
}

fn describe(step: &Step) -> String {
    match step {
        Step::Write { name, .. } => format!("wrote {name}"),
        Step::Remove { name } => format!("removed {name}"),
    }
}
