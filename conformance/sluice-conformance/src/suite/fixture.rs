//! The lab of the suite: a node, a host beyond it, a Pod that is not meshed, and one Pod at a time
//! that is put to the test.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::{Serialize, de::DeserializeOwned};
use sluice_lab::{
    Binaries, CLIENT, Lab,
    backend::{BackendKind, Explained},
    mesh::Mesh,
    pod_annotations::PodAnnotations,
    servers,
};
use sluice_testbed::{
    agent::{
        ExecContext,
        probe::{Attempt, ProbeResult, Way},
    },
    interrupt::Interrupt,
    netns::{self, Netns},
    process::{Process, finish},
};

use crate::suite::{
    behind,
    conn_spec::{ConnSpec, Origin, Service, Source, Target, backend_port},
    observation::{DNS, INBOUND, Names, OUTBOUND, Observation},
    second_nic,
    services::Services,
    subject::Subject,
    test_pod::TestPod,
};

/// Neither a user nor a group of a proxy.
const OTHER_USER: u32 = 2000;
/// The mark of the `original_src` filter, as Istio configures it.
const ORIGINAL_SRC: u32 = 1337;
/// For all connections of one client.
const LIMIT: Duration = Duration::from_mins(2);
/// The link between the node and the host beyond.
const UPLINK: [(&str, &str); 2] = [("192.0.2.1", "192.0.2.2"), ("fd00:99::1", "fd00:99::2")];
/// The networks that the host beyond serves, and those of the Pods.
const SERVED_RANGES: [&str; 3] = ["198.18.0.0/15", "203.0.113.0/24", "2001:db8::/32"];
const POD_RANGES: [&str; 6] = [
    "10.77.0.0/16",
    "fd00:77::/32",
    second_nic::RANGES[0],
    second_nic::RANGES[1],
    behind::RANGES[0],
    behind::RANGES[1],
];

/// The names of a connection's addresses.
pub(crate) struct Asked {
    /// The address as the client has it.
    pub(crate) peer: String,
    /// The address as a proxy has it.
    pub(crate) original: String,
    /// The address of the server behind it.
    pub(crate) server: String,
}

/// The lab, with a subject on its node. [`Fixture::remove`] reports remains.
pub(crate) struct Fixture {
    outside_servers: Process,
    node_servers: Process,
    peer: TestPod,
    outside: Netns,
    services: Services,
    pub(crate) lab: Lab,
    pub(crate) backend: BackendKind,
    made: u32,
}

impl Fixture {
    /// Builds it.
    pub(crate) fn build(
        binaries: Binaries,
        subject: &Subject,
        mesh: Mesh,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let (lab, mut services) = subject.start(binaries, mesh, interrupt)?;
        let outside = Netns::create(format!("{}-outside", lab.name))?;
        connect(lab.node(), &outside)?;
        let plain = PodAnnotations {
            annotations: BTreeMap::new(),
            ..PodAnnotations::default()
        };
        let peer = TestPod::create(&lab, "peer", plain, interrupt)?;
        let mut outside_servers =
            servers::listen(&lab, "outside", "outside", lab.within(Some(&outside)))?;
        let mut node_servers = servers::listen(&lab, "node", "node", lab.within(None))?;
        services.install(&lab)?;
        servers::wait(&mut outside_servers, interrupt)?;
        servers::wait(&mut node_servers, interrupt)?;
        Ok(Self {
            outside_servers,
            node_servers,
            peer,
            outside,
            services,
            lab,
            backend: subject.backend,
            made: 0,
        })
    }

    /// Adds a Pod to be tested.
    pub(crate) fn admit(
        &mut self,
        settings: PodAnnotations,
        interrupt: &Interrupt,
    ) -> Result<TestPod> {
        self.made += 1;
        let name = format!("pod{}", self.made);
        let test_pod = TestPod::create(&self.lab, &name, settings, interrupt)?;
        for v4 in [true, false] {
            if let Some(ip) = test_pod.address(v4, 0) {
                self.services.set_own(ip)?;
            }
        }
        Ok(test_pod)
    }

