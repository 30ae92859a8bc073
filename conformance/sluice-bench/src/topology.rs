//! A variant's node: a client's Pod and servers' Pods, each with a sidecar.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use sluice_lab::{
    APPLICATION, Binaries, Lab, PROXY, Pod, PodSpec,
    backend::{BackendKind, sluice::Sluice},
};
use sluice_testbed::{
    agent::serve::READY,
    interrupt::Interrupt,
    process::{Process, output},
};

use crate::{
    Options,
    cpu::{niced, on_cpu, on_cpu_or_any, pin},
    envoy::{self, Kind, Route},
    limit::Limit,
    matrix::{Load, Placement, Sample, Sidecar, Variant},
    mtls::Mtls,
    tools,
};

const START: Duration = Duration::from_secs(40);
const PORT: u16 = 8080;
const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15006;
const CLIENT: &str = "client";
const SERVER: &str = "server";
/// The servers of the call tree: each calls the next one.
const TREE: [&str; 3] = [SERVER, "second", "third"];
/// Fewer handshakes are those of connections that stay open.
const MANY_HANDSHAKES: u64 = 100;
/// Client ports: enough for connections that are not used again.
const PORTS: &str = "1024 65000";
/// The congestion control of all connections, in place of the machine's: BBR, where that is the default,
/// paces what goes between two sockets of one machine. Every kernel has Reno and lets every namespace
/// choose it, and without losses it differs little from CUBIC.
pub(super) const CONGESTION: &str = "reno";

/// Everything of one variant.
pub(super) struct Topology {
    // Processes end before their namespaces.
    processes: Vec<(Role, Process)>,
    limit: Option<Limit>,
    mtls: Option<Mtls>,
    lab: Lab,
    target: SocketAddr,
    /// The directory of the server's Envoy.
    envoy: Option<PathBuf>,
}

/// What a topology is made of.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) sidecar: Sidecar,
    /// Whether there are all servers of the call tree, or the first alone.
    pub(super) tree: bool,
}

/// The role of a process in its Pod.
#[derive(Clone, Copy)]
struct Role {
    pod: &'static str,
    sidecar: bool,
}

impl Role {
    /// The processor that it is bound to; none if the scheduler selects.
    fn cpu(self, placement: Placement) -> Option<usize> {
        match placement {
            Placement::Together => Some(cpu(CLIENT)),
            Placement::Sidecars => Some(usize::from(self.sidecar)),
            Placement::Pods => Some(cpu(self.pod)),
            Placement::Any => None,
        }
    }
}

