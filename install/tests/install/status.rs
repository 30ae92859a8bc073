//! The output of `status`, with the real plugin.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    thread,
};

use serde_json::{Value, json};

use crate::host::{CHAINED, Host, LIST, built_plugin, copy_program};

fn status(host: &Host) -> (bool, Value, String) {
    let json = host.run("status", &["--json"]);
    let table = String::from_utf8(host.run("status", &[]).stdout).unwrap();
    let status = serde_json::from_slice(&json.stdout).unwrap();
    (json.status.success(), status, table)
}

/// Answers so many questions as a daemon that is ready does.
fn answer(listener: UnixListener, times: usize) -> thread::JoinHandle<()> {
    let status = json!({
        "version": "0", "abi": 0, "ready": true, "programs": [], "meshed_pods": 0,
        "unmeshed_pods": 0,
    });
    let body = status.to_string();
    thread::spawn(move || {
        for stream in listener.incoming().take(times) {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).unwrap() > 0);
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .unwrap();
        }
    })
}

#[test]
fn status_covers_runtime_plugin_and_daemon() {
    let host = Host::with(&[("05-broken.conf", "{"), ("10-calico.conflist", LIST)]);
    let (effective, before, table) = status(&host);
    assert!(!effective);
    assert_eq!(before["phase"], Value::Null);
    assert_eq!(before["plugin"], "missing");
    assert_eq!(before["unusable"][0]["name"], "05-broken.conf");
    assert!(
        table.contains("10-calico.conflist, WITHOUT the entry"),
        "{table}"
    );
    assert!(!host.path("state").exists(), "a look must change nothing");

    fs::copy(built_plugin(), host.path("image/sluice-cni")).unwrap();
    let socket = host.path("daemon.sock");
    let arguments = ["--socket", socket.to_str().unwrap()];
    assert!(host.run("install", &arguments).status.success());
    let (effective, installed, table) = status(&host);
    assert!(!effective);
    assert_eq!(installed["phase"], "installed");
    assert_eq!(
        installed["configs-with-entry"],
        json!(["10-calico.conflist"])
    );
    assert!(
        table.contains("10-calico.conflist, with the entry"),
        "{table}"
    );
    let reason = installed["daemon"]["reason"].as_str().unwrap();
    assert!(reason.contains(socket.to_str().unwrap()), "{reason}");

    let daemon = answer(UnixListener::bind(&socket).unwrap(), 2);
    let (effective, ready, table) = status(&host);
    assert!(effective, "{ready}");
    assert!(table.contains("daemon        ready"), "{table}");
    daemon.join().unwrap();
}

#[test]
fn status_reports_an_unreachable_entry() {
    let host = Host::with(&[("10-calico.conflist", LIST)]);
    assert!(host.run("install", &[]).status.success());
    host.write("00-foreign.conf", r#"{"name":"n","type":"bridge"}"#);
    fs::set_permissions(host.plugin(), fs::Permissions::from_mode(0o644)).unwrap();
    let (effective, status, table) = status(&host);
    assert!(!effective);
    assert_eq!(status["selected"], "00-foreign.conf");
    assert!(table.contains("cannot be executed"), "{table}");
    assert!(
        table.contains("00-foreign.conf, WITHOUT the entry"),
        "{table}"
    );
}

#[test]
fn status_names_what_makes_every_add_fail() {
    let list = CHAINED.replacen('{', "{\n  \"cniVersion\": \"9.9.9\",", 1);
    let list = list.replace(
        "{\"type\": \"calico\"}",
        "{\"type\": \"calico\"}, {\"type\": \"istio-cni\"}",
    );
    let host = Host::with(&[("10-calico.conflist", &list)]);
    fs::create_dir(host.path("bin")).unwrap();
    copy_program(&built_plugin(), &host.plugin());
    let (effective, status, table) = status(&host);
    assert!(!effective);
    let reason = status["unserved"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("does not speak CNI 9.9.9"), "{reason}");
    assert!(
        table.contains("ADD FAILS     10-calico.conflist"),
        "{table}"
    );
    assert!(
        table.contains("CONFLICT      10-calico.conflist also runs istio-cni"),
        "{table}"
    );
}

#[test]
fn every_file_that_a_runtime_may_use_carries_the_entry() {
    let list = |kind: &str| LIST.replace("calico", kind);
    let rows = [
        ("10-a.conflist", "absent"),
        ("20-b.conflist", "bridge"),
        ("30-c.conflist", "ptp"),
    ];
    let host = Host::new();
    for (name, kind) in rows {
        host.write(name, &list(kind));
    }
    fs::create_dir(host.path("bin")).unwrap();
    for plugin in ["bridge", "ptp"] {
        fs::write(host.path("bin").join(plugin), "").unwrap();
    }
    let before = host.tree();
    let said = host.succeed("install");
    assert!(
        said.contains("10-a.conflist: its plugin 'absent' is not in"),
        "{said}"
    );
    let (_, status, table) = status(&host);
    assert_eq!(
        status["candidates"],
        json!(["10-a.conflist", "20-b.conflist"])
    );
    assert_eq!(status["configs-with-entry"], status["candidates"]);
    assert!(
        table.contains("runtime uses  10-a.conflist, with the entry"),
        "{table}"
    );
    assert!(
        table.contains("or            20-b.conflist, with the entry"),
        "{table}"
    );
    assert_eq!(host.read("30-c.conflist"), list("ptp"));
    host.succeed("uninstall");
    assert_eq!(host.tree(), before);
}
