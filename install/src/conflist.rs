//! Network configurations as text. An edit touches the bytes of Sluice's entry and no others, so
//! that taking the entry out gives back, byte for byte, what was there before.

use std::{collections::BTreeMap, ops::Range};

use serde_json::{Map, Value, value::RawValue};
use thiserror::Error;

use crate::entry::{Entry, PLUGIN};

/// Why a runtime would not use a configuration.
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

/// The keys of an object and their values as they are written. Of a key that comes twice the last
/// counts, as it does for the runtimes.
type Object<'a> = BTreeMap<String, &'a RawValue>;

/// What white space is in JSON (RFC 8259, section 2).
const BLANK: [char; 4] = [' ', '\t', '\r', '\n'];

/// Whether a runtime takes the text for a list of plugins (the rules of libcni's
/// `ConfListFromBytes`, and a name that is not empty).
pub(crate) fn check_list(text: &str) -> Result<(), Error> {
    let object: Object = serde_json::from_str(text)?;
    check_network(&object)?;
    if let Some(raw) = object.get("disableCheck") {
        let _: bool = value("disableCheck", "true or false", raw)?;
    }
    let list = List::read(text)?;
    if list.plugins.is_empty() {
        return Err(Error::Wrong {
            key: "plugins",
            expected: "a list with at least one plugin",
        });
    }
    let untyped = |plugin: &Plugin| plugin.kind.as_deref().unwrap_or_default().is_empty();
    match list.plugins.iter().position(untyped) {
        Some(index) => Err(Error::NoType { index }),
        None => Ok(()),
    }
}

/// Whether a runtime takes the text for a single plugin.
pub(crate) fn check_single(text: &str) -> Result<(), Error> {
    let object: Object = serde_json::from_str(text)?;
    check_network(&object)?;
    not_empty(&object, "type")
}

fn check_network(object: &Object) -> Result<(), Error> {
    not_empty(object, "name")?;
    match object.get("cniVersion") {
        Some(raw) => value("cniVersion", "a string", raw).map(|_: String| ()),
        None => Ok(()),
    }
}

fn not_empty(object: &Object, key: &'static str) -> Result<(), Error> {
    let raw = object.get(key).ok_or(Error::Missing { key })?;
    let expected = "a string that is not empty";
    let text: String = value(key, expected, raw)?;
    if text.is_empty() {
        return Err(Error::Wrong { key, expected });
    }
    Ok(())
}

fn value<'a, T: serde::Deserialize<'a>>(
    key: &'static str,
    expected: &'static str,
    raw: &'a RawValue,
) -> Result<T, Error> {
    serde_json::from_str(raw.get()).map_err(|_| Error::Wrong { key, expected })
}

/// Puts the entry behind the last plugin; one that is there already is updated where it stands,
/// unless it stands first, where there is no network yet.
pub(crate) fn with_entry(text: &str, entry: &Entry) -> Result<String, Error> {
    let mut text = text.to_owned();
    loop {
        let list = List::read(&text)?;
        match *list.ours() {
            [] => return list.append(entry),
            [index] if index > 0 => return list.update(index, entry),
            [index, ..] => text = list.without(index),
        }
    }
}

/// Takes every entry of Sluice out. A text without one, or that is no list, stays as it is.
pub(crate) fn without_entry(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(shorter) = without_first_entry(&text) {
        text = shorter;
    }
    text
}

fn without_first_entry(text: &str) -> Option<String> {
    let list = List::read(text).ok()?;
    list.ours().first().map(|&index| list.without(index))
}

/// The entry that a runtime would run in this list: the first, if a network is made before it.
pub(crate) fn entry(text: &str) -> Option<Map<String, Value>> {
    let list = List::read(text).ok()?;
    match *list.ours() {
        [index, ..] if index > 0 => serde_json::from_str(list.raw(index)).ok(),
        _ => None,
    }
}

/// A list of the one plugin that a `.conf` describes, under the same name and version of the spec.
/// The plugin is taken over as it is written.
pub(crate) fn wrap(text: &str) -> Result<String, Error> {
    let object: Object = serde_json::from_str(text)?;
    let name = object.get("name").ok_or(Error::Missing { key: "name" })?;
    let version = match object.get("cniVersion") {
        Some(version) => format!("  \"cniVersion\": {version},\n"),
        None => String::new(),
    };
    let plugin = text.trim_matches(BLANK);
    Ok(format!(
        "{{\n{version}  \"name\": {name},\n  \"plugins\": [\n    {plugin}\n  ]\n}}\n"
    ))
}

/// A list of plugins, and where in the text they are.
struct List<'a> {
    text: &'a str,
    plugins: Vec<Plugin>,
}

struct Plugin {
    place: Range<usize>,
    kind: Option<String>,
}

impl<'a> List<'a> {
    fn read(text: &'a str) -> Result<Self, Error> {
        let object: Object = serde_json::from_str(text)?;
        let key = "plugins";
        let list = object.get(key).ok_or(Error::Missing { key })?;
        let plugins: Vec<&RawValue> = value(key, "a list", list)?;
        let plugin = |raw: &RawValue| Plugin {
            place: place(text, raw.get()),
            kind: kind(raw.get()),
        };
        Ok(Self {
            text,
            plugins: plugins.into_iter().map(plugin).collect(),
        })
    }

    fn raw(&self, index: usize) -> &str {
        &self.text[self.plugins[index].place.clone()]
    }

    /// Where Sluice's entries are in the list.
    fn ours(&self) -> Vec<usize> {
        let is_ours = |&index: &usize| self.plugins[index].kind.as_deref() == Some(PLUGIN);
        (0..self.plugins.len()).filter(is_ours).collect()
    }

    fn append(&self, entry: &Entry) -> Result<String, Error> {
        let Some(Plugin { place: last, .. }) = self.plugins.last() else {
            return Err(Error::Wrong {
                key: "plugins",
                expected: "a list with at least one plugin",
            });
        };
        let before = &self.text[..last.start];
        let indent = &before[before.trim_end_matches(BLANK).len()..];
        let entry = serde_json::to_string(&entry.fresh())?;
        Ok(self.splice(last.end..last.end, &format!(",{indent}{entry}")))
    }

    fn update(&self, index: usize, entry: &Entry) -> Result<String, Error> {
        let present: Map<String, Value> = serde_json::from_str(self.raw(index))?;
        let updated = entry.update(&present);
        if updated == present {
            return Ok(self.text.to_owned());
        }
        let place = self.plugins[index].place.clone();
        Ok(self.splice(place, &serde_json::to_string(&updated)?))
    }

    /// Takes out a plugin, and with it what parts it from its neighbour.
    fn without(&self, index: usize) -> String {
        let place = |index: usize| &self.plugins[index].place;
        let range = match index {
            0 if self.plugins.len() == 1 => place(0).clone(),
            0 => place(0).start..place(1).start,
            _ => place(index - 1).end..place(index).end,
        };
        self.splice(range, "")
    }

    fn splice(&self, range: Range<usize>, replacement: &str) -> String {
        let Range { start, end } = range;
        [&self.text[..start], replacement, &self.text[end..]].concat()
    }
}

/// Where a part is in the text that it was borrowed from.
fn place(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

fn kind(plugin: &str) -> Option<String> {
    let object: Object = serde_json::from_str(plugin).ok()?;
    serde_json::from_str(object.get("type")?.get()).ok()
}

#[cfg(test)]
mod tests;
