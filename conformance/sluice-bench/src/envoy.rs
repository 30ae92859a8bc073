//! A real Envoy, which passes on bytes, speaks HTTP, or does what a sidecar of a mesh does.

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

use crate::{cpu::niced, matrix::Http, mtls::Mtls};

const START: Duration = Duration::from_secs(20);
const TYPE: &str = "type.googleapis.com/envoy.extensions";

/// The name of the calls' protocol in TLS (ALPN).
const HTTP2: &str = "h2";
const HTTP1: &str = "http/1.1";
/// What sidecars of Istio call the bytes of other protocols.
const BYTES: &str = "istio";
/// The fields of a line of Istio's access log (`meshConfig.accessLogFile`), in its order.
const LOG_FIELDS: [&str; 22] = [
    "[%START_TIME%]",
    "\"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\"",
    "%RESPONSE_CODE%",
    "%RESPONSE_FLAGS%",
    "%RESPONSE_CODE_DETAILS%",
    "%CONNECTION_TERMINATION_DETAILS%",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\"",
    "%BYTES_RECEIVED%",
    "%BYTES_SENT%",
    "%DURATION%",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "\"%REQ(X-FORWARDED-FOR)%\"",
    "\"%REQ(USER-AGENT)%\"",
    "\"%REQ(X-REQUEST-ID)%\"",
    "\"%REQ(:AUTHORITY)%\"",
    "\"%UPSTREAM_HOST%\"",
    "%UPSTREAM_CLUSTER%",
    "%UPSTREAM_LOCAL_ADDRESS%",
    "%DOWNSTREAM_LOCAL_ADDRESS%",
    "%DOWNSTREAM_REMOTE_ADDRESS%",
    "%REQUESTED_SERVER_NAME%",
    "%ROUTE_NAME%",
];

/// The treatment of a connection by a proxy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// The address of its listener.
    pub(super) port: u16,
    /// Where it goes; without it, to where the client wanted to go.
    pub(super) to: Option<SocketAddr>,
    /// From which address.
    pub(super) from: Option<IpAddr>,
}

impl Route {
    /// Whether it leads to the Pod's own application: calls to that have a source address.
    fn inbound(self) -> bool {
        self.from.is_some()
    }

    /// The beginning of the names of its clusters.
    fn name(self) -> &'static str {
        if self.inbound() {
            "inbound"
        } else {
            "outbound"
        }
    }
}

/// The program and its worker threads.
#[derive(Clone, Copy)]
pub(super) struct Program<'a> {
    pub(super) path: &'a Path,
    pub(super) workers: u16,
}

/// What its sidecar is, and with which certificates it calls another one.
#[derive(Clone, Copy)]
pub(super) struct Kind<'a> {
    /// Without it, bytes are passed on.
    pub(super) http: Option<Http>,
    pub(super) mtls: Option<&'a Mtls>,
}