    /// Tries connections; one that the Pod's addresses do not allow gives nothing.
    pub(crate) fn observe(
        &self,
        test_pod: &TestPod,
        asks: &[ConnSpec],
    ) -> Result<Vec<Option<Observation>>> {
        let names = self.names(test_pod);
        let mut views = vec![None; asks.len()];
        let mut batches: BTreeMap<Origin, Vec<(usize, Attempt)>> = BTreeMap::new();
        for (index, ask) in asks.iter().enumerate() {
            if let Some(attempt) = self.attempt(test_pod, *ask) {
                batches.entry(ask.from).or_default().push((index, attempt));
            }
        }
        for (origin, batch) in batches {
            let (indices, attempts): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let noticed = self.probe(test_pod, origin, &attempts)?;
            for ((index, attempt), noticed) in indices.into_iter().zip(&attempts).zip(&noticed) {
                let mut view = names.view(noticed);
                view.unexplained = self.unexplained(test_pod, asks[index], attempt, &view)?;
                views[index] = Some(view);
            }
        }
        Ok(views)
    }

    /// The destination of a connection, by name.
    pub(crate) fn asked(&self, test_pod: &TestPod, ask: ConnSpec) -> Option<Asked> {
        let names = self.names(test_pod);
        let to = self.attempt(test_pod, ask)?.to;
        let canonical = SocketAddr::new(to.ip().to_canonical(), to.port());
        let server = match ask.to {
            Target::Service(service) => {
                let v4 = ask.family.v4();
                let server = service.server().map(|server| server.address(v4));
                let ip = server.or_else(|| test_pod.address(v4, 0))?;
                SocketAddr::new(ip, backend_port(ask.port))
            }
            _ => canonical,
        };
        Some(Asked {
            peer: names.at(to),
            original: names.at(canonical),
            server: names.at(server),
        })
    }

    /// The backend's explanation of a connection to a Service, if another socket accepted than it says.
    fn unexplained(
        &self,
        test_pod: &TestPod,
        ask: ConnSpec,
        attempt: &Attempt,
        view: &Observation,
    ) -> Result<Option<String>> {
        let is_to_service = matches!(ask.to, Target::Service(_)) && ask.from != Origin::Behind;
        let Some(accepted_by) = view.accepted_by.as_deref().filter(|_| is_to_service) else {
            return Ok(None);
        };
        let place = self.place(test_pod, ask.from);
        // The daemon knows a process by its IDs on the host.
        let first = if test_pod.settings.users {
            netns::FIRST_USER
        } else {
            0
        };
        let connection = Explained {
            to: attempt.to,
            uid: first + place.user.unwrap_or_default(),
            gid: first + place.group.unwrap_or_default(),
            udp: matches!(ask.way, Way::Udp | Way::UdpUnconnected),
        };
        let pod = test_pod
            .addresses
            .first()
            .context("the Pod has an address")?;
        let rule = self.lab.backend.explain(*pod, &connection)?;
        Ok(rule.filter(|rule| listener(rule) != listener_of(accepted_by)))
    }

    /// The names of the addresses.
    pub(crate) fn names(&self, test_pod: &TestPod) -> Names {
        let mut names = Names::default();
        for v4 in [true, false] {
            let index = usize::from(!v4);
            for (nth, label) in ["pod", "pod-second"].into_iter().enumerate() {
                test_pod
                    .address(v4, nth)
                    .into_iter()
                    .for_each(|ip| names.add(ip, label));
            }
            self.peer
                .address(v4, 0)
                .into_iter()
                .for_each(|ip| names.add(ip, "peer"));
            let (outside, node) = UPLINK[index];
            for service in [Service::One, Service::Two, Service::Own] {
                names.add(service.address(v4), service.name());
            }
            for (ip, label) in [(outside, "outside"), (node, "node")] {
                names.add(ip.parse().unwrap_or(IpAddr::from([0; 4])), label);
            }
        }
        for v4 in [true, false] {
            if let Some(ip) = behind::address(v4) {
                names.add(ip, "behind");
            }
        }
        for ip in second_nic::addresses() {
            names.add(ip, "pod-side");
        }
        for gateway in test_pod.gateways.iter().chain(&self.peer.gateways) {
            names.add(*gateway, "node");
        }
        names
    }

