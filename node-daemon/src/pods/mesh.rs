//! The descriptions of service meshes: their differences are data, not code.

mod annotations;
mod choose;

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Deserialize;

use super::settings::{Families, NodeWide, Ports};
pub(crate) use annotations::{Annotations, Values};
pub(crate) use choose::{Error, Meshes};

/// One mesh's sidecar, and its annotations.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of the configuration, and independent of the others"
)]
pub(crate) struct Mesh {
    /// Its name, for messages.
    #[serde(skip)]
    pub(crate) name: String,
    /// The proxy's user, if it identifies the proxy.
    #[serde(default = "no_id")]
    pub(crate) uid: u32,
    /// The proxy's group, if it identifies the proxy.
    #[serde(default = "no_id")]
    pub(crate) gid: u32,
    /// The user of a container that listens on the outbound port before the proxy does, to validate the
    /// redirection; zero if there is none.
    #[serde(default)]
    pub(crate) validator_uid: u32,
    /// The proxy's port for connections of the application.
    pub(crate) outbound_port: u16,
    /// The proxy's port for connections to the Pod.
    pub(crate) inbound_port: u16,
    /// The proxy's port for DNS queries, if it can answer them.
    #[serde(default)]
    pub(crate) dns_port: u16,
    /// Whether DNS queries are captured, unless the Pod states otherwise. Only Pods of ambient mode can.
    #[serde(default = "yes")]
    pub(crate) dns_capture: bool,
    /// The port of inbound tunnels (HBONE), if any: its listener gets them directly.
    #[serde(default)]
    pub(crate) hbone_port: u16,
    /// Ports that the proxy itself serves; they are never intercepted.
    #[serde(default)]
    pub(crate) reserved_inbound_ports: Vec<u16>,
    /// Inbound ports that are excluded unless the Pod lists others.
    #[serde(default)]
    pub(crate) excluded_inbound: Vec<u16>,
    /// Outbound ports that are excluded unless the Pod lists others.
    #[serde(default)]
    pub(crate) excluded_outbound: Vec<u16>,
    /// Whether the proxy listens for the application's connections on `127.0.0.1` alone.
    #[serde(default)]
    pub(crate) proxy_listens_on_localhost_only: bool,
    /// Whether the proxy's calls to its own Pod are intercepted as inbound.
    #[serde(default = "yes")]
    pub(crate) hairpin: bool,
    /// The mark of the proxy's sockets, if it identifies the proxy: its processes may then be
    /// outside the Pod.
    #[serde(default)]
    pub(crate) mark: u32,
    /// The mask of the mark.
    #[serde(default)]
    pub(crate) mark_mask: u32,
    /// The mark of the proxy's connections to the application from the client's address; zero if
    /// the proxy does not keep that address. Where the Pod selects between `REDIRECT` and `TPROXY`,
    /// only `TPROXY` keeps it.
    #[serde(default)]
    pub(crate) source_mark: u32,
    /// Whether queries to resolvers within the Pod are not intercepted.
    #[serde(default)]
    pub(crate) bypass_local_dns: bool,
    /// Networks from which and to which nothing is intercepted.
    #[serde(default)]
    pub(crate) bypass_cidrs: Vec<IpNet>,
    /// Whether connections to loopback addresses other than `127.0.0.1`, or to the Pod's own
    /// address, are intercepted as well.
    #[serde(default)]
    pub(crate) loopback_to_proxy: bool,
    /// The families that the mesh's rules redirect.
    #[serde(default)]
    pub(crate) families: Families,
    /// The annotation of a Pod with a sidecar.
    pub(crate) sidecar_annotation: String,
    /// Annotations whose value disables interception. A label of that name has precedence.
    #[serde(default)]
    pub(crate) opt_out: BTreeMap<String, Values>,
    /// The injector, which implies further rules beyond this data.
    #[serde(default)]
    pub(crate) injector: Injector,
    /// The selection of the mesh's Pods.
    #[serde(skip)]
    pub(crate) selection: Selection,
    /// The name of the sidecar's container: a Pod without it has no sidecar.
    #[serde(default)]
    pub(crate) proxy_container: Option<String>,
    /// Annotations of ports that the proxy serves itself, and the port of a Pod without the
    /// annotation. Zero means none.
    #[serde(default)]
    pub(crate) reserved_ports: BTreeMap<String, u16>,
    /// Annotations with a strict prefix that do not affect interception.
    #[serde(default)]
    pub(crate) ignored: Vec<String>,
    /// The names of the supported annotations.
    #[serde(default)]
    pub(crate) annotations: Annotations,
    /// Annotations with one supported value.
    #[serde(default)]
    pub(crate) required_values: BTreeMap<String, String>,
    /// Strict prefixes: an unknown annotation with such a prefix rejects the Pod.
    #[serde(default)]
    pub(crate) strict_prefixes: Vec<String>,
    /// The configuration's part.
    #[serde(skip)]
    pub(crate) node: NodeWide,
}

/// The selection of a mesh's Pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Selection {
    /// By the injector's annotation.
    #[default]
    Annotation,
    /// By the label `istio.io/dataplane-mode` of a Pod or its Kubernetes namespace, except in these
    /// namespaces.
    Labels {
        /// The excluded Kubernetes namespaces.
        excluded_namespaces: Vec<String>,
    },
}

/// Injectors with rules beyond a mesh's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Injector {
    /// Any other: the annotations state everything.
    #[default]
    Annotations,
    /// Istio's, for every template.
    Istio,
    /// The agent of Istio's ambient mode.
    Ambient,
    /// Linkerd's.
    Linkerd,
    /// Kuma's, with or without the whole redirection in one annotation.
    Kuma,
    /// Open Service Mesh's.
    Osm,
    /// Consul's.
    Consul,
}

impl Mesh {
    /// Inbound ports that are excluded unless the Pod lists others.
    pub(crate) fn skip_inbound(&self) -> Ports {
        let ports = || single(&self.excluded_inbound);
        self.node.skip_inbound.clone().unwrap_or_else(ports)
    }

    /// Outbound ports that are excluded unless the Pod lists others.
    pub(crate) fn skip_outbound(&self) -> Ports {
        let ports = || single(&self.excluded_outbound);
        self.node.skip_outbound.clone().unwrap_or_else(ports)
    }
}

/// Single ports as ranges.
pub(crate) fn single(ports: &[u16]) -> Ports {
    ports.iter().map(|port| (*port, *port)).collect()
}

/// No socket has this id: `chown(2)` interprets it as "unchanged".
fn no_id() -> u32 {
    u32::MAX
}

fn yes() -> bool {
    true
}
