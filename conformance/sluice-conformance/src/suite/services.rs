//! The Services of the lab: translated by the node, as kube-proxy does it, or by a socket load balancer
//! beside the backend.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Result, ensure};
use sluice_lab::{Lab, balancer::Balancer};
use sluice_testbed::process::finish;

use crate::suite::conn_spec::{SERVICE_PORTS, Service};

const LIMIT: Duration = Duration::from_secs(10);

/// The program that translates the Services of a lab.
pub(crate) enum Services {
    /// Rules on the node: a packet that leaves a Pod still has the Service's address.
    Node,
    /// Programs at the sockets.
    Balancer(Balancer),
}

impl Services {
    /// Installs the Services that have a server.
    pub(crate) fn install(&mut self, lab: &Lab) -> Result<()> {
        match self {
            Self::Node => {
                restore(lab, "iptables-restore", &rules(true))?;
                restore(lab, "ip6tables-restore", &rules(false))
            }
            Self::Balancer(balancer) => {
                let both = [true, false].into_iter().flat_map(backends);
                both.into_iter()
                    .try_for_each(|(service, backend)| balancer.set(service, backend))
            }
        }
    }

    /// Makes a Pod the backend of [`Service::Own`]. The node needs no rule: a packet that left the Pod
    /// for this Service would be a fault.
    pub(crate) fn set_own(&mut self, pod: IpAddr) -> Result<()> {
        let Self::Balancer(balancer) = self else {
            return Ok(());
        };
        let service = Service::Own.address(pod.is_ipv4());
        SERVICE_PORTS.into_iter().try_for_each(|(port, to)| {
            balancer.set(SocketAddr::new(service, port), SocketAddr::new(pod, to))
        })
    }
}

/// Every Service with a server, and its backend.
fn backends(v4: bool) -> Vec<(SocketAddr, SocketAddr)> {
    let mut all = Vec::new();
    for service in [Service::One, Service::Two] {
        for (port, to) in SERVICE_PORTS {
            let backend = service.server().map(|server| server.address(v4));
            let at = SocketAddr::new(service.address(v4), port);
            all.extend(backend.map(|backend| (at, SocketAddr::new(backend, to))));
        }
    }
    all
}

/// The rules of the node for one family.
fn rules(v4: bool) -> String {
    let rule = |protocol: &str, service: SocketAddr, backend: SocketAddr| {
        let (ip, port) = (service.ip(), service.port());
        format!(
            "-A PREROUTING -d {ip} -p {protocol} --dport {port} -j DNAT --to-destination {backend}\n"
        )
    };
    let both = |(service, backend)| ["tcp", "udp"].map(|protocol| rule(protocol, service, backend));
    let rules: String = backends(v4).into_iter().flat_map(both).collect();
    format!("*nat\n{rules}COMMIT\n")
}

fn restore(lab: &Lab, program: &str, rules: &str) -> Result<()> {
    let mut command = lab.within(None).command(Path::new(program))?;
    let output = finish(&mut command, rules, LIMIT)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {said}\n{rules}");
    Ok(())
}
