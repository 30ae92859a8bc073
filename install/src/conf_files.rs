//! The content of a configuration directory as values: the texts of its files and the names of the
//! plugins.

use std::collections::{BTreeMap, BTreeSet};

/// The texts of the directory's files, by name; those in folders as `FOLDER/NAME`.
pub(crate) type Files = BTreeMap<String, String>;
/// The names of the plugins that are installed.
pub(crate) type Plugins = BTreeSet<String>;

/// The plugins in the folder of a network's name, in the order in which libcni runs them.
pub(crate) fn folder<'a>(network: &str, files: &'a Files) -> impl Iterator<Item = &'a String> {
    let prefix = format!("{network}/");
    (files.iter())
        .filter(move |(name, _)| name.starts_with(&prefix))
        .map(|(_, text)| text)
}

/// Whether a runtime reads a file of this name.
pub(crate) fn is_configuration(name: &str) -> bool {
    matches!(extension(name), "conf" | "conflist" | "json")
}

/// Whether the file is a list of plugins, and not a single one.
pub(crate) fn is_list(name: &str) -> bool {
    extension(name) == "conflist"
}

/// The extension as Go's `filepath.Ext` returns it: also for a name that begins with the dot.
pub(crate) fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}
