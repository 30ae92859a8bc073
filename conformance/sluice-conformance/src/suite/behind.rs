//! A host behind an interface of the Pod under test, as a virtual machine or a container of Docker: its
//! packets come to a bridge of the Pod, which forwards them.

use std::net::IpAddr;

use anyhow::Result;
use sluice_lab::pod_annotations::{KUBEVIRT_INTERFACES, PodAnnotations, REROUTE_INTERFACES};
use sluice_testbed::netns::Netns;

/// The bridge in the Pod, and its port.
pub(crate) const BRIDGE: &str = "docker0";
const PORT: &str = "tap0";
/// The addresses of the bridge and of the host, of each family.
const ENDS: [(&str, &str); 2] = [("172.31.10.1", "172.31.10.2"), ("fd00:32::1", "fd00:32::2")];
/// The networks of both ends, to which the host beyond the node answers.
pub(crate) const RANGES: [&str; 2] = ["172.31.10.0/24", "fd00:32::/64"];

/// Whether a Pod has such a host.
pub(crate) fn is_in(settings: &PodAnnotations) -> bool {
    let names = |key| settings.get(key).is_some_and(|list| list.contains(BRIDGE));
    names(KUBEVIRT_INTERFACES) || names(REROUTE_INTERFACES)
}

/// Gives it to a Pod, before that joins its network.
pub(crate) fn create(pod: &Netns) -> Result<Netns> {
    let host = Netns::create(format!("{}-vm", pod.name()))?;
    let made = connect(pod, &host);
    match made {
        Ok(()) => Ok(host),
        Err(error) => {
            // The first error is the one to report.
            let _ = host.remove();
            Err(error)
        }
    }
}

fn connect(pod: &Netns, host: &Netns) -> Result<()> {
    pod.ip(&format!("link add {BRIDGE} type bridge forward_delay 0"))?;
    pod.ip(&format!(
        "link add {PORT} type veth peer name eth0 netns {}",
        host.name()
    ))?;
    pod.ip(&format!("link set {PORT} master {BRIDGE} up"))?;
    for ((bridge, own), length) in ENDS.into_iter().zip([24, 64]) {
        let nodad = if own.contains(':') { " nodad" } else { "" };
        pod.ip(&format!(
            "address add {bridge}/{length} dev {BRIDGE}{nodad}"
        ))?;
        host.ip(&format!("address add {own}/{length} dev eth0{nodad}"))?;
    }
    pod.ip(&format!("link set {BRIDGE} up"))?;
    host.ip("link set eth0 up")?;
    for (bridge, _) in ENDS {
        host.ip(&format!("route add default via {bridge}"))?;
    }
    pod.forward()
}

/// Routes packets for the host to the Pod with these addresses.
pub(crate) fn lead(node: &Netns, addresses: &[IpAddr]) -> Result<()> {
    node.send_no_redirects()?;
    for (range, v4) in RANGES.into_iter().zip([true, false]) {
        if let Some(via) = addresses.iter().find(|ip| ip.is_ipv4() == v4) {
            node.ip(&format!("route replace {range} via {via}"))?;
        }
    }
    Ok(())
}

/// Its address.
pub(crate) fn address(v4: bool) -> Option<IpAddr> {
    ENDS[usize::from(!v4)].1.parse().ok()
}
