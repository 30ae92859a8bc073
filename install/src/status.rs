//! `sluice-install status`: the installation, and the parts of it that the runtime uses.

use std::{fmt::Write as _, fs, iter, path::Path};

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value};
use sluice_api::text::Printable;

use crate::{
    attributes::Access,
    conf_files::{self, Files},
    directory::{Directory, Listing},
    entry::PLUGIN,
    install_state::{InstallState, Phase},
    plan, probe, remarks,
    select::{self, Selection},
    spec::Paths,
    users,
};

/// The answer of `sluice-install status`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Status {
    /// The progress of the installation, if there is one.
    phase: Option<Phase>,
    plugin: Plugin,
    /// The file that the runtime uses; of several candidates the one that most runtimes use.
    selected: Option<String>,
    /// The files of which a runtime uses one, which depends on the runtime and its version.
    candidates: Vec<String>,
    /// The files with an entry of Sluice that a runtime runs.
    configs_with_entry: Vec<String>,
    unusable: Vec<Remark>,
    /// Files that not every runtime uses.
    doubtful: Vec<Remark>,
    /// Networks in which every ADD fails, because the plugin does not serve their version.
    unserved: Vec<Remark>,
    /// Plugins that redirect the same Pods.
    conflicts: Vec<String>,
    /// Cached configurations of Pods that need the plugin when they end.
    users: usize,
    daemon: Daemon,
    /// Whether the next Pod will be intercepted.
    pub(crate) active: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Plugin {
    InPlace,
    NotExecutable,
    Missing,
}

