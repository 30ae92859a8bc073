//! Network configurations as text. An edit changes the bytes of Sluice's entry and no others, so the
//! removal of the entry restores the earlier text exactly.

use std::{collections::BTreeMap, ops::Range};

use serde_json::{Map, Value, value::RawValue};
use thiserror::Error;

use crate::entry::{Entry, PLUGIN};

/// The reason why a runtime does not use a configuration.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("it is not JSON as expected: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has no '{key}'")]
    Missing { key: &'static str },
    #[error("its '{key}' must be {expected}")]
    Wrong {
        key: &'static str,
        expected: &'static str,
    },
    #[error("plugin {index} of its list has no 'type'")]
    NoType { index: usize },
}

/// The keys of an object and the text of their values. The last one of equal keys counts, as for the
/// runtimes.
pub(crate) type Object<'a> = BTreeMap<String, &'a RawValue>;

/// White space in JSON (RFC 8259, section 2).
const BLANK: [char; 4] = [' ', '\t', '\r', '\n'];
/// The keys of lists of plugins: a network's own, and the networks that Multus delegates to.
const PLUGINS: &str = "plugins";
const DELEGATES: &str = "delegates";
const NOT_EMPTY: Error = Error::Wrong {
    key: PLUGINS,
    expected: "a list with at least one plugin",
};

pub(crate) fn value<'a, T: serde::Deserialize<'a>>(
    key: &'static str,
    expected: &'static str,
    raw: &'a RawValue,
) -> Result<T, Error> {
    serde_json::from_str(raw.get()).map_err(|_| Error::Wrong { key, expected })
}

/// Adds the entry behind the last plugin. An existing entry is updated in place, unless it is the first
/// plugin: no network exists before that.
pub(crate) fn with_entry(text: &str, entry: &Entry) -> Result<String, Error> {
    edit(text, entry, |text| List::read(text))
}

/// Adds the entry to the first network that a Multus configuration delegates to. A single plugin becomes a
/// list.
pub(crate) fn with_delegated_entry(text: &str, entry: &Entry) -> Result<String, Error> {
    let delegate = *delegates(text)?
        .first()
        .ok_or(Error::Missing { key: DELEGATES })?;
    if List::of(text, delegate.get()).is_ok() {
        return edit(text, entry, |text| List::delegated(text));
    }
    let object: Object = serde_json::from_str(delegate.get())?;
    let outer: Object = serde_json::from_str(text)?;
    let member = |key: &str| {
        let raw = object.get(key).or_else(|| outer.get(key))?;
        Some(format!("\"{key}\":{raw},"))
    };
    let [version, name] = ["cniVersion", "name"].map(|key| member(key).unwrap_or_default());
    let entry = serde_json::to_string(&entry.to_json())?;
    let list = format!("{{{version}{name}\"plugins\":[{delegate},{entry}]}}");
    let Range { start, end } = span_of(text, delegate.get());
    Ok([&text[..start], &list, &text[end..]].concat())
}

fn edit(
    text: &str,
    entry: &Entry,
    read: for<'a> fn(&'a str) -> Result<List<'a>, Error>,
) -> Result<String, Error> {
    let mut text = text.to_owned();
    loop {
        let list = read(&text)?;
        match *list.own_entries() {
            [] => return list.append(&serde_json::to_string(&entry.to_json())?),
            [index] if index > 0 => return list.update(index, entry),
            [index, ..] => text = list.remove_at(index),
        }
    }
}

/// Removes every entry of Sluice, also from delegated networks. A text without an entry, or that is no
/// list, does not change.
pub(crate) fn without_entry(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(shorter) = without_first_entry(&text) {
        text = shorter;
    }
    text
}

fn without_first_entry(text: &str) -> Option<String> {
    let all = lists(text);
    let own_entries = all
        .iter()
        .find_map(|list| Some((list, *list.own_entries().first()?)));
    own_entries.map(|(list, index)| list.remove_at(index))
}

/// The entry that a runtime runs: the first one in the list, or in the first delegated network, if it is
/// not the first plugin.
pub(crate) fn entry(text: &str) -> Option<Map<String, Value>> {
    let of = |list: List| match *list.own_entries() {
        [index, ..] if index > 0 => serde_json::from_str(list.raw(index)).ok(),
        _ => None,
    };
    List::read(text)
        .ok()
        .and_then(of)
        .or_else(|| List::delegated(text).ok().and_then(of))
}

