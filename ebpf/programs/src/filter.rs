//! Lookups in the port, CIDR and interface lists of a Pod.

use aya_ebpf::btf_maps::{LpmTrie, lpm_trie::Key};
use sluice_abi::{
    Addr, CidrKey, InterfaceKey, NetnsEntry, OwnAddrKey, OwnerGroupKey, PodConfig, PodFlags, Port,
    PortKey, PortList, maps::MAX_NETWORKS,
};

use crate::maps::{
    BYPASS_CIDRS, EXCLUDE_CIDRS, EXCLUDE_IFINDEX, INCLUDE_CIDRS, OWN_ADDRS, OWNER_GROUPS,
    PORT_RANGES, PORTS, PREFSRC_BY_DST, VIRTUAL_IFINDEX,
};

/// Whether an outbound port is excluded.
#[inline(always)]
pub(crate) fn excludes_port(pod: &PodConfig, port: Port) -> bool {
    pod.excluded.may_contain(port) && lists_port(pod, PortList::OutboundExcluded, port)
}

/// Whether a port is in a list.
#[inline(always)]
pub(crate) fn lists_port(pod: &PodConfig, list: PortList, port: Port) -> bool {
    let key = PortKey::new(pod.cookie, list, port);
    PORTS.get_ptr(key).is_some()
        || (pod.flags.has(PodFlags::PORT_RANGES)
            && PORT_RANGES.get(&Key::new(PortKey::BITS, key)).is_some())
}

/// Whether an address is in an excluded CIDR. As in the functions below, a Pod without such a list
/// costs no lookup.
#[inline(always)]
pub(crate) fn excludes(pod: &PodConfig, addr: Addr) -> bool {
    pod.flags.has(PodFlags::CIDR_EXCLUDES) && covers(&EXCLUDE_CIDRS, pod, addr)
}

/// Whether a port is redirected regardless of the address.
#[inline(always)]
pub(crate) fn includes_port(pod: &PodConfig, port: Port) -> bool {
    pod.flags.has(PodFlags::OUTBOUND_PORT_INCLUDES)
        && lists_port(pod, PortList::OutboundIncluded, port)
}

/// Whether a process's group is excluded, or not among the included groups.
#[inline(always)]
pub(crate) fn excludes_group(pod: &PodConfig, gid: u32) -> bool {
    let listed = || {
        OWNER_GROUPS
            .get_ptr(OwnerGroupKey::new(pod.cookie, gid))
            .is_some()
    };
    if pod.flags.has(PodFlags::OWNER_GROUP_ALLOWLIST) {
        return !listed();
    }
    pod.flags.has(PodFlags::OWNER_GROUP_EXCLUDES) && listed()
}

/// Whether an address is in an included CIDR.
#[inline(always)]
pub(crate) fn includes(pod: &PodConfig, addr: Addr) -> bool {
    !pod.flags.has(PodFlags::CIDR_ALLOWLIST) || covers(&INCLUDE_CIDRS, pod, addr)
}

/// Whether traffic to an address bypasses all rules. `interface` is the one that the socket is bound
/// to, or zero: then only the address decides.
#[inline(always)]
pub(crate) fn bypasses_to(pod: &PodConfig, addr: Addr, interface: u32) -> bool {
    pod.flags.has(PodFlags::BYPASS)
        && if interface == 0 {
            covers(&BYPASS_CIDRS, pod, addr)
        } else {
            bypasses_ifindex(pod, interface)
        }
}

/// Whether traffic from an address through an interface bypasses all rules.
#[inline(always)]
pub(crate) fn bypasses_from(pod: &PodConfig, addr: Addr, interface: u32) -> bool {
    (pod.flags.has(PodFlags::IPV4_ONLY) && !addr.is_v4())
        || (pod.flags.has(PodFlags::BYPASS) && bypasses_ifindex(pod, interface))
        || (pod.flags.has(PodFlags::BYPASS_INBOUND) && covers(&BYPASS_CIDRS, pod, addr))
}

/// Whether an interface is a virtual one of the Pod, whose connections the proxy gets.
#[inline(always)]
pub(crate) fn is_virtual(pod: &PodConfig, interface: u32) -> bool {
    let key = InterfaceKey::new(pod.cookie, interface);
    pod.flags.has(PodFlags::REROUTES) && VIRTUAL_IFINDEX.get_ptr(key).is_some()
}

#[inline(always)]
fn bypasses_ifindex(pod: &PodConfig, interface: u32) -> bool {
    let key = InterfaceKey::new(pod.cookie, interface);
    EXCLUDE_IFINDEX.get_ptr(key).is_some()
}

/// The preferred source of the Pod's route to an address, if it is not the main address.
#[inline(always)]
pub(crate) fn source(pod: &PodConfig, dst: Addr) -> Option<Addr> {
    if !pod.flags.has(PodFlags::HAS_PREFSRC) {
        return None;
    }
    let key = CidrKey::new(pod.cookie, dst);
    PREFSRC_BY_DST.get(&Key::new(CidrKey::BITS, key)).copied()
}

/// Whether a CIDR of the Pod contains an address.
#[inline(always)]
fn covers(networks: &LpmTrie<CidrKey, u8, MAX_NETWORKS>, pod: &PodConfig, addr: Addr) -> bool {
    let key = CidrKey::new(pod.cookie, addr);
    networks.get(&Key::new(CidrKey::BITS, key)).is_some()
}

/// Whether the Pod's list of inbound ports contains this port.
#[inline(always)]
pub(crate) fn lists_inbound_port(pod: &PodConfig, port: Port) -> bool {
    let list = if pod.flags.has(PodFlags::INBOUND_ALLOWLIST) {
        PortList::InboundIncluded
    } else {
        PortList::InboundExcluded
    };
    lists_port(pod, list, port)
}

/// Whether an address belongs to the Pod: the kernel sends packets to it over `lo`.
#[inline(always)]
pub(crate) fn is_pod_addr(netns: &NetnsEntry, addr: Addr) -> bool {
    if netns.owns(addr) {
        return true;
    }
    let key = OwnAddrKey::new(netns.pod.cookie, addr);
    netns.pod.flags.has(PodFlags::HAS_EXTRA_ADDRS) && OWN_ADDRS.get_ptr(key).is_some()
}
