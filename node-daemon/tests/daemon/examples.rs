//! Tests of the documentation's shell examples: they run, against a daemon with the Pod of the examples.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use sluice_abi::ABI_VERSION;
use sluice_api::{AddResponse, path};
use sluice_testbed::pages;

use crate::{
    node::{Daemon, Pod},
    pods::add,
};

/// Commands that run until they are stopped, write into the system, or examine the whole node: only
/// their arguments are parsed.
const PARSED: [&str; 7] = [
    "run",
    "monitor",
    "detach",
    "check-kernel",
    "man",
    "doctor",
    "bug-report",
];

/// The file of the examples of `sluiced decide`.
const POD: &str =
    "{apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop}, spec: {containers: []}}";

/// The fenced blocks of every page.
fn blocks() -> Vec<String> {
    let read = |text: String| {
        let fenced = text.split("```").skip(1).step_by(2);
        // The first line names the language.
        let body = fenced.filter_map(|block| Some(block.split_once('\n')?.1.to_owned()));
        body.collect::<Vec<_>>()
    };
    pages::texts().unwrap().into_iter().flat_map(read).collect()
}

/// The pins in commands of the pages: `/sys/fs/bpf/sluice/v*/PIN`.
fn pins() -> Vec<String> {
    let blocks = blocks();
    let words = blocks.iter().flat_map(|block| block.split_whitespace());
    let pins: Vec<_> = words
        .filter_map(|word| Some(word.strip_prefix("/sys/fs/bpf/sluice/v*/")?.to_owned()))
        .collect();
    assert!(pins.len() >= 5, "{pins:?}");
    pins
}

fn success(example: &str, output: &Output) {
    assert!(
        output.status.success() && !output.stdout.is_empty(),
        "{example}\n{output:?}"
    );
}

/// The words of a `sluiced` command in a line, also of one behind `kubectl exec … --`.
fn arguments(line: &str) -> Option<Vec<&str>> {
    let line = line.trim().trim_start_matches("$ ");
    let line = line.split(" >").next()?.split(" #").next()?;
    let line = line.rsplit_once(" -- ").map_or(line, |(_, inside)| inside);
    let words: Vec<_> = line.split_whitespace().collect();
    let (program, words) = words.split_first()?;
    (*program == "sluiced" && !words.is_empty()).then(|| words.to_vec())
}

/// Runs a command of the pages, or has its arguments parsed.
fn run(words: &[&str], socket: &str, files: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluiced"));
    command.args(words).current_dir(files);
    match words[0] {
        verb if PARSED.contains(&verb) => command.arg("--help"),
        "completions" | "decide" => &mut command,
        _ => command.args(["--socket", socket]),
    };
    success(&words.join(" "), &command.output().unwrap());
}

#[test]
fn examples_of_the_pages_succeed() {
    let daemon = Daemon::start("examples");
    let pod = Pod::new("examples", &["10.1.0.7/24"]);
    let mut request = add("9f3c2a7be01d", &pod.path(), &["10.1.0.7"]);
    request.pod.name = "cart".into();
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let socket = daemon.socket.to_str().unwrap();
    let files = tempfile::tempdir().unwrap();
    for name in ["deployment.yaml", "pods.yaml"] {
        fs::write(files.path().join(name), POD).unwrap();
    }
    let mut count = 0;
    for block in blocks() {
        for words in block.lines().filter_map(arguments) {
            run(&words, socket, files.path());
            count += 1;
        }
        if block.trim_start().starts_with("curl ") {
            let script = block.replace("/run/sluice/sluiced.sock", socket);
            success(
                &script,
                &Command::new("sh").args(["-ec", &script]).output().unwrap(),
            );
            count += 1;
        }
    }
    assert!(count >= 20, "{count} examples");
    for pin in pins() {
        let path = daemon.pins().join(format!("v{ABI_VERSION}/{pin}"));
        assert!(path.exists(), "{pin}");
    }
}
