//! Service meshes, as their Pods and proxies show themselves.

use serde::{Deserialize, Serialize};

use crate::PROXY;

/// The mesh of a node.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Mesh {
    /// Istio with sidecars.
    #[default]
    Istio,
    /// Istio without sidecars: a proxy of the node has sockets in the Pods.
    Ambient,
    /// Linkerd.
    Linkerd,
    /// Kuma, and Kong Mesh.
    Kuma,
    /// Open Service Mesh.
    Osm,
}

/// The ports of its proxies.
#[derive(Clone, Copy)]
pub struct Ports {
    /// For connections that the Pod opens.
    pub outbound: u16,
    /// For connections to the Pod.
    pub inbound: u16,
}

impl Mesh {
    /// Every mesh.
    pub const ALL: [Self; 5] = [
        Self::Istio,
        Self::Ambient,
        Self::Linkerd,
        Self::Kuma,
        Self::Osm,
    ];

    /// As the daemon's configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Istio => "istio",
            Self::Ambient => "ambient",
            Self::Linkerd => "linkerd",
            Self::Kuma => "kuma",
            Self::Osm => "osm",
        }
    }

    /// The annotation of a Pod that is part of it, with its value.
    pub fn injected(self) -> (&'static str, &'static str) {
        match self {
            Self::Istio => ("sidecar.istio.io/status", "{}"),
            Self::Ambient => ("ambient.istio.io/redirection", "enabled"),
            Self::Linkerd => ("linkerd.io/proxy-version", "edge-26.1.1"),
            Self::Kuma => ("kuma.io/sidecar-injected", "true"),
            Self::Osm => ("openservicemesh.io/sidecar-injection", "enabled"),
        }
    }

    /// The user of its proxies, and their group.
    pub fn owner(self) -> u32 {
        match self {
            Self::Istio => PROXY,
            Self::Ambient => 0,
            Self::Linkerd => 2102,
            Self::Kuma => 5678,
            Self::Osm => 1500,
        }
    }

    /// The mark of its proxies' sockets, where the mark identifies them.
    pub fn mark(self) -> Option<u32> {
        (self == Self::Ambient).then_some(0x539)
    }

    /// The ports of its proxies.
    pub fn ports(self) -> Ports {
        let (outbound, inbound) = match self {
            Self::Istio | Self::Ambient | Self::Kuma => (15001, 15006),
            Self::Linkerd => (4140, 4143),
            Self::Osm => (15001, 15003),
        };
        Ports { outbound, inbound }
    }

    /// Its proxies accept outbound connections at the loopback address alone.
    pub fn listens_on_loopback(self) -> bool {
        self == Self::Linkerd
    }
}
