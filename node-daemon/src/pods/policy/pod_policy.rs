//! The default settings of a Pod, and changes that affect several settings.

use std::net::IpAddr;

use super::{Families, Inbound, Parsed, PodPolicy, Ports, ProxyPorts, UserSource};
use crate::pods::mesh::{Mesh, single};

impl PodPolicy {
    /// The settings of a Pod without annotations.
    pub(crate) fn of(mesh: &'static Mesh) -> Self {
        let mut inbound = single(&mesh.reserved_inbound_ports);
        inbound.extend(mesh.skip_inbound());
        Self {
            mesh,
            uid: mesh.uid,
            gid: mesh.gid,
            validator_uid: mesh.validator_uid,
            user_from: UserSource::Mesh,
            ports: ProxyPorts {
                outbound: mesh.outbound_port,
                inbound: mesh.inbound_port,
                dns: if mesh.node.no_dns_capture {
                    0
                } else {
                    mesh.dns_port
                },
            },
            inbound: Inbound::Exclude(inbound),
            excluded_outbound: mesh.skip_outbound(),
            included_outbound: Ports::new(),
            networks: None,
            excluded_networks: Vec::new(),
            excluded_sources: mesh.node.skip_sources.clone(),
            families: mesh.node.families.or(mesh.families),
            owner_groups: mesh.node.owner_groups.clone(),
            bypass_before_proxy: false,
            excluded_interfaces: Box::default(),
            virtual_interfaces: Box::default(),
            tproxy: false,
            acceleration: None,
            state: Parsed,
        }
    }

    /// The mark of connections that keep their source, if the Pod's mode has such connections.
    pub(super) fn mesh_source_mark(&self) -> u32 {
        let always = self.mesh.annotations.interception_mode.is_none();
        if always || self.tproxy {
            self.mesh.source_mark
        } else {
            0
        }
    }
}

impl<S> PodPolicy<S> {
    /// Whether IPv6 bypasses the proxy in a Pod with these addresses.
    pub(crate) fn bypasses_ipv6(&self, addresses: &[IpAddr]) -> bool {
        match self.families {
            Families::Both => false,
            Families::Ipv4 => true,
            Families::FirstAddress => addresses.iter().any(|ip| ip.to_canonical().is_ipv4()),
        }
    }
}
