//! The built binary, as a runtime runs it, against a daemon with fixed answers.

#![expect(clippy::unwrap_used, reason = "in a test, a surprise is a failure")]

mod daemon;
mod ends;
mod input;
mod node;

use std::{io::Write as _, process::Command};

use node::{Daemon, Node, prev_result};
use serde_json::{Value, json};

const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

#[test]
fn add_reports_the_pod_and_passes_the_result_on_in_every_version() {
    for version in VERSIONS {
        let node = Node::adding();
        let conf = node.conf(version);
        let outcome = node.run("ADD", &conf);
        outcome.succeeds_with(&prev_result(version));
        // Key for key in the same order, too.
        assert_eq!(outcome.stdout.to_string(), prev_result(version).to_string());
        let (line, request_body) = outcome.request.unwrap();
        assert_eq!(line, "POST /v1/add HTTP/1.1");
        let expected = json!({
            "attachment": {"network": "pods", "container_id": "c0ffee", "ifname": "eth0"},
            "netns": "/run/netns/pod",
            "addresses": [
                {"ip": "10.1.0.5", "interface": "eth0"},
                {"ip": "fd00:1::5", "interface": "eth0"},
            ],
            "pod": {"namespace": "shop", "name": "cart", "uid": ""},
            "annotations": {"sidecar.istio.io/status": "{}"},
        });
        assert_eq!(request_body, expected, "{version}");
    }
}

#[test]
fn prev_result_is_passed_on_to_the_byte() {
    let result = r#"{ "cniVersion": "1.0.0", "ips": [], "x": [18446744073709551616, -1.50e+3,
        0.1000, 1E300, "\u00e9\/"], "x": {"": null} }"#;
    let node = Node::adding();
    let text = text_with(&node, result);
    let outcome = node.run_text("ADD", &text, &[]);
    assert!(outcome.succeeded, "{}", outcome.stderr);
    assert_eq!(outcome.text, result);
}

/// A configuration whose `prevResult` is this text.
fn text_with(node: &Node, prev_result: &str) -> String {
    let mut conf = node.conf("1.0.0");
    conf["prevResult"] = json!("PREV");
    conf.to_string().replace("\"PREV\"", prev_result)
}

#[test]
fn last_duplicate_key_wins() {
    let last = r#"{ "cniVersion": "1.0.0", "ips": [], "x": 1e400, "x": 18446744073709551616.50 }"#;
    let node = Node::adding();
    let twice = format!(r#"{{}},"prevResult": {last}"#);
    let conf = text_with(&node, &twice);
    let outcome = node.run_text("ADD", &conf, &[]);
    assert!(outcome.succeeded, "{}", outcome.text);
    assert_eq!(outcome.text, last);
}

#[test]
fn malformed_prev_result_is_rejected_locally() {
    for wrong in ["[]", "7", "\"x\"", "true"] {
        let node = Node::adding();
        let conf = text_with(&node, wrong);
        let outcome = node.run_text("ADD", &conf, &[]);
        outcome.fails_with(7, "prevResult must be an object");
        assert_eq!(outcome.request, None, "{wrong}");
    }
}

#[test]
fn verbs_exist_from_their_version_on() {
    for version in VERSIONS {
        for (verb, since) in [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")] {
            let answer = match verb {
                "CHECK" => json!(null),
                "GC" => json!({"attachments": []}),
                _ => json!({
                    "version": "0", "abi": 1, "ready": true, "programs": [],
                    "meshed_pods": 0, "unmeshed_pods": 0,
                }),
            };
            let node = Node::with(Daemon::Answers(200, answer));
            let mut conf = node.conf(version);
            conf["cni.dev/valid-attachments"] = json!([{"containerID": "c1", "ifname": "eth0"}]);
            let outcome = node.run(verb, &conf);
            if version < since {
                outcome.fails_with(1, since);
                assert_eq!(outcome.request, None);
            } else {
                outcome.succeeds_with(&Value::Null);
                assert!(outcome.request.is_some(), "{verb} {version}");
            }
        }
    }
}

#[test]
fn configuration_without_a_version_speaks_the_oldest() {
    for version in [Value::Null, json!("")] {
        let node = Node::adding();
        let mut conf = node.conf("0.1.0");
        match &version {
            Value::Null => drop(conf.as_object_mut().unwrap().remove("cniVersion")),
            empty => conf["cniVersion"] = empty.clone(),
        }
        let outcome = node.run("ADD", &conf);
        outcome.succeeds_with(&prev_result("0.1.0"));
        let addresses = &outcome.request.unwrap().1["addresses"];
        assert_eq!(
            addresses[1],
            json!({"ip": "fd00:1::5", "interface": "eth0"})
        );
    }
}

#[test]
fn add_fails_if_its_result_cannot_be_written() {
    for is_full in [true, false] {
        let node = Node::adding();
        let conf = node.conf("1.0.0").to_string();
        let mut command = Node::command("ADD");
        if is_full {
            command.stdout(std::fs::File::create("/dev/full").unwrap());
        }
        let mut plugin = command.spawn().unwrap();
        drop(plugin.stdout.take());
        let mut stdin = plugin.stdin.take().unwrap();
        stdin.write_all(conf.as_bytes()).unwrap();
        drop(stdin);
        let output = plugin.wait_with_output().unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("standard output"), "{said}");
    }
}

