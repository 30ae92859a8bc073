//! What is installed, and whether it is used.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Result;
use daemon_api::text::Printable;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    attributes::Access,
    choice::{self, Choice, Files},
    cli::Places,
    directory::{Directory, Listing},
    entry::PLUGIN,
    journal::{Journal, Phase},
    plan, probe, remarks, users,
};

/// The answer of `sluice-install status`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Status {
    /// How far the installation is, if there is one.
    phase: Option<Phase>,
    plugin: Plugin,
    /// The file that the runtime uses; of several candidates the one that most runtimes use.
    chosen: Option<String>,
    /// The files of which a runtime uses one, which depends on the runtime and its version.
    candidates: Vec<String>,
    /// The files that have Sluice's entry where a runtime would run it.
    carriers: Vec<String>,
    skipped: Vec<Remark>,
    /// Files that not every runtime uses.
    doubtful: Vec<Remark>,
    /// Networks in which every ADD fails, because the plugin does not serve their version.
    unserved: Vec<Remark>,
    /// Plugins that redirect the same Pods.
    conflicts: Vec<String>,
    /// Cached configurations of Pods that need the plugin when they end.
    users: usize,
    daemon: Daemon,
    /// Whether the next Pod will be seen by Sluice.
    pub(crate) effective: bool,
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
    /// What the plugin said if it is not.
    reason: Option<String>,
}

/// Looks at everything and changes nothing.
pub(crate) fn status(places: &Places) -> Result<Status> {
    let Listing { files, unreadable } = Directory(&places.cni_conf).read()?;
    let Choice {
        candidates,
        doubts,
        skipped,
    } = choice::choose(&files, &Directory::plugins(&places.cni_bin));
    let remark = |name: &str, reason: &dyn ToString| Remark {
        name: name.to_owned(),
        reason: reason.to_string(),
    };
    let refused = skipped.iter().map(|(name, reason)| remark(name, reason));
    let unread = unreadable.iter().map(|(name, reason)| remark(name, reason));
    let carriers = carriers(&files);
    let binary = places.cni_bin.join(PLUGIN);
    let plugin = plugin(&binary);
    let unserved = match plugin {
        Plugin::InPlace => unserved(&binary, &candidates, &files),
        Plugin::NotExecutable | Plugin::Missing => Vec::new(),
    };
    let entry = candidates
        .first()
        .and_then(|name| plan::entry(name, &files));
    let daemon = daemon(&binary, plugin, entry);
    let is_carried = |name: &&str| carriers.iter().any(|carrier| carrier == name);
    let are_carried = !candidates.is_empty() && candidates.iter().all(is_carried);
    Ok(Status {
        phase: Journal::read(places)?.map(|journal| journal.phase),
        effective: plugin == Plugin::InPlace && are_carried && unserved.is_empty() && daemon.ready,
        plugin,
        chosen: candidates.first().map(|name| (*name).to_owned()),
        conflicts: (candidates.iter())
            .flat_map(|name| remarks::conflicts(name, &files[*name]))
            .collect(),
        skipped: refused.chain(unread).collect(),
        doubtful: doubts
            .iter()
            .map(|(name, doubt)| remark(name, doubt))
            .collect(),
        candidates: candidates.into_iter().map(str::to_owned).collect(),
        carriers,
        unserved,
        users: users::of_plugin(&places.cni_cache).len(),
        daemon,
    })
}

fn carriers(files: &Files) -> Vec<String> {
    let configured = files
        .keys()
        .filter(|name| choice::is_configuration(name) && !name.contains('/'));
    let carriers = configured.filter(|name| plan::entry(name, files).is_some());
    carriers.cloned().collect()
}

/// The plugin is run as the runtime would run it for each network.
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

/// The plugin is asked as a runtime would: it asks the daemon.
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

impl Status {
    /// For people.
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
        let carriers = match &self.carriers[..] {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        let daemon = match &self.daemon.reason {
            None => "ready".to_owned(),
            Some(reason) => format!("not ready: {reason}"),
        };
        let [carriers, daemon] = [carriers, daemon].map(Printable::new);
        let mut table =
            format!("sluice        {phase}\nplugin        {plugin}\nentry in      {carriers}\n");
        if self.candidates.is_empty() {
            table += "runtime uses  none: the node has no network\n";
        }
        for (index, name) in self.candidates.iter().enumerate() {
            let what = if index == 0 {
                "runtime uses  "
            } else {
                "or            "
            };
            let entry = if self.carriers.contains(name) {
                "with"
            } else {
                "WITHOUT"
            };
            let name = Printable::new(name);
            let _ = writeln!(table, "{what}{name}, {entry} the entry");
        }
        let _ = writeln!(table, "daemon        {daemon}");
        let remarks = [
            ("ADD FAILS     ", &self.unserved),
            ("in doubt      ", &self.doubtful),
            ("passed over   ", &self.skipped),
        ];
        for (what, list) in remarks {
            for Remark { name, reason } in list {
                let (name, reason) = (Printable::new(name), Printable::new(reason));
                let _ = writeln!(table, "{what}{name}: {reason}");
            }
        }
        for conflict in &self.conflicts {
            let _ = writeln!(table, "CONFLICT      {}", Printable::new(conflict));
        }
        if self.phase != Some(Phase::Installed) && self.users > 0 {
            let _ = writeln!(
                table,
                "plugin stays  for {} Pods that were added with it",
                self.users
            );
        }
        table
    }
}
