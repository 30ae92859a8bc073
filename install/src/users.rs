//! Finds the Pods that need the plugin's file after the entry has been removed.
//!
//! Some runtimes (podman, CRI-O) and Multus tear a Pod down by the configuration that libcni cached at its
//! ADD, and run every plugin of it. A missing plugin stops the chain, and the plugins before it never
//! run.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::entry::PLUGIN;

/// Number of bytes of a cached file that are read. A longer file is cut, and thus no JSON.
const LONGEST: u64 = 16 << 20;
/// Maximum depth of files below the cache directory: libcni has `results` (CRI-O as well), Multus
/// `multus` and `multus/results`.
const DEPTH: usize = 3;
/// Maximum nesting of encoded texts: libcni's file contains the configuration as one.
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
    let text = read(path).unwrap_or_default();
    let value = serde_json::from_slice(&text);
    value.is_ok_and(|value| names_plugin(&value, NESTING))
}

/// The text of a file that may be JSON. `OpenShift` has the plugins' binaries in the cache directory.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut text = vec![0];
    file.read_exact(&mut text)?;
    if text == b"{" || text == b"[" {
        file.take(LONGEST).read_to_end(&mut text)?;
    }
    Ok(text)
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
            ("results/empty", String::new()),
            ("bin/sluice-cni", "\u{7f}ELF".to_owned()),
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
