//! Input that is invalid, hostile or endless.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::node::{Daemon, Node};

#[test]
fn input_without_end_fails_after_the_deadline() {
    let started = Instant::now();
    let mut plugin = Node::command("ADD").spawn().unwrap();
    let mut stdin = plugin.stdin.take().unwrap();
    stdin.write_all(b"{").unwrap();
    assert!(!plugin.wait().unwrap().success());
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_secs(8), "{elapsed:?}");
    drop(stdin);
}

#[test]
fn invalid_input_is_rejected_locally() {
    let rows: [(&str, &str, u64, &str); 5] = [
        ("CNI_COMMAND", "MOVE", 4, "'MOVE'"),
        ("CNI_CONTAINERID", "../x", 4, "CNI_CONTAINERID"),
        ("CNI_IFNAME", "a/b", 4, "CNI_IFNAME"),
        ("CNI_NETNS", "", 4, "CNI_NETNS"),
        ("CNI_ARGS", "nonsense", 4, "CNI_ARGS"),
    ];
    for (variable, value, code, part) in rows {
        let node = Node::adding();
        let conf = node.conf("1.0.0");
        let outcome = node.run_with("ADD", &conf, &[(variable, value)]);
        outcome.fails_with(code, part);
        assert_eq!(outcome.request, None);
    }
    let rows: [(&str, Value, u64, &str); 6] = [
        (
            "sokcet",
            json!("/run/x"),
            2,
            "'sokcet' with the value \\\"/run/x\\\"",
        ),
        ("timeoutSeconds", json!("five"), 7, "timeoutSeconds"),
        ("prevResult", Value::Null, 7, "after the main plugin"),
        (
            "prevResult",
            json!({"ips": [{"address": "10.0.0.1"}]}),
            7,
            "ips[0].address",
        ),
        ("cniVersion", json!("2.0.0"), 1, "2.0.0"),
        ("cniVersion", json!(1), 7, "cniVersion"),
    ];
    for (key, value, code, part) in rows {
        let node = Node::adding();
        let mut conf = node.conf("1.0.0");
        conf[key] = value;
        let outcome = node.run("ADD", &conf);
        outcome.fails_with(code, part);
        assert_eq!(outcome.request, None);
    }
}

/// Control characters, and one that reverses the direction of text.
const HOSTILE: &str = "a\nERROR forged\u{1b}[2J\u{9b}\u{202e}\u{200b}";

#[track_caller]
fn is_one_safe_line(text: &str) {
    let safe = |one| (' '..='~').contains(&one) || one == '…';
    assert!(text.chars().all(safe), "{text:?}");
    assert!(
        text.chars().count() <= sluice_api::text::LONGEST,
        "{}",
        text.len()
    );
}

#[test]
fn error_objects_quote_hostile_text_in_one_line() {
    let long = HOSTILE.repeat(1000);
    let refusal = json!({"code": 100, "message": &long, "details": &long});
    let refused = Node::with(Daemon::Answers(422, refusal));
    let conf = refused.conf("1.1.0");
    let refused = refused.run("ADD", &conf);

    let node = Node::adding();
    let mut conf = node.conf("1.1.0");
    conf[&long] = json!(1);
    let unknown_key = node.run("ADD", &conf);

    let node = Node::adding();
    let conf = node.conf("1.1.0");
    let environment = [("CNI_CONTAINERID", HOSTILE), ("CNI_ARGS", HOSTILE)];
    let environment = node.run_with("ADD", &conf, &environment);

    let node = Node::adding();
    let mut conf = node.conf("1.1.0");
    conf["cniVersion"] = json!(long);
    let version = node.run("ADD", &conf);

    for outcome in [refused, unknown_key, environment, version] {
        assert!(!outcome.succeeded);
        let part = |key: &str| outcome.stdout[key].as_str().unwrap_or_default();
        for text in ["msg", "details", "cniVersion"].map(part) {
            is_one_safe_line(text);
        }
        assert!(
            part("msg").contains("a\\nERROR forged\\u{1b}[2J"),
            "{}",
            outcome.text
        );
    }
}