#[test]
fn version_answers_an_empty_input() {
    for text in ["", " \n"] {
        let outcome = Node::without_daemon().run_text("VERSION", text, &[]);
        outcome.succeeds_with(&json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS}));
    }
}

#[test]
fn result_of_another_form_is_refused() {
    let node = Node::adding();
    let mut conf = node.conf("0.4.0");
    conf["prevResult"] = prev_result("1.0.0");
    let outcome = node.run("ADD", &conf);
    outcome.fails_with(7, "prevResult.cniVersion");
    assert_eq!(outcome.request, None);

    let node = Node::adding();
    let mut conf = node.conf("1.1.0");
    conf["prevResult"]
        .as_object_mut()
        .unwrap()
        .remove("cniVersion");
    let outcome = node.run("ADD", &conf);
    assert_eq!(outcome.stdout["cniVersion"], "1.1.0");
}

#[test]
fn check_reports_what_the_runtime_knows() {
    let node = Node::with(Daemon::Answers(204, Value::Null));
    let conf = node.conf("1.0.0");
    let (line, body) = node.run("CHECK", &conf).request.unwrap();
    assert_eq!(line, "POST /v1/check HTTP/1.1");
    assert_eq!(body["netns"], "/run/netns/pod");
    assert_eq!(body["addresses"][0]["ip"], "10.1.0.5");
    assert_eq!(
        body["annotations"],
        json!({"sidecar.istio.io/status": "{}"})
    );
}

#[test]
fn version_lists_every_spec_version() {
    for version in VERSIONS {
        let outcome = Node::without_daemon().run_with(
            "VERSION",
            &json!({"cniVersion": version}),
            &[
                ("CNI_CONTAINERID", ""),
                ("CNI_IFNAME", ""),
                ("CNI_NETNS", ""),
            ],
        );
        let expected = json!({"cniVersion": version, "supportedVersions": VERSIONS});
        outcome.succeeds_with(&expected);
    }
}

#[test]
fn newer_verb_is_refused_for_an_older_version() {
    for (verb, version) in [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "0.4.0")] {
        let node = Node::without_daemon();
        let conf = node.conf(version);
        let outcome = node.run(verb, &conf);
        outcome.fails_with(1, "exists since");
        assert_eq!(outcome.stdout["cniVersion"], version, "{verb}");
    }
}

#[test]
fn running_without_cni_command_prints_usage() {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice-cni"))
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("CNI versions: 0.1.0"));
}

#[test]
fn deletion_marker_needs_a_directory_of_root() {
    let node = Node::without_daemon();
    let conf = node.conf("1.1.0");
    let directory = node.socket().with_file_name("pending-del");
    std::fs::create_dir(&directory).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&directory, open).unwrap();
    let held = node.directory();
    let outcome = node.run("DEL", &conf);
    assert!(outcome.succeeded, "{}", outcome.text);
    assert!(outcome.stderr.contains("mode 0777"), "{}", outcome.stderr);
    assert_eq!(
        std::fs::read_dir(held.path().join("pending-del"))
            .unwrap()
            .count(),
        0
    );
}
