//! `sluiced audit` and `sluiced connections`.

use sluice_api::{
    AuditRequest, AuditResponse, ConnectionView, Connections, ConnectionsRequest, Finding, path,
};

use super::{Client, print, print_json, table::table};
use crate::config::{AuditArgs, ConnectionsArgs};

/// `sluiced audit`. `false` if there are findings that this call did not end, or Pods that were not
/// examined.
pub(crate) fn audit(args: AuditArgs) -> anyhow::Result<bool> {
    let AuditArgs { client, pod, kill } = args;
    let body = serde_json::to_vec(&AuditRequest { pod, kill })?;
    let answer = Client::new(&client).post(path::AUDIT, body)?;
    let audit: AuditResponse = serde_json::from_slice(&answer)?;
    if client.json {
        print_json(&answer)?;
    } else {
        print(report(&audit).as_bytes())?;
    }
    let is_ended = |one: &Finding| one.ended;
    Ok(audit.problems.is_empty() && audit.more == 0 && audit.findings.iter().all(is_ended))
}

fn report(audit: &AuditResponse) -> String {
    let AuditResponse {
        pods,
        connections,
        millis,
        findings,
        more,
        problems,
    } = audit;
    let count = findings.len() as u64 + more;
    let mut lines = vec![format!(
        "audited in {millis} ms: Pods: {pods}, connections: {connections}, past the sidecar against a rule: {count}"
    )];
    lines.extend(
        problems
            .iter()
            .map(|one| format!("problem: {}", super::printable(one))),
    );
    if !findings.is_empty() {
        let head = [
            "POD", "KIND", "RULE", "LOCAL", "", "PEER", "UID", "PID", "PROCESS", "AGE", "",
        ];
        lines.push(String::new());
        lines.push(table(head, findings.iter().map(finding)));
    }
    if *more > 0 {
        lines.push(format!("{more} more are not listed"));
    }
    lines.join("\n")
}

fn finding(one: &Finding) -> [String; 11] {
    [
        one.pod.clone(),
        one.kind.label().to_owned(),
        one.rule.clone(),
        one.local.to_string(),
        arrow(one.accepted),
        one.peer.to_string(),
        one.uid.to_string(),
        number(one.pid),
        one.process.clone().unwrap_or_default(),
        format!("> {} s", one.age_ms / 1000),
        (if one.ended { "ended" } else { "" }).to_owned(),
    ]
}

/// `sluiced connections`.
pub(crate) fn connections(args: ConnectionsArgs) -> anyhow::Result<()> {
    let ConnectionsArgs { client, pod } = args;
    let body = serde_json::to_vec(&ConnectionsRequest { pod })?;
    let answer = Client::new(&client).post(path::CONNECTIONS, body)?;
    if client.json {
        return print_json(&answer);
    }
    let Connections { connections, more } = serde_json::from_slice(&answer)?;
    let head = [
        "POD",
        "LOCAL",
        "",
        "PEER",
        "PATH",
        "RULE",
        "ACCELERATED",
        "SENT",
        "RECEIVED",
        "PID",
        "PROCESS",
    ];
    let mut page = table(head, connections.iter().map(connection));
    if more > 0 {
        page.push('\n');
        page.push_str(&more.to_string());
        page.push_str(" more are not listed: name a Pod with --pod");
    }
    print(page.as_bytes())
}

fn connection(one: &ConnectionView) -> [String; 11] {
    let peer = one.peer.map(|peer| peer.to_string());
    [
        one.pod.clone(),
        one.local.to_string(),
        arrow(one.accepted),
        peer.unwrap_or_else(|| "in the socket".to_owned()),
        one.path.clone(),
        one.rule.clone(),
        (if one.accelerated { "yes" } else { "no" }).to_owned(),
        one.sent.to_string(),
        one.received.to_string(),
        number(one.pid),
        one.process.clone().unwrap_or_default(),
    ]
}

/// The direction in which the connection was made.
fn arrow(accepted: bool) -> String {
    (if accepted { "<-" } else { "->" }).to_owned()
}

fn number(pid: Option<i32>) -> String {
    pid.map(|pid| pid.to_string()).unwrap_or_default()
}
