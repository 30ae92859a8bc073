//! Settings of a Pod for the interception of its traffic.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sluice_testbed::cni::AddressPlan;

use crate::mesh::Mesh;

/// A Pod's settings, as its annotations and its sidecar's container have them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "settings that do not depend on each other"
)]
pub struct PodAnnotations {
    /// Of the node and its Pods.
    pub mesh: Mesh,
    /// The annotations by an operator.
    pub annotations: BTreeMap<String, String>,
    /// The sidecar takes DNS: its port 15053 is open.
    pub dns: bool,
    /// The sidecar's user.
    pub uid: u32,
    /// The sidecar's group.
    pub gid: u32,
    /// The sidecar runs.
    pub proxy: bool,
    /// The rules of an init container are in the Pod as well.
    pub ruled: bool,
    /// The Pod has users of its own (`hostUsers: false`).
    #[serde(default)]
    pub users: bool,
    /// The Pod's addresses.
    pub address_plan: AddressPlan,
}

impl Default for PodAnnotations {
    fn default() -> Self {
        Self::of(Mesh::Istio)
    }
}

impl PodAnnotations {
    /// Those of a Pod that says nothing but that it is part of the mesh.
    pub fn of(mesh: Mesh) -> Self {
        let (key, value) = mesh.injected();
        Self {
            mesh,
            annotations: [(key.to_owned(), value.to_owned())].into(),
            dns: false,
            uid: mesh.owner(),
            gid: mesh.owner(),
            proxy: true,
            ruled: false,
            users: false,
            address_plan: AddressPlan::Dual,
        }
    }

    /// The same with one more annotation.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The value of an annotation.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    /// The annotations that the runtime passes to the plugin. The injector passes the proxy's ids to the
    /// rules in its init container; a plugin does not see that container.
    pub fn for_the_plugin(&self) -> BTreeMap<String, String> {
        let ids = [
            ("sluice.io/proxy-uid", self.uid),
            ("sluice.io/proxy-gid", self.gid),
        ];
        let own = ids
            .into_iter()
            .filter(|(_, id)| self.meshed() && *id != self.mesh.owner());
        let own = own.map(|(key, id)| (key.to_owned(), id.to_string()));
        self.annotations.clone().into_iter().chain(own).collect()
    }

    /// The source address is kept at the proxy, which needs a socket that may do so.
    pub fn transparent(&self) -> bool {
        self.get(INTERCEPTION_MODE) == Some("TPROXY")
    }

    /// The injector has been at this Pod.
    pub fn meshed(&self) -> bool {
        self.annotations.contains_key(self.mesh.injected().0)
    }

    /// The annotations that are not the injector's mark, for a reader.
    pub fn describe(&self) -> String {
        let mut parts: Vec<_> = (self.annotations.iter())
            .filter(|(key, _)| *key != self.mesh.injected().0)
            .map(|(key, value)| format!("{}={value:?}", key.rsplit('/').next().unwrap_or(key)))
            .collect();
        let plain = Self::of(self.mesh);
        if self.dns {
            parts.push("DNS".to_owned());
        }
        if (self.uid, self.gid) != (plain.uid, plain.gid) {
            parts.push(format!("proxy {}:{}", self.uid, self.gid));
        }
        if !self.proxy {
            parts.push("proxy not up".to_owned());
        }
        if self.ruled {
            parts.push("rules of an init container".to_owned());
        }
        if self.users {
            parts.push("users of its own".to_owned());
        }
        if self.address_plan != plain.address_plan {
            parts.push(format!("{:?}", self.address_plan));
        }
        if parts.is_empty() {
            parts.push("defaults".to_owned());
        }
        parts.join(", ")
    }
}

/// Istio: `REDIRECT`, `TPROXY` or `NONE`.
pub const INTERCEPTION_MODE: &str = "sidecar.istio.io/interceptionMode";
/// Istio: inbound ports to redirect.
pub const INCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeInboundPorts";
/// Istio: inbound ports not to redirect.
pub const EXCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
/// Istio: destination networks to redirect.
pub const INCLUDE_OUTBOUND_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";
/// Istio: destination networks not to redirect.
pub const EXCLUDE_OUTBOUND_RANGES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
/// Istio: destination ports to redirect in any network.
pub const INCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeOutboundPorts";
/// Istio: destination ports not to redirect.
pub const EXCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
/// Istio: interfaces of which no traffic is redirected.
pub const EXCLUDE_INTERFACES: &str = "traffic.sidecar.istio.io/excludeInterfaces";
/// Istio: interfaces of virtual machines, by the older name.
pub const KUBEVIRT_INTERFACES: &str = "traffic.sidecar.istio.io/kubevirtInterfaces";
/// Istio: interfaces of virtual machines.
pub const REROUTE_INTERFACES: &str = "istio.io/reroute-virtual-interfaces";
/// Istio: the agent's port for health checks.
pub const STATUS_PORT: &str = "status.sidecar.istio.io/port";

/// Linkerd: inbound ports not to redirect.
pub const SKIP_INBOUND_PORTS: &str = "config.linkerd.io/skip-inbound-ports";
/// Linkerd: destination networks not to redirect.
pub const SKIP_SUBNETS: &str = "config.linkerd.io/skip-subnets";
/// Linkerd: destination ports not to redirect.
pub const SKIP_OUTBOUND_PORTS: &str = "config.linkerd.io/skip-outbound-ports";

/// Kuma: inbound ports not to redirect.
pub const KUMA_EXCLUDE_INBOUND_PORTS: &str = "traffic.kuma.io/exclude-inbound-ports";
/// Kuma: destination ports not to redirect.
pub const KUMA_EXCLUDE_OUTBOUND_PORTS: &str = "traffic.kuma.io/exclude-outbound-ports";

/// Open Service Mesh: inbound ports not to redirect.
pub const OSM_EXCLUDE_INBOUND_PORTS: &str = "openservicemesh.io/inbound-port-exclusion-list";
/// Open Service Mesh: destination ports not to redirect.
pub const OSM_EXCLUDE_OUTBOUND_PORTS: &str = "openservicemesh.io/outbound-port-exclusion-list";
/// Open Service Mesh: destination networks to redirect.
pub const OSM_INCLUDE_RANGES: &str = "openservicemesh.io/outbound-ip-range-inclusion-list";
/// Open Service Mesh: destination networks not to redirect.
pub const OSM_EXCLUDE_RANGES: &str = "openservicemesh.io/outbound-ip-range-exclusion-list";
