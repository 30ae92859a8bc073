//! Variants, loads and figures of the comparison.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How the client's traffic gets to the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Variant {
    /// No proxy at all.
    Direct,
    /// Two proxies that are wired statically: nothing is intercepted. The floor.
    Explicit,
    /// The sidecar's rules.
    Iptables,
    /// Sluice, without acceleration.
    Off,
    /// Sluice; connections between proxies are accelerated.
    Proxies,
    /// Sluice; those between proxy and application, too.
    All,
    /// Sluice without acceleration, beside a program that redirects each message and checks nothing: the
    /// limit of acceleration on this machine.
    Limit,
}

impl Variant {
    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Explicit => "explicit",
            Self::Iptables => "iptables",
            Self::Off => "sluice off",
            Self::Proxies => "sluice proxies",
            Self::All => "sluice all",
            Self::Limit => "limit",
        }
    }

    /// The daemon's configuration, if there is a daemon.
    pub(super) fn acceleration(self) -> Option<&'static str> {
        match self {
            Self::Direct | Self::Explicit | Self::Iptables => None,
            Self::Off | Self::Limit => Some("off"),
            Self::Proxies => Some("proxies"),
            Self::All => Some("all"),
        }
    }
}

/// Which program stands beside client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Sidecar {
    /// Envoy with the filters of a mesh; HTTP/1.1 (HTTP/2 for gRPC) and mutual TLS between the sidecars.
    MeshHttp1,
    /// The same, with an access log.
    MeshHttp1Log,
    /// The same, with HTTP/2 between the sidecars and without an access log.
    MeshHttp2,
    /// The same, with an access log.
    MeshHttp2Log,
    /// Envoy, which passes bytes on; mutual TLS between the sidecars.
    EnvoyTcpMtls,
    /// Envoy, which reads and writes HTTP; mutual TLS between the sidecars.
    EnvoyHttpMtls,
    /// Envoy, which passes bytes on.
    EnvoyTcp,
    /// Envoy, which reads and writes HTTP.
    EnvoyHttp,
    /// One that does as little as a proxy can.
    Minimal,
}

impl Sidecar {
    /// The name of its picture.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::MeshHttp1 => "mesh-http1",
            Self::MeshHttp1Log => "mesh-http1-log",
            Self::MeshHttp2 => "mesh-http2",
            Self::MeshHttp2Log => "mesh-http2-log",
            Self::EnvoyTcpMtls => "envoy-tcp-mtls",
            Self::EnvoyHttpMtls => "envoy-http-mtls",
            Self::EnvoyTcp => "envoy-tcp",
            Self::EnvoyHttp => "envoy-http",
            Self::Minimal => "minimal",
        }
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MeshHttp1 => "Envoy, mesh, mTLS, HTTP/1.1",
            Self::MeshHttp1Log => "Envoy, mesh, mTLS, HTTP/1.1, access log",
            Self::MeshHttp2 => "Envoy, mesh, mTLS, HTTP/2",
            Self::MeshHttp2Log => "Envoy, mesh, mTLS, HTTP/2, access log",
            Self::EnvoyTcpMtls => "Envoy, TCP, mTLS",
            Self::EnvoyHttpMtls => "Envoy, HTTP, mTLS",
            Self::EnvoyTcp => "Envoy, TCP",
            Self::EnvoyHttp => "Envoy, HTTP",
            Self::Minimal => "minimal proxy",
        }
    }

    /// What it reads and writes; nothing if it passes bytes on.
    pub(super) fn http(self) -> Option<Http> {
        let mesh = |http2, access_log| Http::Mesh { http2, access_log };
        match self {
            Self::MeshHttp1 => Some(mesh(false, false)),
            Self::MeshHttp1Log => Some(mesh(false, true)),
            Self::MeshHttp2 => Some(mesh(true, false)),
            Self::MeshHttp2Log => Some(mesh(true, true)),
            Self::EnvoyHttp | Self::EnvoyHttpMtls => Some(Http::Plain),
            Self::EnvoyTcp | Self::EnvoyTcpMtls | Self::Minimal => None,
        }
    }

    /// Whether the sidecars speak TLS with each other.
    pub(super) fn encrypts(self) -> bool {
        !matches!(self, Self::EnvoyTcp | Self::EnvoyHttp | Self::Minimal)
    }

    /// Whether a variant runs with it by default: the limit where there are goals for it, and no proxy at all
    /// beside one Envoy that passes bytes on and one of a mesh.
    pub(super) fn compares(self, variant: Variant) -> bool {
        match variant {
            Variant::Limit => matches!(self, Self::EnvoyTcp | Self::Minimal),
            Variant::Direct => matches!(self, Self::EnvoyTcp | Self::MeshHttp1),
            _ => true,
        }
    }

    /// Whether it can carry a load.
    pub(super) fn carries(self, load: Load) -> bool {
        let http = self.http();
        match load {
            Load::Grpc(_) | Load::Tree(_) => matches!(http, Some(Http::Mesh { .. })),
            Load::KeepAlive(..) | Load::NewConnection(_) => true,
            Load::Bulk(_) | Load::RoundTrip(..) => http.is_none(),
        }
    }

    /// Whether a load runs with it by default. Envoy in plaintext runs all, a sidecar with an access log those that show its
    /// cost, and every other one those of a quick run. Sidecars of a mesh without an access log also run [`SPREAD`].
    pub(super) fn measures(self, load: Load) -> bool {
        let logs = matches!(
            self.http(),
            Some(Http::Mesh {
                access_log: true,
                ..
            })
        );
        let wanted = match self {
            _ if logs => LOGGED.contains(&load),
            Self::EnvoyTcp | Self::EnvoyHttp => true,
            Self::MeshHttp1 | Self::MeshHttp2 if SPREAD.contains(&load) => true,
            _ => QUICK.contains(&load),
        };
        wanted && self.carries(load)
    }
}