    /// The network namespace of the Pod that is not meshed.
    pub(crate) fn elsewhere(&self) -> &Path {
        self.peer.netns.path()
    }

    /// The addresses of a connection; none if the Pod lacks them.
    pub(crate) fn attempt(&self, test_pod: &TestPod, ask: ConnSpec) -> Option<Attempt> {
        let v4 = ask.family.v4();
        let pod = test_pod.address(v4, 0);
        if ask.from.inside() && !is_local(ask.to) {
            // Without an address of the family, no packet leaves the Pod.
            pod?;
        }
        let loopback = |four: [u8; 4]| v4.then_some(IpAddr::from(four));
        let ip = match ask.to {
            Target::Pod => pod?,
            Target::PodSecond => test_pod.address(v4, 1)?,
            Target::PodSide => test_pod.side_address(v4)?,
            Target::Peer => self.peer.address(v4, 0)?,
            Target::Node => *test_pod.gateways.iter().find(|ip| ip.is_ipv4() == v4)?,
            Target::Behind => behind::address(v4)?,
            Target::Outside(server) => server.address(v4),
            Target::Service(service) => service.address(v4),
            Target::Loopback => Source::Loopback.address(v4, None)?,
            Target::LoopbackSecond => loopback([127, 0, 0, 2])?,
            Target::Resolver => loopback([127, 0, 0, 53])?,
        };
        let mark = test_pod.settings.mesh.mark();
        let of_client = ask.source == Source::Client;
        let source = if of_client {
            Some(self.peer.address(v4, 0)?)
        } else {
            ask.source.address(v4, pod)
        };
        let source = source.map(|ip| ask.family.map_for_socket(ip));
        Some(Attempt {
            to: SocketAddr::new(ask.family.map_for_socket(ip), ask.port),
            way: ask.way,
            mark: mark
                .filter(|_| ask.from == Origin::Proxy)
                .or(of_client.then_some(ORIGINAL_SRC)),
            transparent: of_client,
            source,
        })
    }

    fn probe(
        &self,
        test_pod: &TestPod,
        origin: Origin,
        attempts: &[Attempt],
    ) -> Result<Vec<ProbeResult>> {
        let noticed: Vec<ProbeResult> = self.client(test_pod, origin, "probe", &attempts)?;
        ensure!(
            noticed.len() == attempts.len(),
            "the client left connections out"
        );
        Ok(noticed)
    }

    /// Runs a job of this binary where `origin` lives, with JSON as its input and output.
    pub(crate) fn client<Answer: DeserializeOwned>(
        &self,
        test_pod: &TestPod,
        origin: Origin,
        job: &str,
        input: &impl Serialize,
    ) -> Result<Answer> {
        let mut command = self.place(test_pod, origin).own()?;
        let answer = finish(command.arg(job), &serde_json::to_string(input)?, LIMIT)?;
        let said = String::from_utf8_lossy(&answer.stderr);
        ensure!(answer.status.success(), "the client failed: {said}");
        serde_json::from_slice(&answer.stdout)
            .with_context(|| format!("the client's report; it said: {said}"))
    }

