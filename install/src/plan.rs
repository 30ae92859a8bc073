//! Computes the desired state of the configuration directory, without changing it.
//!
//! A run computes the directory without Sluice ([`pristine`]), then with Sluice ([`target`]), and returns
//! the differences to the present state ([`steps`]). The result does not depend on the state in which an
//! earlier run, or another program, left the directory.
//!
//! | the runtime uses | the entry is added |
//! |---|---|
//! | a list | behind its last plugin |
//! | a list whose plugins are in a folder | into a file of the folder that sorts last |
//! | a single plugin, `X.conf` | into the list `X-sluice.conflist`, which sorts before it; `X.conf` stays, because other programs read it |
//! | Multus with the networks to which it delegates | behind the last plugin of the first of them: Multus would take a list beside its own file for a network, and call itself |
//!
//! In the mode `standalone` a copy of the first candidate, [`STANDALONE`], has the entry, except beside Multus.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::{
    conf_files::{self, Files, Plugins},
    conflist,
    entry::Entry,
    select,
    spec::Mode,
};

/// Sluice's own configuration. It sorts before every file in use.
pub(crate) const STANDALONE: &str = "00-00-sluice.conflist";
/// Suffix of the lists that Sluice derives from files of others.
const DERIVED: &str = "-sluice.conflist";
/// The entry's file in a folder of plugins. It sorts behind the others.
const IN_FOLDER: &str = "/~sluice-cni.conf";
/// Multus' plugins: the standalone one, and the one that calls a daemon.
const MULTUS: [&str; 2] = ["multus", "multus-shim"];
/// Keys whose values are names of Multus' files.
const FILE_KEYS: [&str; 2] = ["clusterNetwork", "readinessindicatorfile"];

#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("{name} cannot carry Sluice's entry: {source}")]
    Conflist {
        name: String,
        source: conflist::Error,
    },
    #[error("{name} is in the way, and is not Sluice's: move it out of the directory")]
    NameTaken { name: String },
    #[error(
        "{first} sorts before {STANDALONE}, which would never be used: choose the mode 'chained'"
    )]
    LowerPriority { first: String },
}

/// One file, before and after a change by Sluice. `None`: the file does not exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) name: String,
    pub(crate) before: Option<String>,
    pub(crate) after: Option<String>,
}

/// One atomic step in the directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    // In the order of their execution: a configuration exists at any time.
    Write { name: String, text: String },
    Remove { name: String },
}

/// The directory without Sluice.
///
/// A file that is as Sluice wrote it gets its earlier content. From a file that others changed since, only
/// the entry is removed.
pub(crate) fn pristine(current: &Files, changes: &[Change]) -> Files {
    let touched = changes.iter().map(|change| &change.name);
    let names: BTreeSet<&String> = current.keys().chain(touched).collect();
    let undone = |name: &String| Some((name.clone(), undo(name, current, changes)?));
    let mut files: Files = names.into_iter().filter_map(undone).collect();
    let derived: Vec<String> = (current.keys())
        .filter(|name| is_derived(name, current, changes))
        .cloned()
        .collect();
    for name in &derived {
        files.remove(name);
    }
    for name in derived {
        forget(&name, &mut files, &current[&name]);
    }
    files
}

/// A name of Sluice's file in Multus' configuration is replaced by the name of the file from which it was
/// derived. Without such a file, Sluice's file stays, without the entry.
fn forget(name: &str, files: &mut Files, text: &str) {
    let naming: Vec<String> = (files.iter())
        .filter(|(_, text)| {
            FILE_KEYS
                .iter()
                .any(|key| conflist::names_file(text, key, name))
        })
        .map(|(name, _)| name.clone())
        .collect();
    match source(name, files) {
        _ if naming.is_empty() => {}
        None => drop(files.insert(name.to_owned(), conflist::without_entry(text))),
        Some(source) => {
            for file in naming {
                let rename = |text: String, key: &&str| {
                    conflist::with_file(&text, key, (name, &source)).unwrap_or(text)
                };
                let text = files.get(&file).cloned().unwrap_or_default();
                files.insert(file, FILE_KEYS.iter().fold(text, rename));
            }
        }
    }
}

