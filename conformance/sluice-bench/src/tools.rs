//! Runs a load with wrk or with a client of our own, and reads what it says.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use sluice_testbed::{agent::ExecContext, process::output};

use crate::{
    agent::{bench_result::BenchResult, bench_server::TREE_PATH},
    matrix::{Load, Sample},
    statistics::quantile,
};

const PATIENCE: Duration = Duration::from_secs(15);
const WRK: &str = "/usr/bin/wrk";
const MIB: f64 = 1024.0 * 1024.0;
/// Of `/proc/stat`, the same on every machine: `USER_HZ`.
const TICK_MICROS: f64 = 10_000.0;

/// The observations of a tool.
#[derive(Debug, PartialEq)]
struct Seen {
    count: f64,
    rate: f64,
    p50: Option<f64>,
    p99: Option<f64>,
}

/// Runs it to its end; `conntrack` is asked right after.
pub(super) fn run(
    load: Load,
    duration: Duration,
    place: ExecContext<'_>,
    to: SocketAddr,
    conntrack: impl FnOnce() -> Result<u64>,
) -> Result<Sample> {
    let before = busy()?;
    let seen = match load {
        Load::KeepAlive(..) | Load::NewConnection(_) | Load::Tree(_) => {
            wrk(place, to, load, duration)
        }
        Load::Bulk(_) | Load::RoundTrip(..) | Load::Grpc(_) => drive(place, to, load, duration),
    }?;
    let cpu = busy()? - before;
    Ok(Sample {
        rate: seen.rate,
        p50: seen.p50,
        p99: seen.p99,
        cpu: cpu / seen.count,
        conntrack: conntrack()?,
        resumed: None,
    })
}

fn wrk(place: ExecContext<'_>, to: SocketAddr, load: Load, duration: Duration) -> Result<Seen> {
    let (connections, path) = match load {
        Load::KeepAlive(connections, _) | Load::NewConnection(connections) => (connections, "/"),
        Load::Tree(connections) => (connections, TREE_PATH),
        Load::Bulk(_) | Load::RoundTrip(..) | Load::Grpc(_) => bail!("that is not for wrk"),
    };
    let mut command = place.command(Path::new(WRK))?;
    let seconds = duration.as_secs().max(1);
    command.args(["--threads", "1", "--latency", "--timeout", "5"]);
    command.args(["--connections", &connections.to_string()]);
    command.args(["--duration", &seconds.to_string()]);
    if matches!(load, Load::NewConnection(_)) {
        command.args(["--header", "Connection: close"]);
    }
    command.arg(format!("http://{to}{path}"));
    let said = output(&mut command, duration + PATIENCE)?;
    read(&said).with_context(|| format!("what wrk says: {said}"))
}

/// Fails if a request failed: a rate of failures is no rate.
fn read(said: &str) -> Result<Seen> {
    if let Some(trouble) = said
        .lines()
        .find(|line| line.trim_start().starts_with("Socket errors") || line.contains("Non-2xx"))
    {
        bail!("{}", trouble.trim());
    }
    let words = || {
        said.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
    };
    let percentile = |name: &str| -> Option<f64> {
        words().find_map(|words| match words[..] {
            [first, time] if first == name => micros(time),
            _ => None,
        })
    };
    let count = words().find_map(|words| match words[..] {
        [count, "requests", "in", ..] => count.parse::<f64>().ok(),
        _ => None,
    });
    let rate = words().find_map(|words| match words[..] {
        ["Requests/sec:", rate] => rate.parse::<f64>().ok(),
        _ => None,
    });
    Ok(Seen {
        count: count.filter(|count| *count > 0.0).context("no requests")?,
        rate: rate.context("no rate")?,
        p50: percentile("50%"),
        p99: percentile("99%"),
    })
}

fn micros(time: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    units.iter().find_map(|(unit, scale)| {
        let value: f64 = time.strip_suffix(unit)?.parse().ok()?;
        Some(value * scale)
    })
}

fn drive(place: ExecContext<'_>, to: SocketAddr, load: Load, duration: Duration) -> Result<Seen> {
    let mut command = place.own()?;
    let client = if matches!(load, Load::Grpc(_)) {
        "grpc-client"
    } else {
        "bench-client"
    };
    command.args([client, "--to", &to.to_string()]);
    command.args(["--millis", &duration.as_millis().to_string()]);
    let unit = match load {
        Load::Bulk(streams) => {
            command.args(["--streams", &streams.to_string()]);
            MIB
        }
        Load::RoundTrip(size, _) => {
            command.args(["--size", &size.to_string()]);
            1.0
        }
        Load::Grpc(calls) => {
            command.args(["--calls", &calls.to_string()]);
            1.0
        }
        Load::KeepAlive(..) | Load::NewConnection(_) | Load::Tree(_) => bail!("that is for wrk"),
    };
    let driven: BenchResult = serde_json::from_str(&output(&mut command, duration + PATIENCE)?)?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = driven.count as f64 / unit;
    Ok(Seen {
        count,
        rate: count / driven.seconds,
        p50: quantile(&driven.micros, 0.5),
        p99: quantile(&driven.micros, 0.99),
    })
}

/// Time that all processors worked so far, in µs.
fn busy() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    working(&stat).context("/proc/stat")
}

/// proc(5): user nice system idle iowait irq softirq …
fn working(stat: &str) -> Option<f64> {
    let ticks: Vec<f64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .map_while(|ticks| ticks.parse().ok())
        .collect();
    let work = [0, 1, 2, 5, 6].map(|field| ticks.get(field).copied());
    Some(work.into_iter().sum::<Option<f64>>()? * TICK_MICROS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 2s test @ http://127.0.0.1:80/\n  1 threads and 4 connections\n  \
        Latency Distribution\n     50%  152.00us\n     75%    1.10ms\n     99%    1.00s\n  \
        4000 requests in 2.00s, 1.1MB read\nRequests/sec:   2000.50\n";

    #[test]
    fn output_of_wrk_is_parsed() {
        let seen = Seen {
            count: 4000.0,
            rate: 2000.5,
            p50: Some(152.0),
            p99: Some(1e6),
        };
        assert_eq!(read(SAID).unwrap(), seen);
    }

    #[test]
    fn failed_requests_are_no_rate() {
        let trouble = "  Socket errors: connect 0, read 3, write 0, timeout 0\n";
        read(&format!("{SAID}{trouble}")).unwrap_err();
        read("").unwrap_err();
    }

    #[test]
    fn iowait_is_not_busy_time() {
        assert_eq!(
            working("cpu  1 2 3 90 80 4 5 0 0 0\ncpu0 9"),
            Some(150_000.0)
        );
        assert_eq!(working("cpu  1 2"), None);
    }
}
