//! Who still needs the plugin's file after the configuration has been taken back.
//!
//! Runtimes that tear a Pod down by what libcni cached when it was added (podman, CRI-O, Multus)
//! start every plugin of the configuration of that time. One that is missing stops the chain, and
//! the plugins before it never run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::entry::PLUGIN;

/// Bytes of the longest cached file that is read.
const LONGEST: u64 = 16 << 20;
/// Directories between the cache's own and its files: libcni has `results`, Multus `multus` and
/// `multus/results`.
const DEPTH: usize = 3;
/// How often texts are decoded within texts: a configuration is one in libcni's file.
const NESTING: usize = 3;

/// The cached files that name the plugin, in the order of their names.
pub(crate) fn of_plugin(cache: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    search(cache, DEPTH, &mut found);
    found.sort();
    found
}

fn search(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => search(&path, depth - 1, found),
            Ok(kind) if kind.is_file() && is_user(&path) => found.push(path),
            _ => {}
        }
    }
}

fn is_user(path: &Path) -> bool {
    let length = fs::metadata(path).map_or(0, |file| file.len());
    let text = fs::read(path).ok().filter(|_| length <= LONGEST);
    let value = text.and_then(|text| serde_json::from_slice(&text).ok());
    value.is_some_and(|value| names_plugin(&value, NESTING))
}

/// Whether a plugin's configuration is anywhere within. libcni writes the list of plugins as bytes,
/// which is base64 in JSON.
fn names_plugin(value: &Value, nesting: usize) -> bool {
    match value {
        Value::Object(object) => {
            object.get("type").and_then(Value::as_str) == Some(PLUGIN)
                || object.values().any(|value| names_plugin(value, nesting))
        }
        Value::Array(list) => list.iter().any(|value| names_plugin(value, nesting)),
        Value::String(text) if nesting > 0 => {
            let decoded = STANDARD.decode(text).ok();
            let inner = decoded.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            inner.is_some_and(|value| names_plugin(&value, nesting - 1))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(last: &str) -> Value {
        json!({"name": "n", "plugins": [{"type": "bridge"}, {"type": last}]})
    }

    #[test]
    fn cached_configurations_name_the_plugin_in_every_form() {
        let cache = tempfile::tempdir().unwrap();
        let encoded = |list: &Value| STANDARD.encode(list.to_string());
        let libcni = |last| json!({"kind": "cniCacheV1", "config": encoded(&list(last))});
        let files = [
            ("results/n-a-eth0", libcni(PLUGIN).to_string()),
            ("results/n-b-eth0", libcni("portmap").to_string()),
            (
                "multus/c",
                json!([{"Conf": {"type": ""}, "Bytes": encoded(&list(PLUGIN))}]).to_string(),
            ),
            ("multus/d", json!([list(PLUGIN)]).to_string()),
            ("multus/results/e", libcni(PLUGIN).to_string()),
            ("networks/n/last_reserved_ip.0", "10.1.0.5".to_owned()),
            ("results/torn", "{".to_owned()),
        ];
        for (name, text) in files {
            let path = cache.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = of_plugin(cache.path());
        let names = [
            "multus/c",
            "multus/d",
            "multus/results/e",
            "results/n-a-eth0",
        ];
        assert_eq!(found, names.map(|name| cache.path().join(name)));
        assert_eq!(of_plugin(Path::new("/nowhere")), Vec::<PathBuf>::new());
    }
}