/// The file from which one of Sluice's was derived.
fn source(name: &str, files: &Files) -> Option<String> {
    if name != STANDALONE {
        let stem = name.strip_suffix(DERIVED)?;
        let singles = [".conf", ".json"].map(|extension| format!("{stem}{extension}"));
        return singles
            .into_iter()
            .find(|single| files.contains_key(single));
    }
    let without_multus = files.iter().filter(|(_, text)| !calls_multus(text));
    let rest: Files = without_multus
        .map(|(name, text)| (name.clone(), text.clone()))
        .collect();
    select::select(&rest, &Plugins::new())
        .first()
        .map(str::to_owned)
}

fn undo(name: &str, current: &Files, changes: &[Change]) -> Option<String> {
    let now = current.get(name);
    let ours = |change: &&Change| change.name == name && change.after.as_ref() == now;
    match changes.iter().find(ours) {
        Some(change) => change.before.clone(),
        None => now.map(|text| conflist::without_entry(text)),
    }
}

/// Whether Sluice created the file: its own copy, a list in the recorded state that no other program
/// replaced, or a list with the content of a single plugin's file.
fn is_derived(name: &str, files: &Files, changes: &[Change]) -> bool {
    if name == STANDALONE || name.ends_with(IN_FOLDER) {
        return true;
    }
    let Some(stem) = name.strip_suffix(DERIVED) else {
        return false;
    };
    let singles: Vec<(String, &String)> = [".conf", ".json"]
        .map(|extension| format!("{stem}{extension}"))
        .into_iter()
        .filter_map(|single| Some((single.clone(), files.get(&single)?)))
        .collect();
    let text = conflist::without_entry(&files[name]);
    let created_dirs = |change: &&Change| change.name == name && change.before.is_none();
    match changes.iter().find(created_dirs) {
        Some(change) => change.after.as_ref() == Some(&files[name]) || !singles.is_empty(),
        None => (singles.iter()).any(|(single, plugin)| {
            conflist::conf_to_conflist(plugin, single).is_ok_and(|list| list == text)
        }),
    }
}

/// Whether one of the files calls Multus.
pub(crate) fn has_multus(files: &Files) -> bool {
    let mut configured = files.iter().filter(|(name, _)| !name.contains('/'));
    configured.any(|(_, text)| calls_multus(text))
}

fn calls_multus(text: &str) -> bool {
    conflist::kinds(text)
        .iter()
        .any(|kind| MULTUS.contains(&&**kind))
}

/// The files that Sluice created and to which others added plugins, which are lost with them.
pub(crate) fn with_foreign_plugins(current: &Files, pristine: &Files) -> Vec<(String, String)> {
    let gone = current
        .iter()
        .filter(|(name, _)| !pristine.contains_key(*name));
    let foreign = gone.map(|(name, text)| (name, conflist::behind_entry(text)));
    (foreign.filter(|(_, plugins)| !plugins.is_empty()))
        .map(|(name, plugins)| {
            let kinds = plugins.iter().flat_map(|text| conflist::kinds(text));
            (name.clone(), kinds.collect::<Vec<_>>().join(", "))
        })
        .collect()
}

/// The directory with Sluice: its entry is in every file that a runtime may use.
pub(crate) fn target(
    pristine: &Files,
    current: &Files,
    plugins: &Plugins,
    mode: Mode,
    entry: &Entry,
) -> Result<Files, Error> {
    let mut files = pristine.clone();
    let candidates = select::select(pristine, plugins).candidates;
    let mode = if has_multus(pristine) {
        Mode::Chained
    } else {
        mode
    };
    for (index, primary) in candidates.into_iter().enumerate() {
        let mode = if index == 0 { mode } else { Mode::Chained };
        let failed = |source| Error::Conflist {
            name: primary.to_owned(),
            source,
        };
        let text = &pristine[primary];
        let place = place(primary, text, mode).map_err(failed)?;
        let (name, text) = match place {
            Place::Own(list, name) => {
                if pristine.contains_key(&name) {
                    return Err(Error::NameTaken { name });
                }
                let derived = derive(&list, current.get(&name), entry);
                (name, derived.map_err(failed)?)
            }
            Place::Theirs(edit) => {
                // An existing entry keeps its other keys.
                let in_place = |now: &&String| conflist::without_entry(now) == *text;
                let base = current.get(primary).filter(in_place).unwrap_or(text);
                (primary.to_owned(), edit(base, entry).map_err(failed)?)
            }
            Place::Folder(name) => {
                let present = current
                    .get(&name)
                    .and_then(|text| serde_json::from_str(text).ok());
                let object =
                    present.map_or_else(|| entry.to_json(), |present| entry.update(&present));
                (name, Value::Object(object).to_string() + "\n")
            }
        };
        files.insert(name, text);
    }
    let first = select::select(&files, plugins).first().map(str::to_owned);
    match first {
        Some(first) if files.contains_key(STANDALONE) && first != STANDALONE => {
            Err(Error::LowerPriority { first })
        }
        _ => Ok(files),
    }
}

