//! What has to become of the configuration directory. Nothing here touches it.
//!
//! A run looks at the directory as it is, takes Sluice out of it in thought ([`pristine`]), puts
//! Sluice in as wanted ([`target`]) and carries out what the two differ in ([`steps`]). Hence it
//! does not matter in what state an earlier run, or anybody else, has left the directory.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    choice::{self, Files},
    cli::Mode,
    conflist,
    entry::Entry,
};

/// Sluice's own configuration. It sorts before everything that is in use.
pub(crate) const OWN: &str = "00-00-sluice.conflist";
/// Ends the name of a file that was moved aside; no runtime looks at it.
const ASIDE: &str = ".sluice";

#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("{name} cannot carry Sluice's entry: {source}")]
    Conflist {
        name: String,
        source: conflist::Error,
    },
    #[error("{name} is in the way, and is not Sluice's: move it out of the directory")]
    Occupied { name: String },
    #[error("{first} sorts before {OWN}, which would never be used: choose the mode 'chained'")]
    Outranked { first: String },
}

/// One file, before and after a change of Sluice's. `None` is a file that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) name: String,
    pub(crate) before: Option<String>,
    pub(crate) after: Option<String>,
}

/// One atomic step in the directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    // In the order in which they are taken: at no moment is there no configuration.
    Write { name: String, text: String },
    Move { name: String, to: String },
    Remove { name: String },
}

/// The directory as it would be without Sluice.
///
/// A file that is as Sluice left it becomes what it was before; out of one that others have
/// changed since, only the entry is taken.
pub(crate) fn pristine(current: &Files, changes: &[Change]) -> Files {
    let touched = changes.iter().map(|change| &change.name);
    let names: BTreeSet<&String> = current.keys().chain(touched).collect();
    let undone = |name: &String| Some((name.clone(), undo(name, current, changes)?));
    let mut files: Files = names.into_iter().filter_map(undone).collect();
    files.remove(OWN);
    keep_superseded(&mut files, current, changes);
    unwrap_forgotten(&mut files);
    files
}

fn undo(name: &str, current: &Files, changes: &[Change]) -> Option<String> {
    let now = current.get(name);
    let ours = |change: &&Change| {
        // One that neither is there nor stands aside was removed by others.
        let removed = change.after.is_none() && !current.contains_key(&aside(name));
        change.name == name && change.after.as_ref() == now && !removed
    };
    match changes.iter().find(ours) {
        Some(change) => change.before.clone(),
        None => now.map(|text| conflist::without_entry(text)),
    }
}

/// A list that replaced a `.conf` and that somebody has edited stays in force: the `.conf`, which
/// would be chosen before it, stays aside.
fn keep_superseded(files: &mut Files, current: &Files, changes: &[Change]) {
    for Change { name, after, .. } in changes {
        if after.is_none() && !current.contains_key(name) && files.contains_key(&wrapped(name)) {
            let text = files.remove(name);
            files.extend(text.map(|text| (aside(name), text)));
        }
    }
}

/// A list that says no more than a `.conf` was made of it, even if the journal is lost.
fn unwrap_forgotten(files: &mut Files) {
    let lists = files
        .keys()
        .filter_map(|name| name.strip_suffix(".conflist"));
    for conf in lists.map(str::to_owned).collect::<Vec<_>>() {
        let aside = aside(&conf);
        let Some(text) = files.get(&conf).or_else(|| files.get(&aside)).cloned() else {
            continue;
        };
        if conflist::wrap(&text).ok().as_ref() == files.get(&wrapped(&conf)) {
            files.remove(&wrapped(&conf));
            files.remove(&aside);
            files.insert(conf, text);
        }
    }
}

/// The directory with Sluice in it: its entry in the primary network's list.
pub(crate) fn target(
    pristine: &Files,
    current: &Files,
    mode: Mode,
    entry: &Entry,
) -> Result<Files, Error> {
    let mut files = pristine.clone();
    let Some(primary) = choice::choose(pristine).chosen else {
        return Ok(files);
    };
    let failed = |source| Error::Conflist {
        name: primary.to_owned(),
        source,
    };
    let text = &pristine[primary];
    let is_list = choice::is_list(primary);
    let list = if is_list {
        text.clone()
    } else {
        conflist::wrap(text).map_err(failed)?
    };
    let name = match (mode, is_list) {
        (Mode::Own, _) => OWN.to_owned(),
        (Mode::Chained, true) => primary.to_owned(),
        (Mode::Chained, false) => wrapped(primary),
    };
    // An entry that is in place keeps what else it says.
    let in_place = |now: &&String| conflist::without_entry(now) == list;
    let base = current.get(&name).filter(in_place).unwrap_or(&list);
    let chained = conflist::with_entry(base, entry).map_err(failed)?;
    if mode == Mode::Chained && is_list {
        files.insert(name, chained);
        return Ok(files);
    }
    occupy(&mut files, name, chained)?;
    if mode == Mode::Chained {
        files.remove(primary);
        occupy(&mut files, aside(primary), text.clone())?;
    }
    match choice::choose(&files).chosen {
        Some(first) if mode == Mode::Own && first != OWN => Err(Error::Outranked {
            first: first.to_owned(),
        }),
        _ => Ok(files),
    }
}

fn occupy(files: &mut Files, name: String, text: String) -> Result<(), Error> {
    if files.contains_key(&name) {
        return Err(Error::Occupied { name });
    }
    files.insert(name, text);
    Ok(())
}

/// What differs between two states of the directory.
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

/// How to get from one state of the directory to another.
pub(crate) fn steps(before: &Files, after: &Files) -> Vec<Step> {
    let changes = changes(before, after);
    let appearing: BTreeMap<&str, &str> = changes
        .iter()
        .filter_map(|change| Some((&*change.name, change.after.as_deref()?)))
        .collect();
    let mut moved = BTreeSet::new();
    let mut steps = Vec::new();
    for Change {
        name,
        before,
        after,
    } in &changes
    {
        let (Some(text), None) = (before, after) else {
            continue;
        };
        let to = counterpart(name);
        if appearing.get(&*to) == Some(&&**text) {
            moved.insert(to.clone());
            steps.push(Step::Move {
                name: name.clone(),
                to,
            });
        } else {
            steps.push(Step::Remove { name: name.clone() });
        }
    }
    for (name, text) in appearing {
        if !moved.contains(name) {
            steps.push(Step::Write {
                name: name.to_owned(),
                text: text.to_owned(),
            });
        }
    }
    steps.sort();
    steps
}

/// The list that replaces a `.conf`. It sorts where the `.conf` did.
fn wrapped(conf: &str) -> String {
    format!("{conf}.conflist")
}

fn aside(name: &str) -> String {
    format!("{name}{ASIDE}")
}

/// Whether the name is that of a file that was moved aside.
pub(crate) fn is_aside(name: &str) -> bool {
    name.ends_with(ASIDE)
}

/// Where a file is moved to when it is put aside, or back.
pub(crate) fn counterpart(name: &str) -> String {
    name.strip_suffix(ASIDE)
        .map_or_else(|| aside(name), str::to_owned)
}

#[cfg(test)]
mod tests;
