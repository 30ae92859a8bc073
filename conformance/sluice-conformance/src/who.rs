//! Which Pods are intercepted, and how: the daemon's decision on a corpus of Pods as the meshes'
//! injectors make them, compared with what each mesh's own CNI plugin or init container does.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The corpus. A file has the Pods of one mesh.
const CORPUS: [&str; 6] = [
    include_str!("../corpus/istio.yaml"),
    include_str!("../corpus/ambient.yaml"),
    include_str!("../corpus/kuma.yaml"),
    include_str!("../corpus/linkerd.yaml"),
    include_str!("../corpus/osm.yaml"),
    include_str!("../corpus/consul.yaml"),
];

/// Options of `who`.
#[derive(Args)]
pub(crate) struct Options {
    /// The node daemon under test.
    #[arg(long, env = "SLUICED", default_value = "target/release/sluiced")]
    sluiced: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The Pods of one mesh.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mesh: String,
    pods: Vec<Expected>,
}

/// A Pod with the expected decision.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    name: String,
    /// Where that is stated: a mesh, and a file of its sources.
    source: String,
    #[serde(default)]
    annotations: Map<String, Value>,
    /// Labels and spec are known to the decision if one of them is there.
    labels: Option<Map<String, Value>>,
    spec: Option<Map<String, Value>>,
    expect: String,
    /// Part of the reason.
    #[serde(default)]
    reason: String,
    /// Settings that count, as `sluiced decide` prints them.
    #[serde(default)]
    settings: Map<String, Value>,
}

/// The output of `sluiced decide` for a Pod.
#[derive(Deserialize)]
struct Decision {
    #[serde(rename = "decision")]
    outcome: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    settings: Map<String, Value>,
}

/// A row of the table.
#[derive(Serialize)]
struct Row {
    mesh: String,
    pod: String,
    source: String,
    expected: String,
    decision: String,
    reason: String,
    /// The differences to the expected answer.
    wrong: String,
}

/// Decides on the whole corpus. Whether every decision is right.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let mut rows = Vec::new();
    for text in CORPUS {
        let file: File = serde_saphyr::from_str(text).context("the corpus cannot be read")?;
        let is_whole = |one: &Expected| one.labels.is_some() || one.spec.is_some();
        let (whole, annotations) = file.pods.into_iter().partition(is_whole);
        rows.extend(decide(options, &file.mesh, annotations, true)?);
        rows.extend(decide(options, &file.mesh, whole, false)?);
    }
    let wrong = rows.iter().filter(|row| !row.wrong.is_empty()).count();
    let mut out = std::io::stdout().lock();
    if options.json {
        serde_json::to_writer_pretty(&mut out, &rows)?;
        writeln!(out)?;
    } else {
        for row in &rows {
            writeln!(out, "{}", line(row))?;
        }
        writeln!(out, "{} Pods, {wrong} wrong", rows.len())?;
    }
    Ok(wrong == 0)
}

fn line(row: &Row) -> String {
    let Row {
        mesh,
        pod,
        decision,
        reason,
        wrong,
        source,
        ..
    } = row;
    let mut line = format!("{mesh:8} {decision:16} {pod}");
    if !reason.is_empty() {
        let _ = write!(line, ": {reason}");
    }
    if !wrong.is_empty() {
        let _ = write!(line, "\n         WRONG: {wrong} ({source})");
    }
    line
}

/// Asks the daemon about all Pods of a mesh at once.
fn decide(
    options: &Options,
    mesh: &str,
    pods: Vec<Expected>,
    annotations_only: bool,
) -> Result<Vec<Row>> {
    if pods.is_empty() {
        return Ok(Vec::new());
    }
    let items: Vec<Value> = pods.iter().map(manifest).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let mut command = Command::new(&options.sluiced);
    command.args(["decide", "--json", "--file", "-", "--mesh", mesh]);
    if annotations_only {
        command.arg("--annotations-only");
    }
    // An operator's configuration must not count.
    let empty = tempfile::NamedTempFile::new()?;
    command.arg("--config").arg(empty.path());
    let mut child = (command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn())
        .with_context(|| format!("cannot run {}", options.sluiced.display()))?;
    let mut input = child.stdin.take().context("no standard input")?;
    input.write_all(list.to_string().as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "sluiced decide: {}", output.status);
    let decisions: Vec<Decision> = serde_json::from_slice(&output.stdout)?;
    ensure!(decisions.len() == pods.len(), "a decision is missing");
    let rows = pods.into_iter().zip(decisions);
    Ok(rows
        .map(|(pod, decision)| judge(mesh, pod, decision))
        .collect())
}

fn manifest(pod: &Expected) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": pod.name, "annotations": pod.annotations, "labels": pod.labels },
        "spec": pod.spec.clone().unwrap_or_default(),
    })
}

fn judge(mesh: &str, pod: Expected, decision: Decision) -> Row {
    let mut wrong = Vec::new();
    if decision.outcome != pod.expect {
        wrong.push(format!("expected {}", pod.expect));
    }
    if !decision.reason.contains(&pod.reason) {
        wrong.push(format!("the reason does not name {}", pod.reason));
    }
    for (key, expected) in &pod.settings {
        let present = decision.settings.get(key).unwrap_or(&Value::Null);
        if present != expected {
            wrong.push(format!("{key} is {present}, expected {expected}"));
        }
    }
    Row {
        mesh: mesh.to_owned(),
        pod: pod.name,
        source: pod.source,
        expected: pod.expect,
        decision: decision.outcome,
        reason: decision.reason,
        wrong: wrong.join("; "),
    }
}
