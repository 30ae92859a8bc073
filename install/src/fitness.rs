//! Whether runtimes use a file as a network's configuration. The rules of libcni, of go-cni in containerd
//! and of ocicni in CRI-O differ.

use std::fmt;

use crate::{
    conf_files::{Files, Plugins, folder},
    conflist::{self, Error, List, Object, value},
    entry::PLUGIN,
};

/// Keys of type boolean. libcni also accepts texts since 1.2.
const BOOLEANS: [&str; 3] = ["disableCheck", "disableGC", "loadOnlyInlinedPlugins"];

/// The reason why some runtimes use a file and others do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// CRI-O ignores it; containerd uses it, and fails.
    MissingPlugin(String),
    /// Older versions of libcni reject it.
    TextBoolean(&'static str),
    /// Its plugins are in a folder, which older versions of libcni do not read.
    Folder,
    /// CRI-O uses the file's name; containerd fails.
    NoName,
}

impl fmt::Display for Doubt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingPlugin(kind) => write!(
                formatter,
                "its plugin '{kind}' is not in the plugins' directory: CRI-O passes over it, \
                 containerd does not"
            ),
            Self::TextBoolean(key) => write!(
                formatter,
                "its '{key}' is a text: libcni accepts that since 1.2 alone"
            ),
            Self::Folder => formatter.write_str(
                "its plugins are in a folder of the network's name: libcni reads that since 1.3 \
                 alone",
            ),
            Self::NoName => formatter
                .write_str("it has no name: CRI-O takes the file's, containerd fails to add Pods"),
        }
    }
}

/// The first doubt about a list, or an error if no runtime can use it.
pub(crate) fn of_list(
    text: &str,
    files: &Files,
    plugins: &Plugins,
) -> Result<Option<Doubt>, Error> {
    let object: Object = serde_json::from_str(text)?;
    let name = name(&object)?.ok_or(Error::Missing { key: "name" })?;
    let mut doubts = Vec::new();
    for key in BOOLEANS {
        if let Some(raw) = object.get(key) {
            match raw.get() {
                "true" | "false" => {}
                _ => doubts.push(text_boolean(key, raw)?),
            }
        }
    }
    let kinds = if object.contains_key("plugins") {
        inline_kinds(text)?
    } else {
        doubts.insert(0, Doubt::Folder);
        folder_kinds(&name, files)?
    };
    doubts.extend(name.is_empty().then_some(Doubt::NoName));
    doubts.extend(missing(&kinds, plugins));
    Ok(doubts.into_iter().next())
}

/// The first doubt about a single plugin, or an error if no runtime can use it.
pub(crate) fn of_single(text: &str, plugins: &Plugins) -> Result<Option<Doubt>, Error> {
    let object: Object = serde_json::from_str(text)?;
    let key = "type";
    let raw = object.get(key).ok_or(Error::Missing { key })?;
    let expected = "a string that is not empty";
    let kind: String = value(key, expected, raw)?;
    if kind.is_empty() {
        return Err(Error::Wrong { key, expected });
    }
    if name(&object)?.unwrap_or_default().is_empty() {
        return Ok(Some(Doubt::NoName));
    }
    Ok(missing(&[kind], plugins))
}

/// The network's name, after a check of the keys of the spec's version.
fn name(object: &Object) -> Result<Option<String>, Error> {
    if let Some(raw) = object.get("cniVersion") {
        let _: String = value("cniVersion", "a string", raw)?;
    }
    if let Some(raw) = object.get("cniVersions") {
        let _: Vec<String> = value("cniVersions", "a list of strings", raw)?;
    }
    let name = object.get("name").map(|raw| value("name", "a string", raw));
    name.transpose()
}

fn text_boolean(key: &'static str, raw: &serde_json::value::RawValue) -> Result<Doubt, Error> {
    let expected = "true or false";
    let text: String = value(key, expected, raw)?;
    match &*text.to_lowercase() {
        "true" | "false" => Ok(Doubt::TextBoolean(key)),
        _ => Err(Error::Wrong { key, expected }),
    }
}

fn inline_kinds(text: &str) -> Result<Vec<String>, Error> {
    let list = List::read(text)?;
    if list.plugins.is_empty() {
        return Err(Error::Wrong {
            key: "plugins",
            expected: "a list with at least one plugin",
        });
    }
    let typed = list
        .plugins
        .into_iter()
        .map(|one| one.plugin_type.filter(|kind| !kind.is_empty()));
    (typed.enumerate())
        .map(|(index, kind)| kind.ok_or(Error::NoType { index }))
        .collect()
}

/// libcni rejects the whole network if one plugin is damaged.
fn folder_kinds(name: &str, files: &Files) -> Result<Vec<String>, Error> {
    let mut kinds = Vec::new();
    for (index, text) in folder(name, files).enumerate() {
        serde_json::from_str::<Object>(text)?;
        let kind = conflist::kinds(text)
            .into_iter()
            .find(|kind| !kind.is_empty());
        kinds.push(kind.ok_or(Error::NoType { index })?);
    }
    if kinds.is_empty() {
        return Err(Error::Missing { key: "plugins" });
    }
    Ok(kinds)
}

fn missing(kinds: &[String], plugins: &Plugins) -> Option<Doubt> {
    let lacks = |kind: &&String| *kind != PLUGIN && !plugins.contains(*kind);
    let first = kinds.iter().find(lacks)?;
    Some(Doubt::MissingPlugin(first.clone()))
}
