//! Whether a Pod lists a port or an address.

use aya_ebpf::btf_maps::{LpmTrie, lpm_trie::Key};
use sluice_abi::{
    Addr, InterfaceKey, Pod, PodFlags, Port, PortKey, PortList, RangeKey, maps::MAX_NETWORKS,
};

use crate::maps::{ASIDE, EXCLUDED, INCLUDED, INTERFACES, PORT_RANGES, PORTS, SOURCES};

/// Whether a port is left alone.
#[inline(always)]
pub(crate) fn excludes_port(pod: &Pod, port: Port) -> bool {
    pod.excluded.may_have(port) && lists_port(pod, PortList::OutboundExcluded, port)
}

/// Whether a port is in a list.
#[inline(always)]
pub(crate) fn lists_port(pod: &Pod, list: PortList, port: Port) -> bool {
    let key = PortKey::new(pod.cookie, list, port);
    PORTS.get_ptr(key).is_some()
        || (pod.flags.has(PodFlags::PORT_RANGES)
            && PORT_RANGES.get(&Key::new(PortKey::BITS, key)).is_some())
}

/// Whether an address is in a network that the Pod excludes. As in all that follows, a Pod
/// without such a list costs no look-up.
#[inline(always)]
pub(crate) fn excludes(pod: &Pod, addr: Addr) -> bool {
    pod.flags.has(PodFlags::NETWORKS_EXCLUDED) && covers(&EXCLUDED, pod, addr)
}

/// Whether a port is the proxy's whatever the address.
#[inline(always)]
pub(crate) fn includes_port(pod: &Pod, port: Port) -> bool {
    pod.flags.has(PodFlags::OUTBOUND_LISTED) && lists_port(pod, PortList::OutboundIncluded, port)
}

/// Whether an address is in a network that is the proxy's.
#[inline(always)]
pub(crate) fn includes(pod: &Pod, addr: Addr) -> bool {
    !pod.flags.has(PodFlags::NETWORKS_LISTED) || covers(&INCLUDED, pod, addr)
}

/// Whether what goes to an address goes past every row. The interface is the one that the socket is
/// bound to, or zero: then the address tells.
#[inline(always)]
pub(crate) fn sets_aside_to(pod: &Pod, addr: Addr, interface: u32) -> bool {
    pod.flags.has(PodFlags::ASIDE)
        && if interface == 0 {
            covers(&ASIDE, pod, addr)
        } else {
            sets_aside(pod, interface)
        }
}

/// The same for what comes from an address by an interface.
#[inline(always)]
pub(crate) fn sets_aside_from(pod: &Pod, addr: Addr, interface: u32) -> bool {
    (pod.flags.has(PodFlags::ASIDE) && sets_aside(pod, interface))
        || (pod.flags.has(PodFlags::ASIDE_INBOUND) && covers(&ASIDE, pod, addr))
}

#[inline(always)]
fn sets_aside(pod: &Pod, interface: u32) -> bool {
    let key = InterfaceKey::new(pod.cookie, interface);
    INTERFACES.get_ptr(key).is_some()
}

/// The address from which the Pod's routes lead to another one, if it is not the main one.
#[inline(always)]
pub(crate) fn source(pod: &Pod, asked: Addr) -> Option<Addr> {
    if !pod.flags.has(PodFlags::SOURCES) {
        return None;
    }
    let key = RangeKey::new(pod.cookie, asked);
    SOURCES.get(&Key::new(RangeKey::BITS, key)).copied()
}

/// Whether a network of the Pod covers an address.
#[inline(always)]
fn covers(networks: &LpmTrie<RangeKey, u8, MAX_NETWORKS>, pod: &Pod, addr: Addr) -> bool {
    let key = RangeKey::new(pod.cookie, addr);
    networks.get(&Key::new(RangeKey::BITS, key)).is_some()
}