/// How a sidecar treats HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Http {
    /// As little as a proxy of HTTP can.
    Plain,
    /// With the filters of a mesh.
    Mesh {
        /// Between the sidecars.
        http2: bool,
        access_log: bool,
    },
}

/// The client's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) enum Load {
    /// Requests on so many connections.
    KeepAlive(u16, Placement),
    /// A new connection for each request, so many at a time.
    NewConnection(u16),
    /// So many streams, as fast as they go.
    Bulk(u16),
    /// One message of so many bytes at a time, to and fro.
    RoundTrip(u32, Placement),
    /// Unary calls of gRPC on one connection, so many at a time.
    Grpc(u16),
    /// Requests on so many connections; the server calls a second one for each, and that a third one.
    Tree(u16),
}

/// Which processes share a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Placement {
    /// All.
    Together,
    /// The sidecars, which are measured; client and application share the other one.
    Sidecars,
    /// The client and its sidecar; the application and its own share the other one.
    Pods,
    /// No process is bound to a processor: the scheduler selects.
    Any,
}

/// Every load, in the order of the tables.
pub(super) const LOADS: [Load; 18] = [
    Load::KeepAlive(1, Placement::Sidecars),
    Load::KeepAlive(16, Placement::Sidecars),
    Load::KeepAlive(64, Placement::Sidecars),
    Load::KeepAlive(64, Placement::Pods),
    Load::KeepAlive(64, Placement::Any),
    Load::NewConnection(1),
    Load::NewConnection(16),
    Load::Bulk(4),
    Load::RoundTrip(64, Placement::Together),
    Load::RoundTrip(1024, Placement::Together),
    Load::RoundTrip(16384, Placement::Together),
    Load::RoundTrip(64, Placement::Pods),
    Load::RoundTrip(1024, Placement::Pods),
    Load::RoundTrip(16384, Placement::Pods),
    Load::Grpc(1),
    Load::Grpc(64),
    Load::Tree(1),
    Load::Tree(16),
];

/// Those of a quick run.
pub(super) const QUICK: [Load; 9] = [
    Load::KeepAlive(1, Placement::Sidecars),
    Load::KeepAlive(64, Placement::Sidecars),
    Load::NewConnection(16),
    Load::Bulk(4),
    Load::RoundTrip(64, Placement::Together),
    Load::Grpc(1),
    Load::Grpc(64),
    Load::Tree(1),
    Load::Tree(16),
];

/// Those of sidecars of a mesh without an access log beside [`QUICK`]: other placements.
const SPREAD: [Load; 2] = [
    Load::KeepAlive(64, Placement::Pods),
    Load::KeepAlive(64, Placement::Any),
];

/// Those of sidecars with an access log.
const LOGGED: [Load; 2] = [Load::KeepAlive(64, Placement::Sidecars), Load::Grpc(64)];