/// The text of the plugins that other programs added behind the entry.
pub(crate) fn behind_entry(text: &str) -> Vec<String> {
    let Ok(list) = List::read(text) else {
        return Vec::new();
    };
    let first = list
        .own_entries()
        .first()
        .map_or(list.plugins.len(), |index| index + 1);
    let behind = first..list.plugins.len();
    behind.map(|index| list.raw(index).to_owned()).collect()
}

/// Adds a plugin to a list.
pub(crate) fn append(text: &str, plugin: &str) -> Result<String, Error> {
    List::read(text)?.append(plugin)
}

/// The types of the plugins that a runtime starts for a configuration.
pub(crate) fn kinds(text: &str) -> Vec<String> {
    match List::read(text) {
        Ok(list) => list
            .plugins
            .into_iter()
            .filter_map(|one| one.plugin_type)
            .collect(),
        Err(_) => plugin_type(text).into_iter().collect(),
    }
}

/// The types of all plugins that a configuration names, those of delegated networks too.
pub(crate) fn all_kinds(text: &str) -> Vec<String> {
    let mut kinds = kinds(text);
    for list in lists(text) {
        kinds.extend(list.plugins.into_iter().filter_map(|one| one.plugin_type));
    }
    let singles = delegates(text).unwrap_or_default();
    kinds.extend(singles.iter().filter_map(|one| plugin_type(one.get())));
    kinds
}

/// Whether the configuration is a single plugin that contains the networks to which it delegates.
pub(crate) fn is_delegating(text: &str) -> bool {
    List::read(text).is_err() && delegates(text).is_ok_and(|all| !all.is_empty())
}

/// The versions of the CNI spec in which a runtime may run the list: libcni selects the highest of
/// `cniVersions` that it supports; before 1.1.0 it read `cniVersion` alone.
pub(crate) fn versions(text: &str) -> Vec<String> {
    let object: Object = serde_json::from_str(text).unwrap_or_default();
    let one = object.get("cniVersion").map_or("\"\"", |raw| raw.get());
    let more = object.get("cniVersions").map_or("[]", |raw| raw.get());
    let mut versions: Vec<String> = serde_json::from_str(more).unwrap_or_default();
    versions.insert(0, serde_json::from_str(one).unwrap_or_default());
    versions
}

/// The network's name.
pub(crate) fn name(text: &str) -> Option<String> {
    let object: Object = serde_json::from_str(text).ok()?;
    serde_json::from_str(object.get("name")?.get()).ok()
}

/// Whether a key of the configuration, or of a plugin in its list, has the path of a file as its value.
pub(crate) fn names_file(text: &str, key: &str, file: &str) -> bool {
    paths(text, key)
        .iter()
        .any(|(_, path)| path.rsplit('/').next() == Some(file))
}

/// The text with another file name in such a path.
pub(crate) fn with_file(text: &str, key: &str, (from, to): (&str, &str)) -> Option<String> {
    let all = paths(text, key);
    let (range, path) = all
        .iter()
        .find(|(_, path)| path.rsplit('/').next() == Some(from))?;
    let path = format!("{}{to}", path.strip_suffix(from)?);
    let path = serde_json::to_string(&path).ok()?;
    Some([&text[..range.start], &path, &text[range.end..]].concat())
}

fn paths(text: &str, key: &str) -> Vec<(Range<usize>, String)> {
    let of = |object: &str| {
        let object: Object = serde_json::from_str(object).ok()?;
        let raw = object.get(key)?.get();
        Some((span_of(text, raw), serde_json::from_str(raw).ok()?))
    };
    let list = List::read(text).ok();
    let plugins = list.iter().flat_map(|list| &list.plugins);
    let plugins = plugins.filter_map(|plugin| of(&text[plugin.span.clone()]));
    of(text).into_iter().chain(plugins).collect()
}

/// A list with the plugin of a `.conf` file, with the same name and version of the spec. The text of the
/// plugin does not change. Without a name the list has the file's, as in CRI-O.
pub(crate) fn conf_to_conflist(text: &str, file: &str) -> Result<String, Error> {
    let object: Object = serde_json::from_str(text)?;
    let unnamed = serde_json::to_string(file)?;
    let name = object
        .get("name")
        .map(|raw| raw.get())
        .filter(|name| *name != "\"\"");
    let name = name.unwrap_or(&unnamed);
    let version = match object.get("cniVersion") {
        Some(version) => format!("  \"cniVersion\": {version},\n"),
        None => String::new(),
    };
    let plugin = text.trim_matches(BLANK);
    Ok(format!(
        "{{\n{version}  \"name\": {name},\n  \"plugins\": [\n    {plugin}\n  ]\n}}\n"
    ))
}

