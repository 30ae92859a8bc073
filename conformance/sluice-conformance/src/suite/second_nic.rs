//! A second interface of the Pod under test, of which its network's plugins know nothing: some of
//! what leaves goes that way, and all that comes to the Pod.

use std::net::IpAddr;

use anyhow::Result;
use sluice_testbed::netns::Netns;

/// Its name in the Pod, and at the node's end.
pub(crate) const IN_POD: &str = "net1";
const AT_NODE: &str = "side";
/// The node's address and the Pod's, of each family.
const ENDS: [(&str, &str); 2] = [("172.31.9.1", "172.31.9.2"), ("fd00:31::1", "fd00:31::2")];
/// The networks of both ends, to which the host beyond the node answers.
pub(crate) const RANGES: [&str; 2] = ["172.31.9.0/24", "fd00:31::/64"];
/// The network that it leads to: that of the third server.
const BEYOND: [&str; 2] = ["203.0.113.0/24", "2001:db8:2::/48"];

/// Gives it to a Pod, before it joins its network. It is removed with the Pod's namespace.
pub(crate) fn create(node: &Netns, pod: &Netns) -> Result<()> {
    // The kernel may still be taking down the namespace of the Pod before, and its link with it.
    node.ip(&format!("link delete {AT_NODE}")).ok();
    pod.ip(&format!(
        "link add {IN_POD} type veth peer name {AT_NODE} netns {}",
        node.name()
    ))?;
    for (at_node, in_pod) in ENDS {
        let length = if at_node.contains(':') { 64 } else { 24 };
        node.ip(&format!("address add {at_node}/{length} dev {AT_NODE}"))?;
        pod.ip(&format!("address add {in_pod}/{length} dev {IN_POD}"))?;
    }
    node.ip(&format!("link set {AT_NODE} up"))?;
    pod.ip(&format!("link set {IN_POD} up"))?;
    for (range, (via, _)) in BEYOND.into_iter().zip(ENDS) {
        pod.ip(&format!("route add {range} via {via}"))?;
    }
    Ok(())
}

/// Routes these addresses of a Pod over it.
pub(crate) fn lead(node: &Netns, addresses: &[IpAddr]) -> Result<()> {
    for address in addresses {
        let (_, via) = ENDS[usize::from(address.is_ipv6())];
        let length = if address.is_ipv4() { 32 } else { 128 };
        node.ip(&format!("route add {address}/{length} via {via}"))?;
    }
    Ok(())
}

/// The Pod's addresses there.
pub(crate) fn addresses() -> impl Iterator<Item = IpAddr> {
    ENDS.into_iter()
        .filter_map(|(_, in_pod)| in_pod.parse().ok())
}
