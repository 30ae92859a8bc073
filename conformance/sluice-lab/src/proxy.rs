//! A real Envoy, configured as Istio configures a sidecar's passthrough.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_testbed::{agent::ExecContext, http, interrupt::Interrupt, process::Process};

use crate::{PROXY, backend::Counters};

/// The wait ends with the condition: the limit is for an emulated processor.
const START: Duration = Duration::from_mins(1);
/// Name of the outbound listener.
pub const OUTBOUND: &str = "outbound";
/// Name of the inbound listener.
pub const INBOUND: &str = "inbound";

/// How the proxy accepts connections and connects to its application.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As Istio's `REDIRECT`: from 127.0.0.6 or `::6`.
    Redirect,
    /// As Istio's `TPROXY`: from the client's address, by the `original_src` filter.
    Transparent,
}

/// A running proxy.
pub struct Proxy {
    /// Envoy.
    pub process: Process,
    admin: PathBuf,
    log: PathBuf,
}

/// A connection that a proxy carried, as its access log has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hop {
    /// The Pod of the proxy.
    #[serde(default)]
    pub pod: String,
    /// The listener that accepted it.
    pub listener: String,
    /// The peer.
    pub client: SocketAddr,
    /// The original destination, as the proxy read it.
    pub original: SocketAddr,
    /// The proxy's destination, if it connected.
    pub upstream: Option<String>,
    /// The proxy's source address.
    pub from: Option<String>,
}

impl Proxy {
    /// Starts it in a Pod; `directory` becomes the proxy's own.
    pub fn start(
        pod: &str,
        place: ExecContext<'_>,
        envoy: &Path,
        directory: &Path,
        mode: Mode,
    ) -> Result<Self> {
        fs::create_dir(directory)?;
        chown(directory, Some(PROXY), Some(PROXY))?;
        let (admin, log) = (directory.join("admin.sock"), directory.join("access.log"));
        let configuration = directory.join("envoy.json");
        fs::write(
            &configuration,
            serde_json::to_string_pretty(&bootstrap(&admin, &log, mode))?,
        )?;
        let transparent = mode == Mode::Transparent;
        let place = ExecContext {
            // Where Istio selects TPROXY, the sidecar runs as root with its usual group.
            user: Some(if transparent { 0 } else { PROXY }),
            group: Some(PROXY),
            transparent,
            ..place
        };
        let mut command = place.command(envoy)?;
        command
            .arg("--config-path")
            .arg(&configuration)
            .args([
                "--concurrency",
                "2",
                "--disable-hot-restart",
                "--log-level",
                "warning",
            ])
            .args(["--file-flush-interval-msec", "20"]);
        let process = Process::start(
            &format!("the proxy of {pod}"),
            &mut command,
            &directory.join("log"),
        )?;
        Ok(Self {
            process,
            admin,
            log,
        })
    }

    /// Waits until every worker listens.
    pub fn wait(&mut self, interrupt: &Interrupt) -> Result<()> {
        let Self { process, admin, .. } = self;
        let ready = interrupt.wait(START, || {
            process.check()?;
            Ok(http::get(admin, "/ready").is_ok())
        })?;
        if !ready {
            bail!(
                "the proxy is not ready after {} s\n{}",
                START.as_secs(),
                process.tail()
            );
        }
        Ok(())
    }

    /// How many connections each listener has accepted, by Envoy's own counters.
    pub fn accepted(&self, pod: &str) -> Result<Counters> {
        let stats = http::get(&self.admin, "/stats?filter=downstream_cx_total")?;
        let count = |listener: &str| -> Result<(String, u64)> {
            let name = format!("listener.{listener}.downstream_cx_total: ");
            let value = stats.lines().find_map(|line| line.strip_prefix(&name));
            let value =
                value.with_context(|| format!("the proxy of {pod} does not count {listener}"))?;
            Ok((
                format!("{listener} listener of {pod}"),
                value.trim().parse()?,
            ))
        };
        [OUTBOUND, INBOUND].into_iter().map(count).collect()
    }

    /// Every connection that has ended so far.
    pub fn hops(&self, pod: &str) -> Result<Vec<Hop>> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        // The last line may be half written.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let parse = |line| -> Result<Hop> {
            let mut hop: Hop =
                serde_json::from_str(line).with_context(|| format!("access log: {line}"))?;
            pod.clone_into(&mut hop.pod);
            Ok(hop)
        };
        whole.lines().map(parse).collect()
    }
}

/// Its configuration, with these files of its own.
pub fn bootstrap(admin: &Path, log: &Path, mode: Mode) -> Value {
    let (mut inbound_filters, sources) = match mode {
        Mode::Redirect => (Vec::new(), [Some("127.0.0.6"), Some("::6")]),
        Mode::Transparent => (vec![original_src()], [None, None]),
    };
    inbound_filters.push(original_dst());
    let any4 = json!([{ "address_prefix": "0.0.0.0", "prefix_len": 0 }]);
    let any6 = json!([{ "address_prefix": "::", "prefix_len": 0 }]);
    json!({
        "admin": { "address": { "pipe": { "path": admin } } },
        "static_resources": {
            "listeners": [
                listener(OUTBOUND, 15001, &[original_dst()], &json!([
                    chain(log, OUTBOUND, "passthrough"),
                ])),
                with_transparency(mode, listener(INBOUND, 15006, &inbound_filters, &json!([
                    matching(chain(log, INBOUND, "application-v4"), &any4),
                    matching(chain(log, INBOUND, "application-v6"), &any6),
                ]))),
            ],
            "clusters": [
                cluster("passthrough", None),
                cluster("application-v4", sources[0]),
                cluster("application-v6", sources[1]),
            ],
        },
    })
}

fn listener(name: &str, port: u16, filters: &[Value], chains: &Value) -> Value {
    let at =
        |address: &str| json!({ "socket_address": { "address": address, "port_value": port } });
    json!({
        "name": name,
        "stat_prefix": name,
        "address": at("0.0.0.0"),
        "additional_addresses": [{ "address": at("::") }],
        "listener_filters": filters,
        "filter_chains": chains,
    })
}

fn with_transparency(mode: Mode, mut listener: Value) -> Value {
    if mode == Mode::Transparent {
        listener["transparent"] = true.into();
    }
    listener
}

fn original_dst() -> Value {
    json!({
        "name": "envoy.filters.listener.original_dst",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        },
    })
}

/// With the mark that Istio's control plane configures.
fn original_src() -> Value {
    json!({
        "name": "envoy.filters.listener.original_src",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc",
            "mark": 1337,
        },
    })
}

fn chain(log: &Path, listener: &str, cluster: &str) -> Value {
    json!({
        "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": cluster,
                "cluster": cluster,
                "access_log": [{
                    "name": "envoy.access_loggers.file",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                        "path": log,
                        "log_format": { "json_format": {
                            "listener": listener,
                            "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
                            "original": "%DOWNSTREAM_LOCAL_ADDRESS%",
                            "upstream": "%UPSTREAM_HOST%",
                            "from": "%UPSTREAM_LOCAL_ADDRESS%",
                        } },
                    },
                }],
            },
        }],
    })
}

fn matching(mut chain: Value, prefixes: &Value) -> Value {
    chain["filter_chain_match"] = json!({ "prefix_ranges": prefixes });
    chain
}

/// A cluster that goes to the original destination, from a fixed source if there is one.
fn cluster(name: &str, source: Option<&str>) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "2s",
    });
    if let Some(source) = source {
        cluster["upstream_bind_config"] =
            json!({ "source_address": { "address": source, "port_value": 0 } });
    }
    cluster
}