/// Starts it, and waits until it is ready. `directory` becomes its own.
pub(super) fn start(
    Program { path, workers }: Program<'_>,
    place: ExecContext<'_>,
    directory: &Path,
    configuration: &Value,
    interrupt: &Interrupt,
) -> Result<Process> {
    fs::create_dir(directory)?;
    chown(directory, Some(PROXY), Some(PROXY))?;
    let (admin, file) = (admin(directory), directory.join("envoy.json"));
    fs::write(&file, configuration.to_string())?;
    let mut command = niced(place, path)?;
    command.arg("--config-path").arg(file);
    command.args(["--concurrency", &workers.to_string()]);
    command.args(["--disable-hot-restart", "--log-level", "error"]);
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

/// TLS handshakes so far as a server, and those of them that resumed a session.
pub(super) fn handshakes(directory: &Path) -> Result<(u64, u64)> {
    let stats = http::get(&admin(directory), "/stats?usedonly&filter=ssl")?;
    Ok((
        counted(&stats, "ssl.handshake"),
        counted(&stats, "ssl.session_reused"),
    ))
}

/// The sum of the listeners' counters of a name.
fn counted(stats: &str, name: &str) -> u64 {
    let counter = |line: &str| {
        let (counter, value) = line.split_once(": ")?;
        let counts = counter.starts_with("listener.0.0.0.0") && counter.ends_with(name);
        counts.then(|| value.trim().parse::<u64>().ok()).flatten()
    };
    stats.lines().filter_map(counter).sum()
}

/// Its configuration, with a listener for each route. With certificates it speaks TLS with other sidecars.
pub(super) fn configuration(routes: &[Route], kind: Kind<'_>, directory: &Path) -> Value {
    let listeners: Vec<_> = (routes.iter())
        .map(|route| listener(*route, kind, directory))
        .collect();
    let clusters: Vec<_> = (routes.iter())
        .flat_map(|route| clusters(*route, kind))
        .collect();
    json!({
        "admin": { "address": { "pipe": { "path": admin(directory) } } },
        "static_resources": { "listeners": listeners, "clusters": clusters },
    })
}

fn listener(route: Route, kind: Kind<'_>, directory: &Path) -> Value {
    let filter = match kind.http {
        None => tcp(route),
        Some(Http::Plain) => plain_http(route),
        Some(Http::Mesh { access_log, .. }) => {
            let log = access_log.then(|| directory.join("access.log"));
            mesh_http(route, log.as_deref())
        }
    };
    let mut chain = json!({ "filters": [filter] });
    let mut filters = Vec::new();
    if route.to.is_none() {
        filters.push(json!({
            "name": "envoy.filters.listener.original_dst",
            "typed_config": { "@type": format!("{TYPE}.filters.listener.original_dst.v3.OriginalDst") },
        }));
    }
    if let (Some(mtls), true) = (kind.mtls, route.inbound()) {
        let protocols: &[&str] = match kind.http {
            None => &[BYTES],
            Some(Http::Plain) => &[HTTP1],
            Some(Http::Mesh { .. }) => &[HTTP2, HTTP1],
        };
        chain["transport_socket"] = mtls.server(protocols);
        if matches!(kind.http, Some(Http::Mesh { .. })) {
            // A sidecar finds out whether the client is one.
            chain["filter_chain_match"] = json!({ "transport_protocol": "tls" });
            filters.push(json!({
                "name": "envoy.filters.listener.tls_inspector",
                "typed_config": { "@type": format!("{TYPE}.filters.listener.tls_inspector.v3.TlsInspector") },
            }));
        }
    }
    json!({
        "name": route.name(),
        "address": address(SocketAddr::from(([0, 0, 0, 0], route.port))),
        "filter_chains": [chain],
        "listener_filters": filters,
    })
}

fn tcp(route: Route) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": format!("{TYPE}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": route.name(),
            "cluster": route.name(),
        },
    })
}

fn plain_http(route: Route) -> Value {
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!(
                "{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager"
            ),
            "stat_prefix": route.name(),
            "generate_request_id": false,
            "route_config": { "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": route.name() } }],
            }] },
            "http_filters": [http_filter("router", "Router", json!({}))],
        },
    })
}

/// As Istio's agent configures it, as far as an Envoy without Istio's extensions can: those that exchange
/// metadata and count requests with both workloads' names are missing.
fn mesh_http(route: Route, log: Option<&Path>) -> Value {
    let log = log.map(|path| {
        json!({
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": format!("{TYPE}.access_loggers.file.v3.FileAccessLog"),
                "path": path,
                "log_format": { "text_format_source": { "inline_string": log_format() } },
            },
        })
    });
    let to = |cluster: String| {
        let mut to = json!({ "cluster": cluster, "timeout": "0s", "max_grpc_timeout": "0s" });
        if !route.inbound() {
            to["retry_policy"] = json!({
                "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                "num_retries": 2,
                "host_selection_retry_max_attempts": "5",
            });
        }
        to
    };
    let decorator = json!({ "operation": "server.demo.svc.cluster.local:8080/*" });
    let mut manager = json!({
        "@type": format!("{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": format!("{}_0.0.0.0_8080", route.name()),
        "server_name": "istio-envoy",
        "use_remote_address": false,
        "normalize_path": true,
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "access_log": log.into_iter().collect::<Vec<_>>(),
        "route_config": { "validate_clusters": false, "virtual_hosts": [{
            "name": "server.demo.svc.cluster.local:8080",
            "domains": ["*"],
            "include_request_attempt_count": true,
            "routes": [
                {
                    "match": { "prefix": "/", "grpc": {} },
                    "route": to(grpc_cluster(route)),
                    "decorator": decorator,
                },
                {
                    "match": { "prefix": "/" },
                    "route": to(route.name().to_owned()),
                    "decorator": decorator,
                },
            ],
        }] },
        "http_filters": [
            http_filter("grpc_stats", "FilterConfig", json!({
                "emit_filter_state": true, "stats_for_all_methods": false,
            })),
            http_filter("fault", "HTTPFault", json!({})),
            http_filter("cors", "Cors", json!({})),
            http_filter("router", "Router", json!({})),
        ],
    });
    if route.inbound() {
        manager["forward_client_cert_details"] = "APPEND_FORWARD".into();
        manager["set_current_client_cert_details"] =
            json!({ "subject": true, "dns": true, "uri": true });
    }
    json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager })
}

