//! The client commands: requests to a running daemon over its socket, and their output.

mod audit;
mod pods;
mod refused;
mod status;
mod table;
mod transport;

use std::{
    io::{ErrorKind, Write as _},
    time::Duration,
};

use anyhow::bail;
use sluice_api::{Connection, EventView, Events, ExplainRequest, ExplainResponse, path, text};

use crate::config::{self, ExplainArgs, MonitorArgs};
pub(crate) use audit::{audit, connections};
pub(crate) use pods::pods;
pub(crate) use status::status;
use table::{printable, time_of_day};
use transport::Client;
pub(crate) use transport::{Unreachable, call};

/// The daemon answers a request for events after this time at the latest.
const LONG_POLL: Duration = Duration::from_secs(10);

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
            print(line.as_bytes())?;
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