/// Every list of plugins in a configuration.
fn lists(text: &str) -> Vec<List<'_>> {
    let own = List::read(text).into_iter();
    let delegated = delegates(text).unwrap_or_default().into_iter();
    own.chain(delegated.filter_map(|raw| List::of(text, raw.get()).ok()))
        .collect()
}

/// The networks that Multus delegates to, as a single plugin or in a list.
fn delegates(text: &str) -> Result<Vec<&RawValue>, Error> {
    let object: Object = serde_json::from_str(text)?;
    let mut found = Vec::new();
    if let Some(raw) = object.get(DELEGATES) {
        found.append(&mut value(DELEGATES, "a list", raw)?);
    }
    let plugins: Vec<&RawValue> = match object.get(PLUGINS) {
        Some(raw) => value(PLUGINS, "a list", raw)?,
        None => Vec::new(),
    };
    for plugin in plugins {
        let object: Object = serde_json::from_str(plugin.get()).unwrap_or_default();
        if let Some(raw) = object.get(DELEGATES) {
            found.append(&mut value(DELEGATES, "a list", raw)?);
        }
    }
    Ok(found)
}

/// A list of plugins, and their positions in the text.
pub(crate) struct List<'a> {
    text: &'a str,
    pub(crate) plugins: Vec<Plugin>,
}

pub(crate) struct Plugin {
    span: Range<usize>,
    pub(crate) plugin_type: Option<String>,
}

impl<'a> List<'a> {
    /// The list of the configuration itself.
    pub(crate) fn read(text: &'a str) -> Result<Self, Error> {
        Self::of(text, text)
    }

    /// The list of the first network that Multus delegates to.
    fn delegated(text: &'a str) -> Result<Self, Error> {
        Self::of(text, delegates(text)?.first().ok_or(NOT_EMPTY)?.get())
    }

    /// The list of an object within the text.
    fn of(text: &'a str, object: &'a str) -> Result<Self, Error> {
        let object: Object = serde_json::from_str(object)?;
        let key = PLUGINS;
        let list = object.get(key).ok_or(Error::Missing { key })?;
        let plugins: Vec<&RawValue> = value(key, "a list", list)?;
        let plugin = |raw: &RawValue| Plugin {
            span: span_of(text, raw.get()),
            plugin_type: plugin_type(raw.get()),
        };
        Ok(Self {
            text,
            plugins: plugins.into_iter().map(plugin).collect(),
        })
    }

    fn raw(&self, index: usize) -> &str {
        &self.text[self.plugins[index].span.clone()]
    }

    /// The positions of Sluice's entries in the list.
    fn own_entries(&self) -> Vec<usize> {
        let is_ours = |&index: &usize| self.plugins[index].plugin_type.as_deref() == Some(PLUGIN);
        (0..self.plugins.len()).filter(is_ours).collect()
    }

    /// Adds a plugin in the style of the list.
    fn append(&self, plugin: &str) -> Result<String, Error> {
        let Plugin { span: last, .. } = self.plugins.last().ok_or(NOT_EMPTY)?;
        let before = &self.text[..last.start];
        let indent = &before[before.trim_end_matches(BLANK).len()..];
        Ok(self.splice(last.end..last.end, &format!(",{indent}{plugin}")))
    }

    fn update(&self, index: usize, entry: &Entry) -> Result<String, Error> {
        let present: Map<String, Value> = serde_json::from_str(self.raw(index))?;
        let updated = entry.update(&present);
        if updated == present {
            return Ok(self.text.to_owned());
        }
        let span = self.plugins[index].span.clone();
        Ok(self.splice(span, &serde_json::to_string(&updated)?))
    }

    /// Removes a plugin and one separator.
    fn remove_at(&self, index: usize) -> String {
        let span = |index: usize| &self.plugins[index].span;
        let range = match index {
            0 if self.plugins.len() == 1 => span(0).clone(),
            0 => span(0).start..span(1).start,
            _ => span(index - 1).end..span(index).end,
        };
        self.splice(range, "")
    }

    fn splice(&self, range: Range<usize>, replacement: &str) -> String {
        let Range { start, end } = range;
        [&self.text[..start], replacement, &self.text[end..]].concat()
    }
}

/// The position of a part in the text that it was borrowed from.
fn span_of(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

fn plugin_type(plugin: &str) -> Option<String> {
    let object: Object = serde_json::from_str(plugin).ok()?;
    serde_json::from_str(object.get("type")?.get()).ok()
}

#[cfg(test)]
mod tests;
