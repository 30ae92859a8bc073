//! DEL and GC: how attachments end.

use std::{fs::OpenOptions, io::Write as _};

use serde_json::{Value, json};

use crate::{
    VERSIONS,
    node::{Daemon, Node, pending_deletions},
};

#[test]
fn del_succeeds_in_every_version_without_optional_input() {
    for version in VERSIONS {
        let node = Node::deleting();
        let conf = node.conf(version);
        let outcome = node.run("DEL", &conf);
        outcome.succeeds_with(&Value::Null);
        assert_eq!(outcome.request.unwrap().0, "POST /v1/del HTTP/1.1");

        let node = Node::without_daemon();
        let mut conf = node.conf(version);
        conf.as_object_mut().unwrap().remove("prevResult");
        let outcome = node.run_with("DEL", &conf, &[("CNI_NETNS", ""), ("CNI_ARGS", "")]);
        outcome.succeeds_with(&Value::Null);
        assert!(
            outcome.stderr.contains("without the daemon"),
            "{}",
            outcome.stderr
        );
    }
}

#[test]
fn del_succeeds_with_a_wrong_configuration() {
    let rows: [(&str, Value, &str); 9] = [
        ("sokcet", json!("/run/x"), "'sokcet'"),
        ("timeoutSeconds", json!("five"), "timeoutSeconds"),
        (
            "runtimeConfig",
            json!([]),
            "runtimeConfig must be an object",
        ),
        ("cniVersion", json!("9.9.9"), "'9.9.9' is not supported"),
        ("cniVersion", json!(1), "cniVersion must be a string"),
        ("prevResult", json!(7), ""),
        ("prevResult", json!({"cniVersion": "0.1.0", "ips": 1}), ""),
        ("cni.dev/valid-attachments", json!(7), "must be a list"),
        ("name", json!(7), "name must be a string"),
    ];
    for (key, value, problem) in rows {
        let node = Node::deleting();
        let mut conf = node.conf("1.0.0");
        conf[key] = value;
        let outcome = node.run("DEL", &conf);
        outcome.succeeds_with(&Value::Null);
        assert!(outcome.stderr.contains(problem), "{}", outcome.stderr);
        let (line, attachment) = outcome.request.unwrap();
        assert_eq!(line, "POST /v1/del HTTP/1.1");
        let network = if key == "name" { "" } else { "pods" };
        assert_eq!(attachment["network"], network);
        assert_eq!(attachment["container_id"], "c0ffee");
    }
}

#[test]
fn del_of_an_unreadable_entry_succeeds_with_a_message() {
    for text in ["", "{", "[]", "null", "\u{fe}"] {
        let outcome = Node::without_daemon().run_text("DEL", text, &[]);
        outcome.succeeds_with(&Value::Null);
        assert!(
            outcome.stderr.contains("the configuration"),
            "{}",
            outcome.stderr
        );
    }
}

#[test]
fn del_that_the_daemon_refuses_succeeds_and_is_replayed() {
    let refusal = json!({"code": 104, "message": "no memory", "details": ""});
    let node = Node::with(Daemon::Answers(500, refusal));
    let directory = node.directory();
    let pending = sluice_api::pending_dels_dir(&node.socket());
    std::fs::create_dir(pending).unwrap();
    let conf = node.conf("1.0.0");
    let outcome = node.run("DEL", &conf);
    outcome.succeeds_with(&Value::Null);
    assert!(outcome.stderr.contains("no memory"), "{}", outcome.stderr);
    let pending = pending_deletions(&directory);
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0]["container_id"], "c0ffee");
}

#[test]
fn del_without_a_log_succeeds_and_is_stored() {
    let node = Node::without_daemon();
    let directory = node.directory();
    std::fs::create_dir(sluice_api::pending_dels_dir(&node.socket())).unwrap();
    let conf = node.conf("1.1.0").to_string();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut plugin = Node::command("DEL").stderr(full).spawn().unwrap();
    let mut stdin = plugin.stdin.take().unwrap();
    stdin.write_all(conf.as_bytes()).unwrap();
    drop(stdin);
    assert!(plugin.wait().unwrap().success());
    assert_eq!(pending_deletions(&directory).len(), 1);
}

/// Sluice was uninstalled, and the runtime repeats a DEL by a cached configuration.
#[test]
fn del_after_the_last_daemon_leaves_nothing() {
    let node = Node::without_daemon();
    let directory = node.directory();
    let conf = node.conf("1.1.0");
    node.run("DEL", &conf).succeeds_with(&Value::Null);
    assert!(pending_deletions(&directory).is_empty());
    assert!(!sluice_api::pending_dels_dir(&directory.path().join("daemon.sock")).exists());
}

#[test]
fn del_without_a_container_is_refused() {
    let node = Node::deleting();
    let conf = node.conf("1.0.0");
    let outcome = node.run_with("DEL", &conf, &[("CNI_CONTAINERID", "")]);
    outcome.fails_with(4, "CNI_CONTAINERID");
}

#[test]
fn gc_without_a_list_collects_nothing() {
    let node = Node::deleting();
    let conf = node.conf("1.1.0");
    let outcome = node.run("GC", &conf);
    outcome.succeeds_with(&Value::Null);
    assert_eq!(outcome.request, None);
}

#[test]
fn gc_hands_the_list_over() {
    let list = json!([{"containerID": "c1", "ifname": "eth0"}]);
    let kept = json!([{"container_id": "c1", "ifname": "eth0"}]);
    // Go writes an empty list as `null`, and libcni has two names for it.
    let rows = [
        ("cni.dev/valid-attachments", list.clone(), kept.clone()),
        ("cni.dev/attachments", list, kept),
        ("cni.dev/valid-attachments", Value::Null, json!([])),
        ("cni.dev/attachments", json!([]), json!([])),
    ];
    for (key, list, valid) in rows {
        let node = Node::deleting();
        let mut conf = node.conf("1.1.0");
        conf[key] = list;
        let (line, body) = node.run("GC", &conf).request.unwrap();
        assert_eq!(line, "POST /v1/gc HTTP/1.1");
        assert_eq!(body, json!({"network": "pods", "valid": valid}));
    }
}
