//! A real Envoy with one listener, which passes on bytes or speaks HTTP.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sluice_lab::PROXY;
use sluice_testbed::{agent::ExecContext, http, interrupt::Interrupt, process::Process};

use crate::{cpu::niced, mtls::Mtls};

const START: Duration = Duration::from_secs(20);
const TYPE: &str = "type.googleapis.com/envoy.extensions";

/// The treatment of a connection by a proxy.
#[derive(Clone, Copy)]
pub(super) struct Route {
    /// The address of its listener.
    pub(super) port: u16,
    /// Where it goes; without it, to where the client wanted to go.
    pub(super) to: Option<SocketAddr>,
    /// From which address.
    pub(super) from: Option<IpAddr>,
}

/// Starts it with one worker, and waits until that listens. `directory` becomes its own.
pub(super) fn start(
    program: &Path,
    place: ExecContext<'_>,
    directory: &Path,
    configuration: &Value,
    interrupt: &Interrupt,
) -> Result<Process> {
    fs::create_dir(directory)?;
    chown(directory, Some(PROXY), Some(PROXY))?;
    let (admin, file) = (admin(directory), directory.join("envoy.json"));
    fs::write(&file, configuration.to_string())?;
    let mut command = niced(place, program)?;
    command.arg("--config-path").arg(file);
    command.args(["--concurrency", "1", "--disable-hot-restart"]);
    command.args(["--log-level", "error"]);
    let mut process = Process::start("Envoy", &mut command, &directory.join("log"))?;
    let ready = interrupt.wait(START, || {
        process.check()?;
        Ok(http::get(&admin, "/ready").is_ok())
    })?;
    ensure!(ready, "Envoy is not ready\n{}", process.tail());
    Ok(process)
}

fn admin(directory: &Path) -> PathBuf {
    directory.join("admin.sock")
}

/// Its configuration. With `mtls` it speaks TLS with the other sidecar: the one that has a source address
/// for its calls is the server's.
pub(super) fn configuration(
    route: Route,
    speaks_http: bool,
    mtls: Option<&Mtls>,
    directory: &Path,
) -> Value {
    let filter = if speaks_http { http_filter() } else { tcp() };
    let mut listener = json!({
        "name": "in",
        "address": address(SocketAddr::from(([0, 0, 0, 0], route.port))),
        "filter_chains": [{ "filters": [filter] }],
    });
    let mut cluster = cluster(route);
    if let Some(mtls) = mtls {
        if route.from.is_some() {
            listener["filter_chains"][0]["transport_socket"] = mtls.server();
        } else {
            cluster["transport_socket"] = mtls.client();
        }
    }
    if route.to.is_none() {
        listener["listener_filters"] = json!([{
            "name": "envoy.filters.listener.original_dst",
            "typed_config": { "@type": format!("{TYPE}.filters.listener.original_dst.v3.OriginalDst") },
        }]);
    }
    json!({
        "admin": { "address": { "pipe": { "path": admin(directory) } } },
        "static_resources": { "listeners": [listener], "clusters": [cluster] },
    })
}

fn tcp() -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": format!("{TYPE}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "in",
            "cluster": "out",
        },
    })
}

fn http_filter() -> Value {
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!(
                "{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager"
            ),
            "stat_prefix": "in",
            "generate_request_id": false,
            "route_config": { "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "out" } }],
            }] },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": format!("{TYPE}.filters.http.router.v3.Router") },
            }],
        },
    })
}

/// Without the default limit of 1,024 connections, which would count as failures of the path.
fn cluster(Route { to, from, .. }: Route) -> Value {
    let mut cluster = json!({
        "name": "out",
        "connect_timeout": "2s",
        "circuit_breakers": { "thresholds": [{
            "max_connections": 100_000,
            "max_pending_requests": 100_000,
            "max_requests": 100_000,
        }] },
    });
    if let Some(to) = to {
        cluster["type"] = "STATIC".into();
        cluster["load_assignment"] = json!({
            "cluster_name": "out",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(to) } }] }],
        });
    } else {
        cluster["type"] = "ORIGINAL_DST".into();
        cluster["lb_policy"] = "CLUSTER_PROVIDED".into();
    }
    if let Some(from) = from {
        cluster["upstream_bind_config"] =
            json!({ "source_address": { "address": from.to_string(), "port_value": 0 } });
    }
    cluster
}

fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}
