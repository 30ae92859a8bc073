//! What a Pod is told about the interception of its traffic.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{lab::cni::AddressPlan, mesh::Mesh};

/// A Pod's settings, as its annotations and its sidecar's container have them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "settings that do not depend on each other"
)]
pub(crate) struct PodAnnotations {
    /// Of the node and its Pods.
    pub(crate) mesh: Mesh,
    /// What an operator wrote.
    pub(crate) annotations: BTreeMap<String, String>,
    /// The sidecar takes DNS: its port 15053 is open.
    pub(crate) dns: bool,
    /// The sidecar's user.
    pub(crate) uid: u32,
    /// The sidecar's group.
    pub(crate) gid: u32,
    /// The sidecar runs.
    pub(crate) proxy: bool,
    /// The rules of an init container are in the Pod as well.
    pub(crate) ruled: bool,
    /// The Pod has users of its own (`hostUsers: false`).
    #[serde(default)]
    pub(crate) users: bool,
    /// The Pod's addresses.
    pub(crate) address_plan: AddressPlan,
}

impl Default for PodAnnotations {
    fn default() -> Self {
        Self::of(Mesh::Istio)
    }
}

impl PodAnnotations {
    /// Those of a Pod that says nothing but that it is part of the mesh.
    pub(crate) fn of(mesh: Mesh) -> Self {
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
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// What an annotation says.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    /// What the runtime hands over: rules learn the proxy's ids from its container, of which a
    /// plugin is told nothing.
    pub(crate) fn handed_over(&self) -> BTreeMap<String, String> {
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
    pub(crate) fn transparent(&self) -> bool {
        self.get(INTERCEPTION_MODE) == Some("TPROXY")
    }

    /// The injector has been at this Pod.
    pub(crate) fn meshed(&self) -> bool {
        self.annotations.contains_key(self.mesh.injected().0)
    }

    /// The annotations that are not the injector's mark, for a reader.
    pub(crate) fn describe(&self) -> String {
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

pub(crate) const INTERCEPTION_MODE: &str = "sidecar.istio.io/interceptionMode";
pub(crate) const INCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeInboundPorts";
pub(crate) const EXCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
pub(crate) const INCLUDE_OUTBOUND_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";
pub(crate) const EXCLUDE_OUTBOUND_RANGES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
pub(crate) const INCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeOutboundPorts";
pub(crate) const EXCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
pub(crate) const EXCLUDE_INTERFACES: &str = "traffic.sidecar.istio.io/excludeInterfaces";
pub(crate) const KUBEVIRT_INTERFACES: &str = "traffic.sidecar.istio.io/kubevirtInterfaces";
pub(crate) const REROUTE_INTERFACES: &str = "istio.io/reroute-virtual-interfaces";
pub(crate) const STATUS_PORT: &str = "status.sidecar.istio.io/port";

pub(crate) const SKIP_INBOUND_PORTS: &str = "config.linkerd.io/skip-inbound-ports";
/// Networks of peers, for Linkerd.
pub(crate) const SKIP_SUBNETS: &str = "config.linkerd.io/skip-subnets";
pub(crate) const SKIP_OUTBOUND_PORTS: &str = "config.linkerd.io/skip-outbound-ports";

pub(crate) const KUMA_EXCLUDE_INBOUND_PORTS: &str = "traffic.kuma.io/exclude-inbound-ports";
pub(crate) const KUMA_EXCLUDE_OUTBOUND_PORTS: &str = "traffic.kuma.io/exclude-outbound-ports";

pub(crate) const OSM_EXCLUDE_INBOUND_PORTS: &str = "openservicemesh.io/inbound-port-exclusion-list";
pub(crate) const OSM_EXCLUDE_OUTBOUND_PORTS: &str =
    "openservicemesh.io/outbound-port-exclusion-list";
pub(crate) const OSM_INCLUDE_RANGES: &str = "openservicemesh.io/outbound-ip-range-inclusion-list";
pub(crate) const OSM_EXCLUDE_RANGES: &str = "openservicemesh.io/outbound-ip-range-exclusion-list";