fn log_format() -> String {
    format!("{}\n", LOG_FIELDS.join(" "))
}

fn http_filter(name: &str, kind: &str, configuration: Value) -> Value {
    let mut typed = configuration;
    typed["@type"] = format!("{TYPE}.filters.http.{name}.v3.{kind}").into();
    json!({ "name": format!("envoy.filters.http.{name}"), "typed_config": typed })
}

fn grpc_cluster(route: Route) -> String {
    format!("{}-grpc", route.name())
}

/// The cluster of a route, and that of its gRPC, which needs HTTP/2 all the way.
fn clusters(route: Route, kind: Kind<'_>) -> Vec<Value> {
    let plain = || (route.name().to_owned(), false);
    match kind.http {
        None | Some(Http::Plain) => vec![cluster(route, kind, plain())],
        Some(Http::Mesh { http2, .. }) => {
            // The application itself speaks HTTP/1.1.
            let requests = (route.name().to_owned(), http2 && !route.inbound());
            let calls = (grpc_cluster(route), true);
            vec![cluster(route, kind, requests), cluster(route, kind, calls)]
        }
    }
}

/// Without the default limit of 1,024 connections, which would count as failures of the path.
fn cluster(route: Route, kind: Kind<'_>, (name, http2): (String, bool)) -> Value {
    let mut cluster = json!({
        "name": name,
        "connect_timeout": "2s",
        "circuit_breakers": { "thresholds": [{
            "max_connections": 100_000,
            "max_pending_requests": 100_000,
            "max_requests": 100_000,
        }] },
    });
    if http2 {
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        cluster["typed_extension_protocol_options"][options] = json!({
            "@type": format!("type.googleapis.com/{options}"),
            "explicit_http_config": { "http2_protocol_options": {} },
        });
    }
    if let (Some(mtls), false) = (kind.mtls, route.inbound()) {
        let protocol = match kind.http {
            None => BYTES,
            Some(_) if http2 => HTTP2,
            Some(_) => HTTP1,
        };
        cluster["transport_socket"] = mtls.client(&[protocol]);
    }
    if let Some(to) = route.to {
        cluster["type"] = "STATIC".into();
        cluster["load_assignment"] = json!({
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(to) } }] }],
        });
    } else {
        cluster["type"] = "ORIGINAL_DST".into();
        cluster["lb_policy"] = "CLUSTER_PROVIDED".into();
    }
    if let Some(from) = route.from {
        cluster["upstream_bind_config"] =
            json!({ "source_address": { "address": from.to_string(), "port_value": 0 } });
    }
    cluster
}

fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTBOUND: Route = Route {
        port: 15001,
        to: None,
        from: None,
    };
    const INBOUND: Route = Route {
        port: 15006,
        to: None,
        from: Some(IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 6))),
    };

    /// Names of the clusters, and which of them speak HTTP/2.
    fn protocols(http: Option<Http>) -> Vec<(String, bool)> {
        let kind = Kind { http, mtls: None };
        let configuration = configuration(&[OUTBOUND, INBOUND], kind, Path::new("/nowhere"));
        let clusters = configuration["static_resources"]["clusters"].as_array();
        let protocol = |cluster: &Value| {
            let name = cluster["name"].as_str().unwrap_or_default().to_owned();
            (name, !cluster["typed_extension_protocol_options"].is_null())
        };
        clusters.into_iter().flatten().map(protocol).collect()
    }

    #[test]
    fn applications_of_a_mesh_speak_http2_for_grpc_alone() {
        let mesh = |http2| {
            protocols(Some(Http::Mesh {
                http2,
                access_log: false,
            }))
        };
        let of = |clusters: Vec<(String, bool)>, name: &str| {
            clusters
                .into_iter()
                .find_map(|(one, http2)| (one == name).then_some(http2))
        };
        assert_eq!(of(mesh(false), "outbound"), Some(false));
        assert_eq!(of(mesh(true), "outbound"), Some(true));
        assert_eq!(of(mesh(true), "inbound"), Some(false));
        assert_eq!(of(mesh(false), "inbound-grpc"), Some(true));
        assert_eq!(of(protocols(None), "outbound-grpc"), None);
    }

    #[test]
    fn handshakes_of_clusters_do_not_count() {
        let stats = "c\r\nlistener.0.0.0.0_15006.ssl.handshake: 10\n\
            listener.0.0.0.0_15006.ssl.session_reused: 7\ncluster.outbound.ssl.handshake: 3\n";
        let of = |name| counted(stats, name);
        assert_eq!((of("ssl.handshake"), of("ssl.session_reused")), (10, 7));
    }
}