impl Topology {
    /// Builds it, and waits until it serves.
    pub(super) fn build(
        options: &Options,
        variant: Variant,
        shape: Shape,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let binaries = &options.binaries;
        let lab = lab(binaries.resolve()?, variant, interrupt)?;
        let limit = (variant == Variant::Limit)
            .then(|| Limit::attach(&options.limit_object, lab.cgroup()))
            .transpose()?;
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut topology = Self {
            processes: Vec::new(),
            limit,
            mtls: shape.sidecar.encrypts().then(Mtls::new).transpose()?,
            lab,
            target: nowhere,
            envoy: None,
        };
        let meshed = !matches!(variant, Variant::Direct | Variant::Explicit);
        let names = &TREE[..if shape.tree { TREE.len() } else { 1 }];
        for name in [CLIENT].into_iter().chain(names.iter().copied()) {
            topology.lab.add(PodSpec {
                name,
                meshed,
                proxy: false,
                transparent: false,
                ports: &[],
            })?;
            settle(&topology.lab, name, PORTS)?;
        }
        let address = |name: &&'static str| -> Result<_> {
            let pod = topology.lab.pod(name)?;
            Ok((*name, SocketAddr::new(pod.address(true)?, PORT)))
        };
        let servers = names.iter().map(address).collect::<Result<Vec<_>>>()?;
        // How a Pod's application calls a server.
        let call = |server: SocketAddr| match variant {
            Variant::Explicit => SocketAddr::from((Ipv4Addr::LOCALHOST, OUTBOUND)),
            _ => server,
        };
        topology.target = call(servers.first().context("no server")?.1);
        for (place, (name, _)) in servers.iter().enumerate() {
            let next = servers.get(place + 1).map(|(_, next)| call(*next));
            on_cpu(cpu(name), || topology.serve(name, next, interrupt))?;
        }
        if variant != Variant::Direct {
            let envoy = envoy::Program {
                path: &binaries.envoy,
                workers: options.workers,
            };
            for (name, routes) in routes(variant, &servers) {
                on_cpu(cpu(name), || {
                    let sidecar = (shape.sidecar, &*routes);
                    topology.start_sidecar(name, sidecar, envoy, interrupt)
                })?;
            }
        }
        Ok(topology)
    }

    /// Runs a load.
    pub(super) fn run(&self, load: Load, duration: Duration) -> Result<Sample> {
        self.pin_all(load.placement())?;
        let place = self.lab.place(self.lab.pod(CLIENT)?, APPLICATION);
        let before = self.handshakes()?;
        let client = Role {
            pod: CLIENT,
            sidecar: false,
        };
        let mut sample = on_cpu_or_any(client.cpu(load.placement()), || {
            tools::run(load, duration, place, self.target, || self.conntrack())
        })?;
        sample.resumed = resumed(before, self.handshakes()?);
        Ok(sample)
    }

    /// Handshakes of the server's sidecar, and those that resumed a session, if it speaks TLS.
    fn handshakes(&self) -> Result<(u64, u64)> {
        let envoy = self.envoy.as_deref().filter(|_| self.mtls.is_some());
        envoy.map_or(Ok((0, 0)), envoy::handshakes)
    }

    /// Puts the processes where a load wants them.
    fn pin_all(&self, placement: Placement) -> Result<()> {
        (self.processes.iter())
            .try_for_each(|(role, process)| pin(role.cpu(placement), process.id()))
    }

    /// Removes it. Returns failures and leftovers.
    pub(super) fn remove(self) -> Vec<String> {
        let Self {
            processes,
            limit,
            lab,
            ..
        } = self;
        let ended = processes.into_iter().map(|(_, process)| process.stop());
        let mut left: Vec<_> = ended
            .filter_map(Result::err)
            .map(|error| format!("{error:#}"))
            .collect();
        drop(limit);
        left.extend(lab.remove());
        left
    }

    /// Opens connections on which nothing happens; they close when the process ends.
    pub(super) fn hold(&self, count: u16, interrupt: &Interrupt) -> Result<Process> {
        let mut command = self.lab.place(self.lab.pod(CLIENT)?, APPLICATION).own()?;
        command.args(["idle-conns", "--to", &self.target.to_string()]);
        command.args(["--count", &count.to_string()]);
        on_cpu(cpu(CLIENT), || {
            start(&self.lab, "hold", &mut command, interrupt)
        })
    }

    /// Lets closed connections leave nothing, not even `TIME_WAIT`.
    pub(super) fn linger0(&self) -> Result<()> {
        self.lab.pods.iter().try_for_each(|pod| {
            let place = self.lab.within(Some(&pod.netns));
            let mut command = place.command(Path::new("/bin/sh"))?;
            command.args(["-c", "echo 0 >/proc/sys/net/ipv4/tcp_max_tw_buckets"]);
            output(&mut command, START).map(drop)
        })
    }

    /// TCP sockets in the Pods.
    pub(super) fn sockets(&self) -> Result<u64> {
        let count = |pod: &Pod| -> Result<u64> {
            let sockstat = pod.netns.read("/proc/net/sockstat")?;
            in_use(&sockstat).context("no TCP in /proc/net/sockstat")
        };
        self.lab.pods.iter().map(count).sum()
    }

    /// Connections that the kernel tracks in the Pods.
    pub(super) fn conntrack(&self) -> Result<u64> {
        let count = |pod: &Pod| -> Result<u64> {
            let count = pod
                .netns
                .read("/proc/sys/net/netfilter/nf_conntrack_count")?;
            Ok(count.trim().parse().unwrap_or_default())
        };
        self.lab.pods.iter().map(count).sum()
    }

    /// Starts a Pod's application, which calls `next` for each request of the call tree.
    fn serve(
        &mut self,
        pod: &'static str,
        next: Option<SocketAddr>,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let place = self.lab.place(self.lab.pod(pod)?, APPLICATION);
        let mut command = place.own()?;
        command.args(["bench-server", "--port", &PORT.to_string()]);
        if let Some(next) = next {
            command.args(["--next", &next.to_string()]);
        }
        let role = Role {
            pod,
            sidecar: false,
        };
        self.start((role, "application"), &mut command, interrupt)
    }

    /// Starts a Pod's sidecar.
    fn start_sidecar(
        &mut self,
        name: &'static str,
        (sidecar, routes): (Sidecar, &[Route]),
        envoy: envoy::Program<'_>,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let role = Role {
            pod: name,
            sidecar: true,
        };
        let place = self.lab.place(self.lab.pod(name)?, PROXY);
        let own = self.lab.file(&format!("{name}-envoy"));
        if sidecar != Sidecar::Minimal {
            let kind = Kind {
                http: sidecar.http(),
                mtls: self.mtls.as_ref(),
            };
            let configuration = envoy::configuration(routes, kind, &own);
            let process = envoy::start(envoy, place, &own, &configuration, interrupt)?;
            self.processes.push((role, process));
            if name == SERVER {
                self.envoy = Some(own);
            }
            return Ok(());
        }
        let [route] = routes else {
            bail!("the minimal proxy has one listener");
        };
        let mut command = niced(place, &env::current_exe()?)?;
        command.args(["min-proxy", "--port", &route.port.to_string()]);
        if let Some(to) = route.to {
            command.args(["--to", &to.to_string()]);
        }
        if let Some(from) = route.from {
            command.args(["--from", &from.to_string()]);
        }
        self.start((role, "relay"), &mut command, interrupt)
    }

    fn start(
        &mut self,
        (role, what): (Role, &str),
        command: &mut Command,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let name = format!("{}-{what}", role.pod);
        let process = start(&self.lab, &name, command, interrupt)?;
        self.processes.push((role, process));
        Ok(())
    }
}

