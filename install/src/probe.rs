//! The installed plugin, started as a runtime starts it.

use std::{
    io::{self, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Map, Value, json};

use crate::entry::PLUGIN;

/// The first version of the spec with STATUS.
const VERSION: &str = "1.1.0";

/// Asks the plugin whether it could serve an ADD; if not, says why.
pub(crate) fn status(plugin: &Path, entry: Map<String, Value>) -> Result<(), String> {
    let mut configuration = Map::from_iter([
        ("cniVersion".to_owned(), json!(VERSION)),
        ("name".to_owned(), json!("sluice-install")),
        ("type".to_owned(), json!(PLUGIN)),
    ]);
    configuration.extend(entry);
    let output = start(plugin)
        .and_then(|child| talk(child, &Value::Object(configuration).to_string()))
        .map_err(|error| format!("the plugin cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    // An error of the spec has a message, and may have details.
    let error: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let part = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
    let said = format!("{}: {}", part("msg"), part("details"));
    match said.trim_matches([':', ' ']) {
        "" => Err(format!("the plugin failed with {}", output.status)),
        said => Err(said.to_owned()),
    }
}

fn start(plugin: &Path) -> io::Result<Child> {
    Command::new(plugin)
        .env_clear()
        .env("CNI_COMMAND", "STATUS")
        .env("CNI_PATH", plugin.parent().unwrap_or(Path::new("/")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

fn talk(mut child: Child, configuration: &str) -> io::Result<std::process::Output> {
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read it is known by its exit code.
        let _ = stdin.write_all(configuration.as_bytes());
    }
    child.wait_with_output()
}
