//! The rules themselves, in the order in which Istio writes them: the first that matches wins.

use super::plan::{Inbound, Plan, Ports, Range, Ranges};
use crate::mesh::NodeWide;

/// The mark of packets that a transparent proxy takes.
pub(super) const MARK: &str = "1337";

const OUTBOUND_PORT: u16 = 15001;
const INBOUND_PORT: u16 = 15006;
const HBONE: u16 = 15008;
const DNS_PORT: u16 = 15053;

/// Differences between the rules of the two families.
pub(super) struct Family {
    pub(super) loopback: &'static str,
    /// The proxy's source towards its application.
    pub(super) passthrough: &'static str,
    pub(super) v4: bool,
}

pub(super) const V4: Family = Family {
    loopback: "127.0.0.1/32",
    passthrough: "127.0.0.6/32",
    v4: true,
};
pub(super) const V6: Family = Family {
    loopback: "::1/128",
    passthrough: "::6/128",
    v4: false,
};

impl Family {
    fn has(&self, range: &Range) -> bool {
        range.address.is_ipv4() == self.v4
    }
}

/// A table under construction.
pub(super) struct Table(Vec<String>);

impl Table {
    pub(super) fn new(name: &str, chains: &[&str]) -> Self {
        let mut lines = vec![format!("*{name}")];
        lines.extend(chains.iter().map(|chain| format!("-N {chain}")));
        Self(lines)
    }

    pub(super) fn add(&mut self, rule: impl AsRef<str>) {
        self.0.push(format!("-A {}", rule.as_ref()));
    }

    pub(super) fn end(mut self) -> String {
        self.0.push("COMMIT\n".to_owned());
        self.0.join("\n")
    }
}

/// The input of `iptables-restore`.
pub(super) fn rules(plan: &Plan, family: &Family) -> String {
    let loopback = plan.node_wide.as_ref().map(|node| node.loopback);
    let family = &Family {
        loopback: loopback.filter(|_| family.v4).unwrap_or(family.loopback),
        ..*family
    };
    let mut rules = String::new();
    if plan.transparent {
        rules += &mangle(plan, family);
    }
    rules += &nat(plan, family);
    if plan.dns {
        rules += &raw(plan);
    }
    rules
}

fn nat(plan: &Plan, family: &Family) -> String {
    let mut table = Table::new(
        "nat",
        &[
            "ISTIO_INBOUND",
            "ISTIO_REDIRECT",
            "ISTIO_IN_REDIRECT",
            "ISTIO_OUTPUT",
            "ISTIO_OUTPUT_DNS",
        ],
    );
    forwarded(&mut table, plan, family);
    skip_interfaces(&mut table, plan);
    table.add(format!("ISTIO_INBOUND -p tcp --dport {HBONE} -j RETURN"));
    table.add(format!(
        "ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports {OUTBOUND_PORT}"
    ));
    table.add(format!(
        "ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports {INBOUND_PORT}"
    ));
    if !plan.transparent {
        table.add("PREROUTING -p tcp -j ISTIO_INBOUND");
        inbound(&mut table, plan, &["-j ISTIO_IN_REDIRECT"]);
    }
    table.add("OUTPUT -j ISTIO_OUTPUT");
    for Ports(ports) in &plan.exclude_outbound_ports {
        for protocol in ["tcp", "udp"] {
            table.add(format!(
                "ISTIO_OUTPUT -p {protocol} --dport {ports} -j RETURN"
            ));
        }
    }
    table.add(format!(
        "ISTIO_OUTPUT -o lo -s {} -j RETURN",
        family.passthrough
    ));
    owners(&mut table, plan, family);
    groups(&mut table, plan);
    if plan.dns {
        dns(&mut table, plan);
    }
    destinations(&mut table, plan, family);
    table.end()
}

/// Istio inserts these before all others, each before the one before.
fn forwarded(table: &mut Table, plan: &Plan, family: &Family) {
    for interface in &plan.virtual_interfaces {
        match &plan.include_ranges {
            Ranges::Every => {
                table.add(format!("PREROUTING -i {interface} -j ISTIO_REDIRECT"));
            }
            Ranges::Only(ranges) => {
                for Range { address, prefix } in ranges.iter().filter(|one| family.has(one)) {
                    table.add(format!(
                        "PREROUTING -i {interface} -d {address}/{prefix} -j ISTIO_REDIRECT"
                    ));
                }
            }
        }
    }
    for interface in &plan.virtual_interfaces {
        table.add(format!("PREROUTING -i {interface} -j RETURN"));
    }
}

fn skip_interfaces(table: &mut Table, plan: &Plan) {
    for interface in &plan.exclude_interfaces {
        table.add(format!("PREROUTING -i {interface} -j RETURN"));
        table.add(format!("OUTPUT -o {interface} -j RETURN"));
    }
}

fn inbound(table: &mut Table, plan: &Plan, targets: &[&str]) {
    match &plan.inbound {
        Inbound::Except(except) => {
            for Ports(ports) in except {
                table.add(format!("ISTIO_INBOUND -p tcp --dport {ports} -j RETURN"));
            }
            for target in targets {
                table.add(format!("ISTIO_INBOUND -p tcp {target}"));
            }
        }
        Inbound::Only(only) => {
            for Ports(ports) in only {
                for target in targets {
                    table.add(format!("ISTIO_INBOUND -p tcp --dport {ports} {target}"));
                }
            }
        }
    }
}

/// What the `owner` match compares for the proxy: its user, and its group.
fn proxy(plan: &Plan) -> [String; 2] {
    let Plan { uid, gid, .. } = plan;
    [format!("--uid-owner {uid}"), format!("--gid-owner {gid}")]
}

