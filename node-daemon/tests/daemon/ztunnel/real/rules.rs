//! The rules that Istio's agent and Linkerd write into the network namespace of a Pod.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::node::Pod;

/// Writes the rules of Istio's agent for both families, and the route of connections that keep their source.
pub(super) fn write_ambient(home: &Pod) {
    let families = [
        ("iptables-restore", "127.0.0.1/32", "169.254.7.127"),
        (
            "ip6tables-restore",
            "::1/128",
            "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
        ),
    ];
    for (program, loopback, node) in families {
        restore(home, program, &text(loopback, node));
    }
    for family in ["-4", "-6"] {
        home.configure(&format!("{family} rule add fwmark 0x111/0xfff lookup 100"));
        home.configure(&format!(
            "{family} route add local default dev lo table 100"
        ));
    }
}

fn text(loopback: &str, node: &str) -> String {
    let not_own = "-m mark ! --mark 0x539/0xfff";
    format!(
        "*mangle\n\
         -A PREROUTING -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff\n\
         -A OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark\n\
         COMMIT\n\
         *nat\n\
         -A PREROUTING -s {node} -p tcp -j ACCEPT\n\
         -A PREROUTING ! -d {loopback} -p tcp ! --dport 15008 {not_own} -j REDIRECT --to-ports 15006\n\
         -A OUTPUT -d {node} -p tcp -j ACCEPT\n\
         -A OUTPUT ! -o lo -p udp {not_own} --dport 53 -j REDIRECT --to-ports 15053\n\
         -A OUTPUT ! -d {loopback} -p tcp --dport 53 {not_own} -j REDIRECT --to-ports 15053\n\
         -A OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT\n\
         -A OUTPUT ! -d {loopback} -o lo -j ACCEPT\n\
         -A OUTPUT ! -d {loopback} -p tcp {not_own} -j REDIRECT --to-ports 15001\n\
         COMMIT\n"
    )
}

/// Writes the rules of `linkerd2-proxy-init`, for IPv6 as well if `v6`. `skipped` are more outbound ports.
pub(super) fn write_linkerd(home: &Pod, v6: bool, skipped: &str) {
    let rules = format!(
        "*nat\n\
         -A PREROUTING -p tcp --match multiport --dports 4190,4191,4567,4568 -j RETURN\n\
         -A PREROUTING -p tcp -j REDIRECT --to-ports 4143\n\
         -A OUTPUT -m owner --uid-owner 2102 -j RETURN\n\
         -A OUTPUT -o lo -j RETURN\n\
         -A OUTPUT -p tcp --match multiport --dports 4567,4568{skipped} -j RETURN\n\
         -A OUTPUT -p tcp -j REDIRECT --to-ports 4140\n\
         COMMIT\n"
    );
    restore(home, "iptables-restore", &rules);
    if v6 {
        restore(home, "ip6tables-restore", &rules);
    }
}

fn restore(home: &Pod, program: &str, rules: &str) {
    let network = format!("--net={}", home.path());
    let mut child = Command::new("nsenter")
        .args([&*network, program])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(rules.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success(), "{program}: {rules}");
}