fn in_use(sockstat: &str) -> Option<u64> {
    let tcp = sockstat
        .lines()
        .find_map(|line| line.strip_prefix("TCP: inuse "))?;
    tcp.split(' ').next()?.parse().ok()
}

/// Starts a process of a lab that says when it is ready, and waits for that.
pub(super) fn start(
    lab: &Lab,
    name: &str,
    command: &mut Command,
    interrupt: &Interrupt,
) -> Result<Process> {
    let mut process = Process::start(name, command, &lab.file(&format!("{name}.log")))?;
    let ready = interrupt.wait(START, || {
        process.check()?;
        Ok(process.log().lines().any(|line| line == READY))
    })?;
    ensure!(ready, "{name} is not ready\n{}", process.tail());
    Ok(process)
}

/// Gives a Pod the congestion control of all, and these client ports.
pub(super) fn settle(lab: &Lab, name: &str, ports: &str) -> Result<()> {
    let script = format!(
        "set -e; cd /proc/sys/net/ipv4; echo {CONGESTION} >tcp_congestion_control; \
         echo {ports} >ip_local_port_range; echo {OUTBOUND},{INBOUND} >ip_local_reserved_ports"
    );
    let place = lab.within(Some(&lab.pod(name)?.netns));
    let mut command = place.command(Path::new("/bin/sh"))?;
    output(command.args(["-c", &script]), START).map(drop)
}

