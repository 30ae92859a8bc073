//! Service meshes, as their Pods and proxies show themselves.

use serde::{Deserialize, Serialize};

use crate::{CLIENT, PROXY};

/// The mesh of a node.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Mesh {
    /// Istio with sidecars.
    #[default]
    Istio,
    /// Istio on a node with settings for all Pods ([`NodeWide`]): a few groups are redirected.
    IstioGroups,
    /// Istio on such a node: a few groups are not redirected.
    IstioOtherGroups,
    /// Istio without sidecars: a proxy of the node has sockets in the Pods.
    Ambient,
    /// Linkerd.
    Linkerd,
    /// Kuma, and Kong Mesh.
    Kuma,
    /// Open Service Mesh.
    Osm,
}

/// The environment of Istio's CNI plugin on a node.
pub struct NodeWide {
    /// The group that is redirected, or not.
    pub group: u32,
    /// It alone is redirected.
    pub included: bool,
    /// The loopback addresses of the application.
    pub loopback: &'static str,
    /// IPv6 is redirected in Pods with an IPv4 address, too.
    pub dual_stack: bool,
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
    pub const ALL: [Self; 7] = [
        Self::Istio,
        Self::IstioGroups,
        Self::IstioOtherGroups,
        Self::Ambient,
        Self::Linkerd,
        Self::Kuma,
        Self::Osm,
    ];

    /// As the daemon's configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Istio | Self::IstioGroups | Self::IstioOtherGroups => "istio",
            Self::Ambient => "ambient",
            Self::Linkerd => "linkerd",
            Self::Kuma => "kuma",
            Self::Osm => "osm",
        }
    }

    /// The annotation of a Pod that is part of it, with its value.
    pub fn injected(self) -> (&'static str, &'static str) {
        match self {
            Self::Istio | Self::IstioGroups | Self::IstioOtherGroups => {
                ("sidecar.istio.io/status", "{}")
            }
            Self::Ambient => ("ambient.istio.io/redirection", "enabled"),
            Self::Linkerd => ("linkerd.io/proxy-version", "edge-26.1.1"),
            Self::Kuma => ("kuma.io/sidecar-injected", "true"),
            Self::Osm => ("openservicemesh.io/sidecar-injection", "enabled"),
        }
    }

    /// The user of its proxies, and their group.
    pub fn owner(self) -> u32 {
        match self {
            Self::Istio | Self::IstioGroups | Self::IstioOtherGroups => PROXY,
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
            Self::Istio
            | Self::IstioGroups
            | Self::IstioOtherGroups
            | Self::Ambient
            | Self::Kuma => (15001, 15006),
            Self::Linkerd => (4140, 4143),
            Self::Osm => (15001, 15003),
        };
        Ports { outbound, inbound }
    }

    /// Whether its sidecars are Istio's.
    pub fn is_istio(self) -> bool {
        matches!(
            self,
            Self::Istio | Self::IstioGroups | Self::IstioOtherGroups
        )
    }

    /// The settings of all Pods of the node, if it has some.
    pub fn node_wide(self) -> Option<NodeWide> {
        let included = match self {
            Self::IstioGroups => true,
            Self::IstioOtherGroups => false,
            _ => return None,
        };
        Some(NodeWide {
            group: CLIENT,
            included,
            loopback: if included {
                "127.0.0.1/32"
            } else {
                "127.0.0.0/8"
            },
            dual_stack: included,
        })
    }

    /// Its proxies accept outbound connections at the loopback address alone.
    pub fn listens_on_loopback(self) -> bool {
        self == Self::Linkerd
    }
}