/// Who calls decides, over `lo` and elsewhere: for the user, then again for the group.
fn owners(table: &mut Table, plan: &Plan, Family { loopback, .. }: &Family) {
    for (index, owner) in proxy(plan).into_iter().enumerate() {
        // Only the rule for the user spares DNS.
        let spared = if plan.dns && index == 0 {
            format!("-m multiport ! --dports 53,{HBONE}")
        } else {
            format!("! --dport {HBONE}")
        };
        table.add(format!(
            "ISTIO_OUTPUT -o lo ! -d {loopback} -p tcp {spared} -m owner {owner} \
             -j ISTIO_IN_REDIRECT"
        ));
        if !plan.takes_loopback() {
            let kind = if plan.dns { "-p tcp ! --dport 53 " } else { "" };
            table.add(format!(
                "ISTIO_OUTPUT -o lo {kind}-m owner ! {owner} -j RETURN"
            ));
        }
        table.add(format!("ISTIO_OUTPUT -m owner {owner} -j RETURN"));
    }
}

/// Whose calls are redirected, on a node with such a setting.
fn groups(table: &mut Table, plan: &Plan) {
    if let Some(NodeWide {
        group, included, ..
    }) = &plan.node_wide
    {
        let negated = if *included { "! " } else { "" };
        table.add(format!(
            "ISTIO_OUTPUT -m owner {negated}--gid-owner {group} -j RETURN"
        ));
    }
}

fn dns(table: &mut Table, plan: &Plan) {
    table.add("ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS");
    table.add(format!(
        "ISTIO_OUTPUT_DNS -p tcp --dport 53 -j REDIRECT --to-ports {DNS_PORT}"
    ));
    for owner in proxy(plan) {
        table.add(format!(
            "ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner {owner} -j RETURN"
        ));
    }
    table.add(format!(
        "ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-ports {DNS_PORT}"
    ));
}

fn destinations(table: &mut Table, plan: &Plan, family: &Family) {
    table.add(format!("ISTIO_OUTPUT -d {} -j RETURN", family.loopback));
    for Range { address, prefix } in plan.exclude_ranges.iter().filter(|range| family.has(range)) {
        table.add(format!("ISTIO_OUTPUT -d {address}/{prefix} -j RETURN"));
    }
    for Ports(ports) in &plan.include_outbound_ports {
        table.add(format!(
            "ISTIO_OUTPUT -p tcp --dport {ports} -j ISTIO_REDIRECT"
        ));
    }
    match &plan.include_ranges {
        Ranges::Every => table.add("ISTIO_OUTPUT -j ISTIO_REDIRECT"),
        Ranges::Only(only) => {
            for Range { address, prefix } in only.iter().filter(|range| family.has(range)) {
                table.add(format!(
                    "ISTIO_OUTPUT -d {address}/{prefix} -j ISTIO_REDIRECT"
                ));
            }
        }
    }
}

/// A question and its redirected copy must not be one connection to conntrack.
fn raw(plan: &Plan) -> String {
    let mut table = Table::new("raw", &["ISTIO_OUTPUT_DNS", "ISTIO_INBOUND"]);
    table.add("OUTPUT -j ISTIO_OUTPUT_DNS");
    for owner in proxy(plan) {
        table.add(format!(
            "ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner {owner} -j CT --zone 1"
        ));
        table.add(format!(
            "ISTIO_OUTPUT_DNS -p udp --sport {DNS_PORT} -m owner {owner} -j CT --zone 2"
        ));
    }
    table.add("PREROUTING -j ISTIO_INBOUND");
    table.add("ISTIO_OUTPUT_DNS -p udp --dport 53 -j CT --zone 2");
    table.add("ISTIO_INBOUND -p udp --sport 53 -j CT --zone 1");
    table.end()
}

/// The transparent proxy takes packets as they are.
fn mangle(plan: &Plan, family: &Family) -> String {
    let Family {
        loopback,
        passthrough,
        ..
    } = family;
    let mut table = Table::new("mangle", &["ISTIO_DIVERT", "ISTIO_TPROXY", "ISTIO_INBOUND"]);
    skip_interfaces(&mut table, plan);
    table.add(format!("ISTIO_DIVERT -j MARK --set-mark {MARK}"));
    table.add("ISTIO_DIVERT -j ACCEPT");
    table.add(format!(
        "ISTIO_TPROXY ! -d {loopback} -p tcp -j TPROXY --tproxy-mark {MARK}/0xffffffff \
         --on-port {INBOUND_PORT}"
    ));
    table.add("PREROUTING -p tcp -j ISTIO_INBOUND");
    // Not taken: what the proxy sends on, and what goes over `lo` unless the proxy calls its Pod.
    table.add(format!(
        "ISTIO_INBOUND -p tcp -m mark --mark {MARK} -j RETURN"
    ));
    table.add(format!(
        "ISTIO_INBOUND -p tcp -s {passthrough} -i lo -j RETURN"
    ));
    table.add("ISTIO_INBOUND -p tcp -i lo -m mark ! --mark 1338 -j RETURN");
    let known = "-m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT";
    inbound(&mut table, plan, &[known, "-j ISTIO_TPROXY"]);
    table.add(format!(
        "PREROUTING -p tcp -m mark --mark {MARK} -j CONNMARK --save-mark"
    ));
    table.add(format!(
        "OUTPUT -p tcp -o lo -m mark --mark {MARK} -j RETURN"
    ));
    for owner in proxy(plan) {
        table.add(format!(
            "OUTPUT ! -d {loopback} -p tcp -o lo -m owner {owner} -j MARK --set-mark 1338"
        ));
    }
    table.add(format!(
        "OUTPUT -p tcp -m connmark --mark {MARK} -j CONNMARK --restore-mark"
    ));
    table.end()
}