/// A node of a variant's, without Pods.
pub(super) fn lab(binaries: Binaries, variant: Variant, interrupt: &Interrupt) -> Result<Lab> {
    let Some(acceleration) = variant.acceleration() else {
        let choice = match variant {
            Variant::Iptables => BackendKind::Iptables,
            _ => BackendKind::None,
        };
        return Lab::create(binaries, choice, interrupt);
    };
    let behaviour = format!("acceleration = \"{acceleration}\"\n");
    Lab::with(binaries, |binaries, directory, cgroup| {
        let sluice = Sluice::start(binaries, directory, cgroup, &behaviour, interrupt)?;
        Ok(Box::new(sluice))
    })
}

/// The work of the sidecars: the client's, and one for each server, which calls the next one.
fn routes(
    variant: Variant,
    servers: &[(&'static str, SocketAddr)],
) -> Vec<(&'static str, Vec<Route>)> {
    let explicit = variant == Variant::Explicit;
    let outbound = |server: &(&'static str, SocketAddr)| Route {
        port: OUTBOUND,
        to: explicit.then_some(SocketAddr::new(server.1.ip(), INBOUND)),
        from: None,
    };
    let inbound = |server: &(&'static str, SocketAddr)| Route {
        port: INBOUND,
        // The Pod's address, and the source addresses of its sidecar's calls.
        to: explicit.then_some(server.1),
        from: Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6))),
    };
    let client = servers.iter().take(1).map(outbound).collect();
    let mut all = vec![(CLIENT, client)];
    all.extend(servers.iter().enumerate().map(|(place, server)| {
        let next = servers.get(place + 1).map(outbound);
        (
            server.0,
            [inbound(server)].into_iter().chain(next).collect(),
        )
    }));
    all
}

/// The share of handshakes that resumed a session, from the counters before and after.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn resumed(before: (u64, u64), after: (u64, u64)) -> Option<f64> {
    let (all, resumed) = (
        after.0.checked_sub(before.0)?,
        after.1.checked_sub(before.1)?,
    );
    (all >= MANY_HANDSHAKES).then(|| resumed as f64 / all as f64)
}

/// Client and servers have a processor each, as far as there are some.
fn cpu(pod: &str) -> usize {
    usize::from(pod != CLIENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_sockets_are_counted_separately() {
        let sockstat = "sockets: used 10\nTCP: inuse 7 orphan 0 tw 0 alloc 9 mem 0\nUDP: inuse 1\n";
        assert_eq!(in_use(sockstat), Some(7));
    }

    #[test]
    fn each_server_but_the_last_calls_the_next() {
        let server = |name, last| (name, SocketAddr::from(([10, 0, 0, last], PORT)));
        let servers = [server(SERVER, 1), server("second", 2)];
        let of = |variant| {
            routes(variant, &servers)
                .into_iter()
                .map(|(pod, routes)| (pod, routes.iter().map(|route| route.to).collect::<Vec<_>>()))
                .collect::<Vec<_>>()
        };
        let inbound = |last| Some(SocketAddr::from(([10, 0, 0, last], INBOUND)));
        let application = |last| Some(SocketAddr::from(([10, 0, 0, last], PORT)));
        let explicit = vec![
            (CLIENT, vec![inbound(1)]),
            (SERVER, vec![application(1), inbound(2)]),
            ("second", vec![application(2)]),
        ];
        assert_eq!(of(Variant::Explicit), explicit);
        let ports = of(Variant::Off).into_iter().map(|(_, to)| to.len());
        assert_eq!(ports.collect::<Vec<_>>(), [1, 2, 1]);
    }

    #[test]
    fn a_few_handshakes_have_no_share() {
        assert_eq!(resumed((0, 0), (MANY_HANDSHAKES - 1, 0)), None);
        assert_eq!(resumed((100, 50), (300, 150)), Some(0.5));
    }
}
