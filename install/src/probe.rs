//! Dry runs of the installed plugin, started as a runtime starts it.

use std::{
    io::{self, Write as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Map, Value, json};

use crate::{conflist, entry::PLUGIN};

/// The first version of the spec with STATUS.
const WITH_STATUS: &str = "1.1.0";
/// The meaning of a missing or empty version.
const UNSTATED: &str = "0.1.0";
/// The container of a dry run. No runtime has one with such an id.
const DRY_RUN_CONTAINER: &str = "sluice-install-dry-run";
/// The daemon's socket in a dry run. It does not exist, so the daemon gets no request, and no pending DEL
/// can be stored.
const DRY_RUN_SOCKET: &str = "/dev/null/sluiced.sock";

/// Runs the plugin's STATUS. Returns the error if an ADD would fail.
pub(crate) fn status(plugin: &Path, entry: Map<String, Value>) -> Result<(), String> {
    let mut configuration = Map::from_iter([
        ("cniVersion".to_owned(), json!(WITH_STATUS)),
        ("name".to_owned(), json!("sluice-install")),
        ("type".to_owned(), json!(PLUGIN)),
    ]);
    configuration.extend(entry);
    run(plugin, "STATUS", &Value::Object(configuration)).map(drop)
}

/// Whether the plugin serves a network in the versions of its configuration: it must list each of them,
/// and a DEL of an unknown container must succeed.
pub(crate) fn serves(plugin: &Path, list: &str, entry: &Map<String, Value>) -> Result<(), String> {
    let name = conflist::name(list).unwrap_or_default();
    for version in conflist::versions(list) {
        let stated = if version.is_empty() {
            UNSTATED
        } else {
            &version
        };
        let said = run(plugin, "VERSION", &json!({ "cniVersion": stated }))?;
        let said: Value = serde_json::from_slice(&said)
            .map_err(|error| format!("the plugin's answer to VERSION is not JSON: {error}"))?;
        let supported = said["supportedVersions"].as_array().into_iter().flatten();
        let supported: Vec<&str> = supported.filter_map(Value::as_str).collect();
        if !supported.contains(&stated) {
            return Err(format!(
                "the plugin does not speak CNI {stated}, only {}",
                supported.join(", ")
            ));
        }
        let mut configuration = entry.clone();
        configuration.extend([
            ("cniVersion".to_owned(), json!(version)),
            ("name".to_owned(), json!(name)),
            ("socket".to_owned(), json!(DRY_RUN_SOCKET)),
        ]);
        run(plugin, "DEL", &Value::Object(configuration))?;
    }
    Ok(())
}

/// The output of a verb that succeeds.
fn run(plugin: &Path, verb: &str, configuration: &Value) -> Result<Vec<u8>, String> {
    let output = start(plugin, verb)
        .and_then(|child| talk(child, &configuration.to_string()))
        .map_err(|error| format!("the plugin cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
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

fn start(plugin: &Path, verb: &str) -> io::Result<Child> {
    let mut command = Command::new(plugin);
    command
        .env_clear()
        .env("CNI_COMMAND", verb)
        .env("CNI_PATH", plugin.parent().unwrap_or(Path::new("/")));
    if verb == "DEL" {
        command
            .env("CNI_CONTAINERID", DRY_RUN_CONTAINER)
            .env("CNI_IFNAME", "eth0");
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

fn talk(mut child: Child, configuration: &str) -> io::Result<Output> {
    if let Some(mut stdin) = child.stdin.take() {
        // The exit code shows a program that does not read its input.
        let _ = stdin.write_all(configuration.as_bytes());
    }
    child.wait_with_output()
}