    /// The namespace and the user of a process of `origin`.
    pub(crate) fn place<'a>(&'a self, test_pod: &'a TestPod, origin: Origin) -> ExecContext<'a> {
        let PodAnnotations { mesh, uid, gid, .. } = test_pod.settings;
        let (netns, user) = match origin {
            Origin::Application => (Some(&test_pod.netns), Some((CLIENT, CLIENT))),
            Origin::Root => (Some(&test_pod.netns), None),
            // One that is known by a mark must be allowed to give it to its sockets.
            Origin::Proxy if mesh.mark().is_some() => (Some(&test_pod.netns), None),
            Origin::Proxy => (Some(&test_pod.netns), Some((uid, gid))),
            Origin::ProxyUser => (Some(&test_pod.netns), Some((uid, OTHER_USER))),
            Origin::ProxyGroup => (Some(&test_pod.netns), Some((OTHER_USER, gid))),
            Origin::Peer => (Some(&self.peer.netns), Some((CLIENT, CLIENT))),
            Origin::Node => (None, None),
            Origin::Outside => (Some(&self.outside), None),
            // A case without such a host has no such origin.
            Origin::Behind => (test_pod.behind.as_ref(), None),
        };
        ExecContext {
            user: user.map(|(user, _)| user),
            group: user.map(|(_, group)| group),
            transparent: test_pod.settings.transparent() && origin == Origin::ProxyGroup,
            ..self.lab.within(netns)
        }
    }

    /// Removes everything. Returns failures and leftovers.
    pub(crate) fn remove(self) -> Vec<String> {
        let Self {
            outside_servers,
            node_servers,
            peer,
            outside,
            lab,
            ..
        } = self;
        let outcomes = [
            outside_servers.stop(),
            node_servers.stop(),
            peer.remove(&lab),
            outside.ip("link delete uplink"),
            outside.remove(),
        ];
        let failures = outcomes.into_iter().filter_map(Result::err);
        let mut left: Vec<_> = failures.map(|error| format!("{error:#}")).collect();
        left.extend(lab.remove());
        left
    }
}

/// The listener to which a rule leads; empty if the connection is direct.
fn listener(rule: &str) -> &'static str {
    match rule {
        "outbound_to_proxy" | "outbound_port_listed" => OUTBOUND,
        "outbound_dns" => DNS.0,
        "outbound_hairpin" => INBOUND,
        _ => "",
    }
}

/// The proxy's listener that accepted; empty if another socket did.
fn listener_of(accepted_by: &str) -> &str {
    let of_proxy = [OUTBOUND, INBOUND, DNS.0].contains(&accepted_by);
    if of_proxy { accepted_by } else { "" }
}

fn is_local(target: Target) -> bool {
    matches!(
        target,
        Target::Loopback | Target::LoopbackSecond | Target::Resolver
    )
}

/// The node routes between its Pods and the host beyond, which answers for whole ranges.
fn connect(node: &Netns, outside: &Netns) -> Result<()> {
    outside.ip(&format!(
        "link add uplink type veth peer name uplink netns {}",
        node.name()
    ))?;
    for [own, other] in UPLINK.map(|(outside, node)| [outside, node]) {
        let length = if own.contains(':') { 64 } else { 24 };
        outside.ip(&format!("address add {own}/{length} dev uplink"))?;
        node.ip(&format!("address add {other}/{length} dev uplink"))?;
    }
    for netns in [outside, node] {
        netns.ip("link set uplink up")?;
    }
    for range in SERVED_RANGES {
        let via = if range.contains(':') {
            UPLINK[1].0
        } else {
            UPLINK[0].0
        };
        outside.ip(&format!("route add local {range} dev lo"))?;
        node.ip(&format!("route add {range} via {via}"))?;
    }
    // The host beyond plays the agent that sends the probes of an ambient node.
    for (v4, (via, _)) in [true, false].into_iter().zip(UPLINK) {
        if let Some(ip) = Source::Probe.address(v4, None) {
            let length = if v4 { 32 } else { 128 };
            outside.ip(&format!("address add {ip}/{length} dev lo"))?;
            node.ip(&format!("route add {ip}/{length} via {via}"))?;
        }
    }
    for (range, (_, via)) in POD_RANGES.into_iter().zip(UPLINK.into_iter().cycle()) {
        outside.ip(&format!("route add {range} via {via}"))?;
    }
    node.forward()
}