#[derive(Debug, Serialize)]
struct Remark {
    name: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Daemon {
    ready: bool,
    /// The plugin's error if it is not.
    reason: Option<String>,
}

/// Reads the whole state. Changes nothing.
pub(crate) fn status(paths: &Paths) -> Result<Status> {
    let Listing { files, unreadable } = Directory(&paths.cni_conf).read()?;
    let Selection {
        candidates,
        doubts,
        unusable,
    } = select::select(&files, &Directory::plugins(&paths.cni_bin));
    let remark = |name: &str, reason: &dyn ToString| Remark {
        name: name.to_owned(),
        reason: reason.to_string(),
    };
    let refused = unusable.iter().map(|(name, reason)| remark(name, reason));
    let unread = unreadable.iter().map(|(name, reason)| remark(name, reason));
    let configs_with_entry = configs_with_entry(&files);
    let binary = paths.cni_bin.join(PLUGIN);
    let plugin = plugin(&binary);
    let unserved = match plugin {
        Plugin::InPlace => unserved(&binary, &candidates, &files),
        Plugin::NotExecutable | Plugin::Missing => Vec::new(),
    };
    let entry = candidates
        .first()
        .and_then(|name| plan::entry(name, &files));
    let daemon = daemon(&binary, plugin, entry);
    let is_carried = |name: &&str| configs_with_entry.iter().any(|carrier| carrier == name);
    let are_carried = !candidates.is_empty() && candidates.iter().all(is_carried);
    Ok(Status {
        phase: InstallState::read(paths)?.map(|install_state| install_state.phase),
        active: plugin == Plugin::InPlace && are_carried && unserved.is_empty() && daemon.ready,
        plugin,
        selected: candidates.first().map(|name| (*name).to_owned()),
        conflicts: (candidates.iter())
            .flat_map(|name| remarks::conflicts(name, &files[*name]))
            .collect(),
        unusable: refused.chain(unread).collect(),
        doubtful: doubts
            .iter()
            .map(|(name, doubt)| remark(name, doubt))
            .collect(),
        candidates: candidates.into_iter().map(str::to_owned).collect(),
        configs_with_entry,
        unserved,
        users: users::of_plugin(&paths.cni_cache).len(),
        daemon,
    })
}

fn configs_with_entry(files: &Files) -> Vec<String> {
    let configured = files
        .keys()
        .filter(|name| conf_files::is_configuration(name) && !name.contains('/'));
    let configs_with_entry = configured.filter(|name| plan::entry(name, files).is_some());
    configs_with_entry.cloned().collect()
}

/// Runs the plugin for each network, as the runtime does.
fn unserved(binary: &Path, candidates: &[&str], files: &Files) -> Vec<Remark> {
    let mut unserved = Vec::new();
    for name in candidates {
        if let Some(entry) = plan::entry(name, files)
            && let Err(reason) = probe::serves(binary, &files[*name], &entry)
        {
            let name = (*name).to_owned();
            unserved.push(Remark { name, reason });
        }
    }
    unserved
}

fn plugin(path: &Path) -> Plugin {
    match fs::metadata(path) {
        Err(_) => Plugin::Missing,
        Ok(_) if Access::of(path).is_some_and(|access| access.is_executable()) => Plugin::InPlace,
        Ok(_) => Plugin::NotExecutable,
    }
}

/// Runs the plugin's STATUS as a runtime does; the plugin queries the daemon.
fn daemon(binary: &Path, plugin: Plugin, entry: Option<Map<String, Value>>) -> Daemon {
    let asked = match plugin {
        Plugin::InPlace => probe::status(binary, entry.unwrap_or_default()),
        Plugin::Missing | Plugin::NotExecutable => Err("there is no plugin to ask it".to_owned()),
    };
    Daemon {
        ready: asked.is_ok(),
        reason: asked.err(),
    }
}

/// A line of the table: its key, and the rest.
type Line = (&'static str, String);

impl Status {
    /// The status as text.
    pub(crate) fn table(&self) -> String {
        let phase = match self.phase {
            Some(Phase::Installed) => "installed",
            Some(Phase::Removing) => "being removed: run 'uninstall' again",
            None => "not installed",
        };
        let plugin = match self.plugin {
            Plugin::InPlace => "in place",
            Plugin::NotExecutable => "cannot be executed",
            Plugin::Missing => "missing",
        };
        let configs_with_entry = match &self.configs_with_entry[..] {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        let daemon = match &self.daemon.reason {
            None => "ready".to_owned(),
            Some(reason) => format!("not ready: {reason}"),
        };
        let [configs_with_entry, daemon] =
            [configs_with_entry, daemon].map(|text| Printable::new(text).to_string());
        let mut lines = vec![
            ("sluice", phase.to_owned()),
            ("plugin", plugin.to_owned()),
            ("entry in", configs_with_entry),
        ];
        lines.extend(self.candidates());
        lines.push(("daemon", daemon));
        lines.extend(self.warnings());
        if self.phase != Some(Phase::Installed) && self.users > 0 {
            let users = format!("for {} Pods that were added with it", self.users);
            lines.push(("plugin stays", users));
        }
        let mut table = String::new();
        for (key, text) in lines {
            let _ = writeln!(table, "{key:<14}{text}");
        }
        table
    }

    /// The files of which the runtime uses one, and whether each has the entry.
    fn candidates(&self) -> Vec<Line> {
        if self.candidates.is_empty() {
            let none = "none: the node has no network".to_owned();
            return vec![("runtime uses", none)];
        }
        let keys = iter::once("runtime uses").chain(iter::repeat("or"));
        let line = |(key, name): (&'static str, &String)| {
            let entry = if self.configs_with_entry.contains(name) {
                "with"
            } else {
                "WITHOUT"
            };
            (key, format!("{}, {entry} the entry", Printable::new(name)))
        };
        keys.zip(&self.candidates).map(line).collect()
    }

    /// Networks and files that need attention.
    fn warnings(&self) -> Vec<Line> {
        let remarks = [
            ("ADD FAILS", &self.unserved),
            ("in doubt", &self.doubtful),
            ("unusable", &self.unusable),
        ];
        let mut lines = Vec::new();
        for (key, list) in remarks {
            lines.extend(list.iter().map(|Remark { name, reason }| {
                let (name, reason) = (Printable::new(name), Printable::new(reason));
                (key, format!("{name}: {reason}"))
            }));
        }
        let conflicts = self.conflicts.iter();
        lines.extend(conflicts.map(|one| ("CONFLICT", Printable::new(one).to_string())));
        lines
    }
}
