//! Linkerd's network validator: an init container that listens on the proxy's outbound port, and expects
//! its own connection there. It exits with 95 where connections are not redirected.

use std::{env, path::Path, process::Command};

use sluice_api::{AddResponse, path};

use crate::{
    node::{Daemon, Pod},
    pods::{add, annotated},
};

/// Its user, and the arguments of Linkerd's chart: with `disableIPv6`, and without.
const USER: u32 = 65_534;
const ARGUMENTS: [[&str; 2]; 2] = [
    ["0.0.0.0:4140", "1.1.1.1:20001"],
    ["[::]:4140", "[fd00::1]:20001"],
];
/// The exit code of a failed validation.
const FAILED: i32 = 95;

/// A stand-in for the validator, for machines without it.
const PROGRAM: &str = "import os, socket, sys, threading\n\
    end = lambda text: (text.rsplit(':', 1)[0].strip('[]'), int(text.rsplit(':', 1)[1]))\n\
    token = os.urandom(32)\n\
    def serve(listener):\n\
    \x20   while True: listener.accept()[0].sendall(token)\n\
    try:\n\
    \x20   at, to = end(sys.argv[1]), end(sys.argv[2])\n\
    \x20   family = socket.AF_INET6 if ':' in at[0] else socket.AF_INET\n\
    \x20   listener = socket.create_server(at, family=family)\n\
    \x20   threading.Thread(target=serve, args=(listener,), daemon=True).start()\n\
    \x20   peer = socket.create_connection(to, 2)\n\
    \x20   peer.settimeout(2)\n\
    \x20   sys.exit(0 if peer.recv(32) == token else 95)\n\
    except OSError as error: print(error); sys.exit(95)";

/// The rules of `linkerd2-proxy-init` for connections of the Pod.
const RULES: &str = "*nat\n\
    -A OUTPUT -m owner --uid-owner 2102 -j RETURN\n\
    -A OUTPUT -o lo -j RETURN\n\
    -A OUTPUT -p tcp -j REDIRECT --to-ports 4140\n\
    COMMIT\n";

/// A Pod with a route for each family.
fn home(test: &str) -> Pod {
    let home = Pod::new(test, &["10.96.1.1/24"]);
    home.configure("link set lo up");
    home.configure("address add fd96::1/64 dev eth0 nodad");
    home.configure("route add default dev eth0");
    home.configure("-6 route add default dev eth0");
    home
}

/// Runs the validator in a Pod, in a cgroup. Returns its exit code.
fn validate(home: &Pod, members: &str, [at, to]: [&str; 2]) -> Option<i32> {
    let network = format!("--net={}", home.path());
    let join = "echo 0 >\"$1\"; shift; exec \"$@\"";
    let (user, group) = (format!("--reuid={USER}"), format!("--regid={USER}"));
    let mut command = Command::new("nsenter");
    command
        .args([&*network, "sh", "-c", join, "sh", members])
        .args(["setpriv", &user, &group, "--clear-groups"]);
    match env::var_os("NETWORK_VALIDATOR").filter(|name| !name.is_empty()) {
        Some(validator) => command.arg(Path::new(&validator)).args([
            "--timeout",
            "2s",
            "--listen-addr",
            at,
            "--connect-addr",
            to,
        ]),
        None => command.args(["/usr/bin/python3", "-c", PROGRAM, at, to]),
    };
    command.status().unwrap().code()
}

#[test]
fn validator_exits_as_with_linkerd_rules() {
    let nothing = home("validator-none");
    let ruled = home("validator-rules");
    ruled.restore_rules(RULES);
    let network = format!("--net={}", ruled.path());
    let script = "printf \"$1\" | ip6tables-restore";
    let restored = Command::new("nsenter")
        .args([&*network, "sh", "-c", script, "sh", RULES])
        .status();
    assert!(restored.unwrap().success());
    let daemon = Daemon::configured("validator", "mesh = 'linkerd'\nfamilies = 'both'\n");
    let meshed = home("validator-sluice");
    let mut request = add("validator", &meshed.path(), &["10.96.1.1", "fd96::1"]);
    let mut annotations = annotated(&[("linkerd.io/proxy-version", "edge-26.1.1")]);
    annotations.retain(|key, _| key.starts_with("linkerd"));
    request.annotations = Some(annotations);
    let answer: AddResponse = daemon.post(path::ADD, &request).ok();
    assert!(answer.meshed);
    for arguments in ARGUMENTS {
        let codes = [
            validate(&nothing, "/dev/null", arguments),
            validate(&ruled, "/dev/null", arguments),
            validate(&meshed, &daemon.members(), arguments),
        ];
        assert_eq!(codes, [Some(FAILED), Some(0), Some(0)], "{arguments:?}");
    }
}
