//! Configurations of Envoy.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// An Envoy that forwards the connections of its listeners to a server. `attempts`: how often it tries to
/// connect to the server.
pub fn forwarding(listeners: &[SocketAddr], server: SocketAddr, attempts: u32) -> Value {
    let address = |at: SocketAddr| json!({ "socket_address": { "address": at.ip(), "port_value": at.port() } });
    let proxy = json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "server",
            "cluster": "server",
            "max_connect_attempts": attempts,
        },
    });
    let listener = |at: &SocketAddr| {
        json!({
            "name": at.to_string(),
            "address": address(*at),
            "filter_chains": [{ "filters": [proxy] }],
        })
    };
    let endpoint = json!({ "endpoint": { "address": address(server) } });
    json!({ "static_resources": {
        "listeners": listeners.iter().map(listener).collect::<Vec<_>>(),
        "clusters": [{ "name": "server", "connect_timeout": "10s", "load_assignment": {
            "cluster_name": "server", "endpoints": [{ "lb_endpoints": [endpoint] }],
        } }],
    } })
}