/// Adds the entry to a text.
type Edit = fn(&str, &Entry) -> Result<String, conflist::Error>;

/// The place of the entry.
enum Place {
    /// In a list of Sluice: its content besides the entry, and its name.
    Own(String, String),
    /// In the file of another program.
    Theirs(Edit),
    /// In a file of its own, beside the plugins of a folder.
    Folder(String),
}

fn place(primary: &str, text: &str, mode: Mode) -> Result<Place, conflist::Error> {
    if conflist::is_delegating(text) {
        return Ok(Place::Theirs(conflist::with_delegated_entry));
    }
    let is_list = conf_files::is_list(primary);
    if is_list && conflist::kinds(text).is_empty() {
        let network = conflist::name(text).unwrap_or_default();
        return Ok(Place::Folder(network + IN_FOLDER));
    }
    Ok(match (mode, is_list) {
        (Mode::Chained, true) => Place::Theirs(conflist::with_entry),
        (Mode::Standalone, true) => Place::Own(text.to_owned(), STANDALONE.to_owned()),
        (Mode::Standalone, false) => Place::Own(
            conflist::conf_to_conflist(text, primary)?,
            STANDALONE.to_owned(),
        ),
        (Mode::Chained, false) => {
            Place::Own(conflist::conf_to_conflist(text, primary)?, derived(primary))
        }
    })
}

/// A list of Sluice. Its entry keeps its other keys, and plugins that others added behind it stay.
fn derive(list: &str, current: Option<&String>, entry: &Entry) -> Result<String, conflist::Error> {
    let mut text = list.to_owned();
    let current = current.map(String::as_str).unwrap_or_default();
    if let Some(present) = conflist::entry(current) {
        text = conflist::append(&text, &Value::Object(present).to_string())?;
    }
    text = conflist::with_entry(&text, entry)?;
    if conflist::entry(current).is_some() {
        for plugin in conflist::behind_entry(current) {
            text = conflist::append(&text, &plugin)?;
        }
    }
    Ok(text)
}

/// The difference between two states of the directory.
pub(crate) fn changes(before: &Files, after: &Files) -> Vec<Change> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differs = |name: &&String| before.get(*name) != after.get(*name);
    let change = |name: &String| Change {
        name: name.clone(),
        before: before.get(name).cloned(),
        after: after.get(name).cloned(),
    };
    names.into_iter().filter(differs).map(change).collect()
}

/// The steps from one state of the directory to another.
pub(crate) fn steps(before: &Files, after: &Files) -> Vec<Step> {
    let step = |Change { name, after, .. }: Change| match after {
        Some(text) => Step::Write { name, text },
        None => Step::Remove { name },
    };
    let mut steps: Vec<Step> = changes(before, after).into_iter().map(step).collect();
    steps.sort();
    steps
}

/// The name of the list that sorts before a single plugin's file: `-` sorts before the dot of the
/// extension, and no file in use is between the two.
fn derived(single: &str) -> String {
    let stem = single.rsplit_once('.').map_or(single, |(stem, _)| stem);
    format!("{stem}{DERIVED}")
}

/// The entry that a runtime runs if it uses this file.
pub(crate) fn entry(name: &str, files: &Files) -> Option<serde_json::Map<String, Value>> {
    let text = files.get(name)?;
    let in_folder = || {
        let network = conflist::name(text)? + IN_FOLDER;
        serde_json::from_str(files.get(&network)?).ok()
    };
    conflist::entry(text).or_else(|| in_folder().filter(|_| conflist::kinds(text).is_empty()))
}

#[cfg(test)]
mod tests;