impl Load {
    /// Its name.
    pub(super) fn name(self) -> String {
        let what = match self {
            Self::KeepAlive(1, _) => "keep-alive, 1 connection".to_owned(),
            Self::KeepAlive(count, _) => format!("keep-alive, {count} connections"),
            Self::NewConnection(count) => format!("new connection each, {count} at a time"),
            Self::Bulk(count) => format!("bulk, {count} streams"),
            Self::RoundTrip(size, _) => format!("round trip, {size} B"),
            Self::Grpc(count) => format!("gRPC unary, {count} at a time"),
            Self::Tree(count) => format!("call tree of three Pods, {count} at a time"),
        };
        match self.placement() {
            Placement::Together => format!("{what}, one processor"),
            Placement::Sidecars => what,
            Placement::Pods => format!("{what}, a processor for each Pod"),
            Placement::Any => format!("{what}, any processor"),
        }
    }

    /// Which processes share a processor.
    pub(super) fn placement(self) -> Placement {
        match self {
            Self::KeepAlive(_, placement) | Self::RoundTrip(_, placement) => placement,
            Self::NewConnection(_) | Self::Bulk(_) | Self::Grpc(_) | Self::Tree(_) => {
                Placement::Sidecars
            }
        }
    }

    /// The unit of its rate.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Bulk(_) => "MiB/s",
            _ => "1/s",
        }
    }
}

impl From<Load> for String {
    fn from(load: Load) -> Self {
        load.name()
    }
}

impl TryFrom<String> for Load {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let found = LOADS.into_iter().find(|load| load.name() == name);
        found.ok_or_else(|| format!("no load is called '{name}'"))
    }
}

/// The result of one run of a load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    /// Requests, round trips or MiB in a second.
    pub(super) rate: f64,
    /// Half of them took no longer, in µs.
    pub(super) p50: Option<f64>,
    /// 99 of 100 took no longer, in µs.
    pub(super) p99: Option<f64>,
    /// Time of all processors, without idle time, for each, in µs.
    pub(super) cpu: f64,
    /// Connections tracked in the Pods, at its end.
    pub(super) conntrack: u64,
    /// The share of TLS handshakes at the server's sidecar that resumed a session; nothing without many.
    pub(super) resumed: Option<f64>,
}

/// A number of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    Rate,
    Median,
    Cpu,
    Conntrack,
    Resumed,
}

impl Figure {
    /// Its value.
    pub(super) fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Rate => Some(sample.rate),
            Self::Median => sample.p50,
            Self::Cpu => Some(sample.cpu),
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            Self::Conntrack => Some(sample.conntrack as f64),
            Self::Resumed => sample.resumed,
        }
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Median => "median time",
            Self::Cpu => "CPU time",
            Self::Conntrack => "conntrack entries",
            Self::Resumed => "resumed TLS sessions",
        }
    }
}

/// The order of a round: everybody has every place once, so that none always comes after the same.
pub(super) fn rotated<T: Copy>(all: &[T], round: usize) -> Vec<T> {
    let mut order = all.to_vec();
    if !order.is_empty() {
        order.rotate_left(round % all.len());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_rotate_through_every_position() {
        let all = [1, 2, 3];
        let rounds: Vec<_> = (0..3).map(|round| rotated(&all, round)).collect();
        assert_eq!(rounds, [[1, 2, 3], [2, 3, 1], [3, 1, 2]]);
        assert!(rotated::<u8>(&[], 1).is_empty());
    }

    #[test]
    fn loads_are_read_by_their_names() {
        for load in LOADS {
            assert_eq!(Load::try_from(load.name()), Ok(load));
        }
        let unknown = Load::try_from("bulk".to_owned());
        assert_eq!(unknown, Err("no load is called 'bulk'".to_owned()));
    }

    #[test]
    fn only_sidecars_of_a_mesh_carry_grpc_and_trees() {
        for sidecar in Sidecar::value_variants() {
            let mesh = matches!(sidecar.http(), Some(Http::Mesh { .. }));
            assert_eq!(sidecar.measures(Load::Grpc(64)), mesh, "{sidecar:?}");
            assert_eq!(sidecar.measures(Load::Bulk(4)), sidecar.http().is_none());
        }
        let one = Load::NewConnection(1);
        assert!(Sidecar::EnvoyTcp.measures(one) && !Sidecar::Minimal.measures(one));
        assert!(Sidecar::Minimal.carries(one) && !Sidecar::MeshHttp1.measures(one));
        let any = Load::KeepAlive(64, Placement::Any);
        assert!(Sidecar::MeshHttp1.measures(any) && !Sidecar::MeshHttp1Log.measures(any));
        let tree = Load::Tree(16);
        assert!(Sidecar::MeshHttp2.measures(tree) && !Sidecar::MeshHttp2Log.measures(tree));
    }
}
