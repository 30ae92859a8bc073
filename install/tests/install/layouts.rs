//! Layouts of distributions and networks, each through its whole life: installed, Pods added and
//! deleted by libcni (through cnitool) as the configuration says, rewritten by its owner while
//! the watcher runs, uninstalled.
//!
//! The layouts are the situations below `tests/golden` that name their `network`. Plugins that this
//! machine has are run. One of a vendor has a stand-in: for the first of a list `ptp`, for others
//! `bandwidth`, each with the name and the version of the configuration. Of Multus the network to which
//! it delegates is run.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    chain::{Namespace, cnitool, tool},
    golden::{self, host, situations, text},
    host::{Host, built_plugin, copy_program, tree},
};

/// A plugin of no distribution: it takes the place of a vendor's. Of the configuration it keeps name
/// and version; what it answers is a real plugin's answer.
const FIRST: &str = r#"#!/bin/sh
conf=$(cat)
key() { printf %s "$conf" | grep -o "\"$1\":\"[^\"]*\"" | head -n 1 | cut -d '"' -f 4; }
printf '{"cniVersion":"%s","name":"%s","type":"ptp","ipam":{"type":"host-local",
    "dataDir":"LEASES","ranges":[[{"subnet":"10.99.0.0/24"}],[{"subnet":"fd00:99::/64"}]]}}' \
    "$(key cniVersion)" "$(key name)" | exec PLUGINS/ptp
"#;
const FURTHER: &str = "#!/bin/sh\nexec PLUGINS/bandwidth\n";

/// The types of the plugins that a runtime starts.
fn kinds(list: &Value) -> Vec<String> {
    let plugins = list["plugins"].as_array().into_iter().flatten();
    plugins
        .map(|plugin| plugin["type"].as_str().unwrap().to_owned())
        .collect()
}

/// The list of the network that a runtime chooses among the files.
fn chosen(host: &Host, network: &str) -> Value {
    let mut names: Vec<_> = tree(&host.conf).into_keys().collect();
    names.retain(|name| name.ends_with(".conflist"));
    let read = |name: String| serde_json::from_str::<Value>(&host.read(&name)).ok();
    let mut lists = names.into_iter().filter_map(read);
    lists.find(|list| list["name"] == network).unwrap()
}

/// The network to which Multus delegates, in a directory of its own: Multus gives it to libcni as it
/// stands.
fn delegated(host: &Host) -> Value {
    let multus: Value = serde_json::from_str(&host.read("00-multus.conf")).unwrap();
    let list = multus["delegates"][0].clone();
    fs::create_dir_all(host.path("delegated")).unwrap();
    fs::write(host.path("delegated/10.conflist"), list.to_string()).unwrap();
    list
}

/// Puts a stand-in in the place of every plugin that is not on this machine.
fn stand_in(host: &Host, kinds: &[String]) {
    let plugins = PathBuf::from(tool("CNI_PLUGINS", "/usr/lib/cni"));
    for (index, kind) in kinds.iter().enumerate() {
        if kind == "sluice-cni" || plugins.join(kind).exists() {
            continue;
        }
        let script = if index == 0 { FIRST } else { FURTHER };
        let script = script
            .replace("LEASES", host.path("cni/networks/vendor").to_str().unwrap())
            .replace("PLUGINS", plugins.to_str().unwrap());
        let written = host.path("image/stand-in");
        fs::write(&written, script).unwrap();
        fs::set_permissions(&written, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(host.path("vendor")).unwrap();
        copy_program(&written, &host.path("vendor").join(kind));
    }
}

/// Adds a Pod and deletes it, on a node of its own. Nothing may be left of it.
fn add_and_delete(host: &Host, network: &str) {
    let is_delegated = host.read("00-multus.conf").contains("\"delegates\"");
    let (list, conf) = if is_delegated {
        (delegated(host), host.path("delegated"))
    } else {
        (chosen(host, network), host.conf.clone())
    };
    assert!(kinds(&list).contains(&"sluice-cni".to_owned()), "{list}");
    stand_in(host, &kinds(&list));
    let (node, pod) = (Namespace::new(), Namespace::new());
    let run = |verb: &str| {
        let output = cnitool(host, &conf, (verb, network), &node, &pod);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{verb} of {list}: {said}");
        output.stdout
    };
    let result: Value = serde_json::from_slice(&run("add")).unwrap();
    let version = list["cniVersion"]
        .as_str()
        .filter(|version| !version.is_empty());
    let addresses = match version.unwrap_or("0.1.0") {
        "0.1.0" | "0.2.0" => &result["ip4"]["ip"],
        _ => &result["ips"][0]["address"],
    };
    assert!(addresses.is_string(), "{list}: {result}");
    run("del");
    let left = tree(&host.path("cni")).into_keys();
    // host-local keeps a lock, and the last address that it gave.
    let mut left =
        left.filter(|name| !name.contains("/lock") && !name.contains("last_reserved_ip"));
    assert_eq!(left.next(), None, "{list}");
    fs::remove_dir_all(host.path("cni")).unwrap();
    for made in ["vendor", "delegated"] {
        let _ = fs::remove_dir_all(host.path(made));
    }
}

/// The owner writes every file of the directory anew while the watcher runs.
fn rewritten_while_watched(host: &Host, situation: &Path, arguments: &[&str]) {
    let installed = host.tree();
    let mut command = host.command("run");
    let mut watcher = command
        .args(arguments)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for file in fs::read_dir(situation.join("before")).unwrap().flatten() {
        if file.file_type().unwrap().is_file() {
            fs::write(
                host.conf.join(file.file_name()),
                fs::read(file.path()).unwrap(),
            )
            .unwrap();
        }
    }
    let started = Instant::now();
    while host.tree() != installed {
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{}",
            situation.display()
        );
        sleep(Duration::from_millis(10));
    }
    let pid = i32::try_from(watcher.id()).unwrap();
    sleep(Duration::from_millis(200));
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    assert!(watcher.wait().unwrap().success());
    assert_eq!(host.tree(), installed, "{}", situation.display());
}

fn check(situation: &Path, network: &str) {
    let host = host(situation, "before");
    let before = host.tree();
    fs::copy(built_plugin(), host.path("image/sluice-cni")).unwrap();
    let arguments = text(situation, "arguments");
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let installed = host.run("install", &arguments);
    let said = String::from_utf8_lossy(&installed.stderr);
    assert!(
        installed.status.success(),
        "{}: {said}",
        situation.display()
    );
    add_and_delete(&host, network);
    rewritten_while_watched(&host, situation, &arguments);
    add_and_delete(&host, network);
    host.succeed("uninstall");
    let restored = golden::host(situation, "restored");
    if situation.join("restored").exists() {
        host.assert_clean(&restored.tree());
    } else {
        host.assert_clean(&before);
    }
}

#[test]
fn layouts_of_distributions_and_networks_add_and_delete_pods() {
    let mut layouts = situations();
    layouts.retain(|situation| situation.join("network").exists());
    assert!(layouts.len() >= 39, "{}", layouts.len());
    // Each waits most of the time.
    thread::scope(|scope| {
        for part in layouts.chunks(layouts.len().div_ceil(6)) {
            scope.spawn(move || {
                for situation in part {
                    let network = text(situation, "network");
                    check(situation, network.trim());
                }
            });
        }
    });
}
