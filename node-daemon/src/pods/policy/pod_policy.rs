//! The default settings of a Pod, and changes that affect several settings.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Error, Families, Inbound, OwnerGroups, PodPolicy, Ports, ProxyPorts, UserSource};
use crate::{
    netns::Users,
    pods::{
        bypass::Bypass,
        mesh::{Mesh, single},
    },
};

impl PodPolicy {
    /// The settings of a Pod without annotations.
    pub(crate) fn of(mesh: &'static Mesh) -> Self {
        let mut inbound = single(&mesh.reserved_inbound_ports);
        inbound.extend(mesh.skip_inbound());
        Self {
            mesh,
            uid: mesh.uid,
            gid: mesh.gid,
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
            bypass: Bypass {
                networks: mesh.bypass_cidrs.clone(),
                ..Bypass::default()
            },
            virtual_interfaces: Box::default(),
            virtual_links: Vec::new(),
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
        let mapped = |groups: BTreeSet<u32>| {
            let groups = groups.into_iter();
            groups.filter_map(|gid| users.group(gid)).collect()
        };
        let owner_groups = match self.owner_groups {
            OwnerGroups::All => OwnerGroups::All,
            OwnerGroups::Only(groups) => OwnerGroups::Only(mapped(groups)),
            OwnerGroups::Except(groups) => OwnerGroups::Except(mapped(groups)),
        };
        Ok(Self {
            uid,
            gid,
            owner_groups,
            ..self
        })
    }

    /// Whether IPv6 bypasses the proxy in a Pod with these addresses.
    pub(crate) fn bypasses_ipv6(&self, addresses: &[IpAddr]) -> bool {
        match self.families {
            Families::Both => false,
            Families::Ipv4 => true,
            Families::FirstAddress => addresses.iter().any(|ip| ip.to_canonical().is_ipv4()),
        }
    }
}
