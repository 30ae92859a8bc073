//! The default settings of a Pod, and changes that affect several settings.

use ipnet::{IpNet, Ipv6Net};

use super::{Error, Inbound, PodPolicy, Ports, ProxyPorts, UserSource};
use crate::{
    netns::Users,
    pods::{bypass::Bypass, mesh::Mesh},
};

impl PodPolicy {
    /// The settings of a Pod without annotations.
    pub(crate) fn of(mesh: &'static Mesh) -> Self {
        let mut inbound = single(&mesh.reserved_inbound_ports);
        inbound.extend(single(&mesh.excluded_inbound));
        Self {
            mesh,
            uid: mesh.uid,
            gid: mesh.gid,
            user_from: UserSource::Mesh,
            ports: ProxyPorts {
                outbound: mesh.outbound_port,
                inbound: mesh.inbound_port,
                dns: mesh.dns_port,
            },
            inbound: Inbound::Exclude(inbound),
            excluded_outbound: single(&mesh.excluded_outbound),
            included_outbound: Ports::new(),
            networks: None,
            excluded_networks: Vec::new(),
            excluded_sources: Vec::new(),
            ipv4_only: mesh.ipv4_only,
            excluded_interfaces: Box::default(),
            bypass: Bypass {
                networks: mesh.bypass_cidrs.clone(),
                ..Bypass::default()
            },
            sources: Vec::new(),
            tproxy: false,
            source_mark: 0,
            acceleration: None,
        }
    }

    /// The mark of connections that keep their source, if the Pod's mode has such connections.
    pub(crate) fn mesh_source_mark(&self) -> u32 {
        let always = self.mesh.annotations.interception_mode.is_none();
        if always || self.tproxy {
            self.mesh.source_mark
        } else {
            0
        }
    }

    /// The settings with the proxy's user and group of the initial user namespace. A group without
    /// a mapping there is none.
    pub(crate) fn map_to_host_ids(self, users: &Users) -> Result<Self, Error> {
        let uid = users
            .user(self.uid)
            .ok_or(Error::NoUser { uid: self.uid })?;
        let gid = users.group(self.gid).unwrap_or(u32::MAX);
        Ok(Self { uid, gid, ..self })
    }

    /// Excludes IPv6 where the mesh redirects only IPv4 in this Pod. Must be applied last.
    pub(super) fn apply_families(&mut self) -> Result<(), Error> {
        if !self.ipv4_only {
            return Ok(());
        }
        // Excluded interfaces also use the networks, which are not compared for inbound
        // connections.
        if let Some(pattern) = self.excluded_interfaces.first() {
            return Err(Error::Unsupported {
                key: "traffic.sidecar.istio.io/excludeInterfaces".to_owned(),
                value: pattern.to_string(),
                allowed: "none, where the mesh redirects IPv4 alone",
            });
        }
        let everything = IpNet::V6(Ipv6Net::default());
        // Bypass CIDRs apply in both directions, excluded sources in one.
        if self.excluded_sources.is_empty() {
            self.bypass.networks.push(everything);
        } else {
            self.excluded_networks.push(everything);
            self.excluded_sources.push(everything);
        }
        Ok(())
    }

    /// Whether IPv6 bypasses the proxy.
    pub(crate) fn bypasses_ipv6(&self) -> bool {
        self.ipv4_only
    }
}

/// Single ports as ranges.
pub(super) fn single(ports: &[u16]) -> Ports {
    ports.iter().map(|port| (*port, *port)).collect()
}
