//! The client commands: requests to a running daemon over its socket, and their output.

mod audit;
mod refused;
mod table;
mod transport;

use std::{
    fmt::Write as _,
    io::{ErrorKind, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use sluice_api::{
    Connection, EventView, Events, ExplainRequest, ExplainResponse, Feature, PodView, ProgramRuns,
    ProgramsRequest, RefusedAdd, Status, path,
    text::{self, Printable},
};

use crate::{
    config::{self, ClientArgs, ExplainArgs, MonitorArgs, PodsArgs, StatusArgs},
    exit,
};
pub(crate) use audit::{audit, connections};
use table::{printable, table, time_of_day};
use transport::Client;
pub(crate) use transport::{Unreachable, call};

/// The daemon answers a request for events after this time at the latest.
const LONG_POLL: Duration = Duration::from_secs(10);

/// `sluiced status`.
pub(crate) fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    if let Some(seconds) = args.programs {
        program_runs(&args.client, seconds)?;
        return Ok(ExitCode::SUCCESS);
    }
    let client = Client::new(&args.client);
    if args.live {
        client.get(path::HEALTHZ)?;
        print(b"alive")?;
        return Ok(ExitCode::SUCCESS);
    }
    let answer = client.get(path::STATUS)?;
    let status: Status = serde_json::from_slice(&answer)?;
    if args.client.json {
        print_json(&answer)?;
    } else {
        print(page(&status).as_bytes())?;
    }
    Ok(if status.ready {
        ExitCode::SUCCESS
    } else {
        exit::NOT_READY.into()
    })
}

/// `sluiced status --programs`.
fn program_runs(args: &ClientArgs, seconds: u64) -> anyhow::Result<()> {
    let body = serde_json::to_vec(&ProgramsRequest { seconds })?;
    let answer = Client::new(args)
        .wait_longer(Duration::from_secs(seconds))
        .post(path::PROGRAMS, body)?;
    if args.json {
        return print_json(&answer);
    }
    let runs: Vec<ProgramRuns> = serde_json::from_slice(&answer)?;
    let head = ["PROGRAM", "ID", "RUNS/S", "NS/RUN", "CPU"];
    let row = |one: &ProgramRuns| {
        let each = one.nanos.checked_div(one.runs);
        // A second has 10^9 nanoseconds, and a percent 10^-2.
        let millipercent = one.nanos / seconds / 10_000;
        [
            one.name.clone(),
            one.id.to_string(),
            (one.runs / seconds).to_string(),
            each.map(|nanos| nanos.to_string()).unwrap_or_default(),
            format!("{}.{:03} %", millipercent / 1000, millipercent % 1000),
        ]
    };
    print(table(head, runs.iter().map(row)).as_bytes())
}

/// The status as text.
fn page(status: &Status) -> String {
    let ready = if status.ready { "ready" } else { "not ready" };
    let none = ["none".to_owned()];
    let problems = match &*status.problems {
        [] => &none[..],
        problems => problems,
    };
    let Status { version, abi, .. } = status;
    let mut lines = vec![
        ("daemon", format!("{ready}, version {version}, ABI {abi}")),
        ("problems", problems[0].clone()),
    ];
    lines.extend(problems[1..].iter().map(|problem| ("", problem.clone())));
    lines.extend([
        ("mesh", status.mesh.clone()),
        ("acceleration", status.acceleration.clone()),
        ("pods", counts(status)),
        ("programs", programs_origin(status)),
        ("kernel", status.kernel.clone()),
    ]);
    lines.extend(status.features.iter().map(|feature| {
        let Feature {
            name,
            found,
            impact_if_missing,
        } = feature;
        let line = if *found {
            format!("+ {name}")
        } else {
            format!("- {name}: {impact_if_missing}")
        };
        ("", line)
    }));
    let mut page: Vec<_> = (lines.iter())
        .map(|(key, value)| format!("{key:<14}{}", Printable::new(value)))
        .collect();
    let programs = status.programs.iter().map(|program| {
        let (id, count) = (program.id.to_string(), program.attach_count.to_string());
        [program.name.clone(), id, count, program.attach_type.clone()]
    });
    page.push(String::new());
    page.push(table(["PROGRAM", "ID", "COUNT", "ATTACH"], programs));
    if !status.foreign_programs.is_empty() {
        let foreign = status.foreign_programs.iter().map(|program| {
            let order = ["after", "before"][usize::from(program.runs_first)];
            [
                program.name.clone(),
                program.id.to_string(),
                program.uid.to_string(),
                order.to_owned(),
                program.hook.clone(),
            ]
        });
        page.push(String::new());
        page.push(table(
            ["FOREIGN PROGRAM", "ID", "UID", "ORDER", "HOOK"],
            foreign,
        ));
    }
    page.join("\n")
}

fn programs_origin(status: &Status) -> String {
    let origin =
        ["loaded at the start", "adopted, unchanged"][usize::from(status.programs_adopted)];
    format!("{}, {origin}", status.programs.len())
}

fn counts(status: &Status) -> String {
    let counts = [
        (status.meshed_pods, "meshed"),
        (status.unmeshed_pods, "not intercepted"),
        (status.pending_pods, "pending"),
        (status.pods_without_listener, "without a listening proxy"),
        (status.orphaned_netns, "orphaned"),
    ];
    // The other counts are exceptions.
    let shown = counts
        .iter()
        .enumerate()
        .filter(|(index, (count, _))| *index < 2 || *count > 0);
    let shown = shown.map(|(_, (count, what))| format!("{count} {what}"));
    shown.collect::<Vec<_>>().join(", ")
}

/// `sluiced pods`.
pub(crate) fn pods(args: &PodsArgs) -> anyhow::Result<()> {
    let path = if args.refused {
        path::REFUSED
    } else {
        path::PODS
    };
    let answer = Client::new(&args.client).get(path)?;
    if args.client.json {
        return print_json(&answer);
    }
    if args.refused {
        let refused: Vec<RefusedAdd> = serde_json::from_slice(&answer)?;
        return print(refused::page(&refused).as_bytes());
    }
    let pods: Vec<PodView> = serde_json::from_slice(&answer)?;
    print(pods_table(&pods).as_bytes())
}

/// `sluiced explain`.
pub(crate) fn explain(args: ExplainArgs) -> anyhow::Result<()> {
    let (uid, gid) = args.user;
    let connection = match (args.to, args.from, args.port) {
        (Some(to), ..) => Connection::Outbound {
            to,
            uid,
            gid,
            udp: args.udp,
        },
        (None, Some(from), Some(port)) => Connection::Inbound { from, port },
        _ => bail!("give --to IP:PORT, or --from IP and --port PORT"),
    };
    let body = serde_json::to_vec(&ExplainRequest {
        pod: args.pod,
        connection,
    })?;
    let answer = Client::new(&args.client).post(path::EXPLAIN, body)?;
    if args.client.json {
        return print_json(&answer);
    }
    let found: ExplainResponse = serde_json::from_slice(&answer)?;
    let rule = [&*found.rule, "-"][usize::from(found.rule.is_empty())].to_owned();
    let lines = [
        ("pod", format!("{}/{}", found.pod.namespace, found.pod.name)),
        ("container", found.container_id),
        ("outcome", found.outcome),
        ("rule", rule),
        ("reason", found.reason),
        ("matched", found.matched.unwrap_or_else(|| "-".to_owned())),
    ];
    let lines = lines.map(|(key, value)| format!("{key:<11}{}", printable(&value)));
    print(lines.join("\n").as_bytes())
}

/// `sluiced monitor`: until interrupted, or until its output is closed.
pub(crate) fn monitor(args: MonitorArgs) -> anyhow::Result<()> {
    let config::MonitorArgs {
        client: to,
        pod,
        reason,
        uid,
        dest,
    } = args;
    let is_wanted = |event: &EventView| {
        (reason.is_empty() || reason.contains(&event.rule))
            && uid.is_none_or(|uid| event.uid == Some(uid))
            && dest.is_none_or(|dest| dest.includes(event.to))
    };
    let client = Client::new(&to).wait_longer(LONG_POLL);
    let mut cursor = None;
    if !to.json {
        print(HEAD.as_bytes())?;
    }
    loop {
        let body = serde_json::to_vec(&sluice_api::EventsRequest {
            cursor,
            pod: pod.clone(),
        })?;
        let answer = client.post(path::EVENTS, body)?;
        let batch: Events = serde_json::from_slice(&answer)?;
        if batch.dropped > 0 {
            eprintln!(
                "{} events were dropped: the event rate is too high",
                batch.dropped
            );
        }
        for event in batch.events.iter().filter(|event| is_wanted(event)) {
            let line = if to.json {
                text::json(&serde_json::to_string(event)?)
            } else {
                line(event)
            };
            match print(line.as_bytes()) {
                Err(error) if is_broken_pipe(&error) => return Ok(()),
                done => done?,
            }
        }
        cursor = Some(batch.next);
    }
}

const HEAD: &str = "TIME (UTC)    POD                               UID  FROM                    TO                      RULE";

fn line(event: &EventView) -> String {
    let time = time_of_day(event.time);
    let uid = event
        .uid
        .map_or_else(|| "-".to_owned(), |uid| uid.to_string());
    let pod = printable(&event.pod);
    let from = match event.from.port() {
        0 => event.from.ip().to_string(),
        _ => event.from.to_string(),
    };
    let (to, mut rule) = (event.to.to_string(), printable(&event.rule));
    if event.is_refused {
        rule += " (refused: the proxy does not listen)";
    }
    format!("{time}  {pod:<28}  {uid:>7}  {from:<22}  {to:<22}  {rule}")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn pods_table(pods: &[PodView]) -> String {
    let head = [
        "POD",
        "CONTAINER",
        "NETWORK",
        "INTERFACE",
        "ADDRESSES",
        "MESHED",
        "FAMILIES",
        "PROXY",
        "ALIASES",
        "AGE",
        "OUT PROXY/DIRECT",
        "IN PROXY/DIRECT",
        "REFUSED",
        "REASON",
    ];
    table(head, pods.iter().map(row))
}

fn row(view: &PodView) -> [String; 14] {
    let addresses: Vec<_> = view.addresses.iter().map(ToString::to_string).collect();
    let name = match (&*view.pod.namespace, &*view.pod.name) {
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    let meshed = if view.meshed { "yes" } else { "no" };
    let proxy = match (view.meshed, view.listeners) {
        (false, _) => "",
        (true, 0) => "not listening",
        (true, _) => "listening",
    };
    let mut proxy = proxy.to_owned();
    if let Some(before) = &view.before_proxy {
        let _ = write!(proxy, ", {} direct before", before.connections);
    }
    if view.foreign_uses > 0 {
        let _ = write!(proxy, ", {} ports refused to others", view.foreign_uses);
    }
    let aliases = match (view.meshed, view.alias_fallbacks) {
        (false, _) => String::new(),
        (true, 0) => view.aliases.to_string(),
        (true, beyond) => format!("{} (+{beyond} connections)", view.aliases),
    };
    let counters = view.counters;
    let counts = |proxy: u64, direct: u64| {
        if view.meshed {
            format!("{proxy}/{direct}")
        } else {
            String::new()
        }
    };
    let container = view.attachment.container_id.chars().take(13).collect();
    [
        name,
        container,
        view.attachment.network.clone(),
        view.attachment.ifname.clone(),
        addresses.join(","),
        meshed.to_owned(),
        view.families.clone().unwrap_or_default(),
        proxy,
        aliases,
        age(view.age_seconds),
        counts(counters.outbound_to_proxy, counters.outbound_direct),
        counts(counters.inbound_to_proxy, counters.inbound_direct),
        if view.meshed {
            counters.refused.to_string()
        } else {
            String::new()
        },
        view.reason.clone(),
    ]
}

/// An age in its two largest units, as `kubectl` prints it.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Prints an answer unchanged, except for control characters.
fn print_json(answer: &[u8]) -> anyhow::Result<()> {
    print(text::json(&String::from_utf8_lossy(answer)).as_bytes())
}

pub(crate) fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.write_all(b"\n")) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        written => Ok(written?),
    }
}

