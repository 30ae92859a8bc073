//! What is installed, and whether it is used.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Result;
use daemon_api::text::Printable;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    choice::{self, Files},
    cli::Places,
    conflist,
    directory::{Directory, Listing},
    entry::PLUGIN,
    journal::{Journal, Phase},
    place::Access,
    probe,
};

/// The answer of `sluice-install status`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Status {
    /// How far the installation is, if there is one.
    phase: Option<Phase>,
    plugin: Plugin,
    /// The file that the runtime uses.
    chosen: Option<String>,
    /// The files that have Sluice's entry where a runtime would run it.
    carriers: Vec<String>,
    skipped: Vec<Skipped>,
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
struct Skipped {
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
    let choice = choice::choose(&files);
    let chosen = choice.chosen.map(str::to_owned);
    let refused = choice
        .skipped
        .iter()
        .map(|(name, reason)| ((*name).to_owned(), reason.to_string()));
    let unread = unreadable
        .into_iter()
        .map(|(name, reason)| (name, reason.to_string()));
    let skipped = refused
        .chain(unread)
        .map(|(name, reason)| Skipped { name, reason })
        .collect();
    let carriers = carriers(&files);
    let binary = places.cni_bin.join(PLUGIN);
    let plugin = plugin(&binary);
    let entry = chosen
        .as_ref()
        .and_then(|name| conflist::entry(&files[name]));
    let daemon = daemon(&binary, plugin, entry);
    let is_chosen = chosen
        .as_ref()
        .is_some_and(|chosen| carriers.contains(chosen));
    Ok(Status {
        phase: Journal::read(places)?.map(|journal| journal.phase),
        effective: plugin == Plugin::InPlace && is_chosen && daemon.ready,
        plugin,
        chosen,
        carriers,
        skipped,
        daemon,
    })
}

fn carriers(files: &Files) -> Vec<String> {
    let has_entry = |(name, text): &(&String, &String)| {
        choice::is_list(name) && conflist::entry(text).is_some()
    };
    let carriers = files.iter().filter(has_entry);
    carriers.map(|(name, _)| name.clone()).collect()
}

fn plugin(path: &Path) -> Plugin {
    match fs::metadata(path) {
        Err(_) => Plugin::Missing,
        Ok(_) if Access::of(path).is_some_and(Access::is_executable) => Plugin::InPlace,
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
        let chosen = match &self.chosen {
            None => "none: the node has no network".to_owned(),
            Some(name) if self.carriers.contains(name) => format!("{name}, with the entry"),
            Some(name) => format!("{name}, WITHOUT the entry"),
        };
        let daemon = match &self.daemon.reason {
            None => "ready".to_owned(),
            Some(reason) => format!("not ready: {reason}"),
        };
        let [carriers, chosen, daemon] = [carriers, chosen, daemon].map(Printable::new);
        let mut table = format!(
            "sluice        {phase}\nplugin        {plugin}\nentry in      {carriers}\n\
             runtime uses  {chosen}\ndaemon        {daemon}\n"
        );
        for Skipped { name, reason } in &self.skipped {
            let (name, reason) = (Printable::new(name), Printable::new(reason));
            let _ = writeln!(table, "passed over   {name}: {reason}");
        }
        table
    }
}