/// The reader of standard output ended, as `head` does when it has its lines.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the output ended")]
pub(crate) struct OutputClosed;

#[cfg(test)]
mod tests {
    use sluice_api::{Attachment, PodCounters, PodName};

    use super::*;

    #[test]
    fn the_table_is_aligned_and_shows_no_control_characters() {
        let view = PodView {
            attachment: Attachment {
                network: "net".into(),
                container_id: "0123456789abcdef".into(),
                ifname: "eth0".into(),
            },
            pod: PodName {
                namespace: "shop".into(),
                name: "cart\u{1b}[2J".into(),
                uid: String::new(),
            },
            netns: "/run/netns/a".into(),
            cookie: Some(7),
            listeners: 0,
            aliases: 4096,
            alias_fallbacks: 17,
            age_seconds: 3700,
            counters: PodCounters {
                outbound_to_proxy: 5,
                outbound_direct: 6,
                inbound_to_proxy: 7,
                inbound_direct: 8,
                refused: 9,
            },
            addresses: vec!["10.0.0.1".parse().unwrap()],
            meshed: true,
            reason: String::new(),
            families: Some("ipv4".to_owned()),
            before_proxy: Some(sluice_api::BeforeProxyView {
                open: true,
                connections: 2,
            }),
            foreign_uses: 3,
        };
        let expected = "\
POD                 CONTAINER      NETWORK  INTERFACE  ADDRESSES  MESHED  FAMILIES  PROXY                                                      ALIASES                 AGE   OUT PROXY/DIRECT  IN PROXY/DIRECT  REFUSED  REASON
shop/cart\\u{1b}[2J  0123456789abc  net      eth0       10.0.0.1   yes     ipv4      not listening, 2 direct before, 3 ports refused to others  4096 (+17 connections)  1h1m  5/6               7/8              9        -";
        assert_eq!(pods_table(&[view]), expected);
    }
}
