//! Other meshes than Istio with sidecars, each against its own rules.

use sluice_lab::{
    mesh::Mesh,
    pod_annotations::{
        KUMA_EXCLUDE_INBOUND_PORTS, KUMA_EXCLUDE_OUTBOUND_PORTS, OSM_EXCLUDE_INBOUND_PORTS,
        OSM_EXCLUDE_OUTBOUND_PORTS, OSM_EXCLUDE_RANGES, OSM_INCLUDE_RANGES, PodAnnotations,
        SKIP_INBOUND_PORTS, SKIP_OUTBOUND_PORTS, SKIP_SUBNETS,
    },
};
use sluice_testbed::agent::probe::Way;

use super::{
    BOTH, Case,
    Expect::{Direct, Dns, Inbound, KeptSource, Refused},
    IN, OUT, V4,
};
use crate::suite::conn_spec::{CLOSED, Origin, Server, Source, Target};

fn ambient() -> PodAnnotations {
    PodAnnotations::of(Mesh::Ambient)
}

fn resolving() -> PodAnnotations {
    PodAnnotations {
        dns: true,
        ..ambient()
    }
}

fn linkerd() -> PodAnnotations {
    PodAnnotations::of(Mesh::Linkerd)
}

fn kuma() -> PodAnnotations {
    PodAnnotations::of(Mesh::Kuma)
}

fn osm() -> PodAnnotations {
    PodAnnotations::of(Mesh::Osm)
}

const AMBIENT: Case = Case {
    source: "M1",
    settings: ambient,
    ..OUT
};
const AMBIENT_IN: Case = Case {
    source: AMBIENT.source,
    settings: ambient,
    ..IN
};
/// A connection of ztunnel from its client's address.
const AMBIENT_KEPT: Case = Case {
    from: Origin::Proxy,
    bound: Source::Client,
    to: Target::Pod,
    port: 8080,
    expect: KeptSource,
    ..AMBIENT
};
const QUERY: Case = Case {
    settings: resolving,
    port: 53,
    way: Way::Udp,
    expect: Dns,
    ..AMBIENT
};
const LINKERD: Case = Case {
    source: "M2",
    settings: linkerd,
    ..OUT
};
const LINKERD_IN: Case = Case {
    source: LINKERD.source,
    settings: linkerd,
    ..IN
};
const KUMA: Case = Case {
    source: "M3",
    settings: kuma,
    ..OUT
};
const KUMA_IN: Case = Case {
    source: KUMA.source,
    settings: kuma,
    ..IN
};
const KUMA_QUERY: Case = Case {
    settings: || PodAnnotations {
        dns: true,
        ..kuma()
    },
    port: 53,
    way: Way::Udp,
    expect: Dns,
    ..KUMA
};
/// It has no rules for IPv6.
const OSM: Case = Case {
    source: "M4",
    settings: osm,
    families: V4,
    ..OUT
};
const OSM_IN: Case = Case {
    source: OSM.source,
    settings: osm,
    families: V4,
    ..IN
};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "ambient: a server is reached through the proxy",
        ..AMBIENT
    },
    Case {
        name: "ambient: root is no exception",
        from: Origin::Root,
        ..AMBIENT
    },
    Case {
        name: "ambient: a socket with the mark connects directly",
        from: Origin::Proxy,
        expect: Direct,
        ..AMBIENT
    },
    Case {
        name: "ambient: a socket with the mark reaches the application",
        from: Origin::Proxy,
        to: Target::Pod,
        port: 8080,
        families: BOTH,
        expect: Direct,
        ..AMBIENT
    },
    Case {
        name: "ambient: the application sees the client's address",
        ..AMBIENT_KEPT
    },
    Case {
        name: "ambient: the same with Istio's rules in the Pod",
        settings: || PodAnnotations {
            ruled: true,
            ..ambient()
        },
        ..AMBIENT_KEPT
    },
    Case {
        name: "ambient: a closed port refuses the proxy",
        port: CLOSED,
        expect: Refused,
        ..AMBIENT_KEPT
    },
    Case {
        name: "ambient: the Pod's own address is direct",
        to: Target::Pod,
        port: 8080,
        expect: Direct,
        ..AMBIENT
    },
    Case {
        name: "ambient: 15020 is no exception",
        port: 15020,
        ..AMBIENT
    },
    Case {
        name: "ambient: a peer is redirected",
        ..AMBIENT_IN
    },
    Case {
        name: "ambient: the node is redirected",
        from: Origin::Node,
        ..AMBIENT_IN
    },
    Case {
        name: "ambient: 15021 is no exception",
        port: 15021,
        ..AMBIENT_IN
    },
    Case {
        name: "ambient: the node's probes reach the application",
        from: Origin::Outside,
        bound: Source::Probe,
        families: BOTH,
        expect: Direct,
        ..AMBIENT_IN
    },
    Case {
        name: "ambient: tunnels reach their listener",
        port: 15008,
        expect: Direct,
        ..AMBIENT_IN
    },
    Case {
        name: "ambient: queries go to the proxy",
        ..QUERY
    },
    Case {
        name: "ambient: queries over TCP go to the proxy",
        way: Way::Tcp,
        ..QUERY
    },
    Case {
        name: "ambient: the proxy's queries are direct",
        from: Origin::Proxy,
        expect: Direct,
        ..QUERY
    },
    Case {
        name: "ambient: a resolver on loopback keeps its queries",
        to: Target::Resolver,
        families: V4,
        expect: Direct,
        ..QUERY
    },
    Case {
        name: "linkerd: a server is reached through the proxy",
        ..LINKERD
    },
    Case {
        name: "linkerd: the proxy connects directly",
        from: Origin::Proxy,
        expect: Direct,
        ..LINKERD
    },
    Case {
        name: "linkerd: a process with the proxy's group is no exception",
        from: Origin::ProxyGroup,
        ..LINKERD
    },
    Case {
        name: "linkerd: the proxy reaches the application",
        from: Origin::Proxy,
        to: Target::Pod,
        port: 8080,
        expect: Direct,
        ..LINKERD
    },
    Case {
        name: "linkerd: a skipped port is direct",
        settings: || linkerd().with(SKIP_OUTBOUND_PORTS, "443,80"),
        expect: Direct,
        ..LINKERD
    },
    Case {
        name: "linkerd: a skipped range of ports is direct",
        settings: || linkerd().with(SKIP_OUTBOUND_PORTS, "8000-9000"),
        port: 8085,
        expect: Direct,
        ..LINKERD
    },
    Case {
        name: "linkerd: a peer is redirected",
        ..LINKERD_IN
    },
    Case {
        name: "linkerd: 15008 is no exception",
        port: 15008,
        ..LINKERD_IN
    },
    Case {
        name: "linkerd: a peer of a skipped network reaches the application",
        settings: || linkerd().with(SKIP_SUBNETS, "0.0.0.0/0,::/0"),
        expect: Direct,
        ..LINKERD_IN
    },
    Case {
        name: "linkerd: a server in a skipped network is reached through the proxy",
        settings: || linkerd().with(SKIP_SUBNETS, "0.0.0.0/0,::/0"),
        ..LINKERD
    },
    Case {
        name: "linkerd: a skipped inbound port is not redirected",
        settings: || linkerd().with(SKIP_INBOUND_PORTS, "8080"),
        expect: Direct,
        ..LINKERD_IN
    },
    Case {
        name: "kuma: a server is reached through the proxy",
        ..KUMA
    },
    Case {
        name: "kuma: the proxy connects directly",
        from: Origin::Proxy,
        expect: Direct,
        ..KUMA
    },
    Case {
        name: "kuma: a process with the proxy's group is no exception",
        from: Origin::ProxyGroup,
        ..KUMA
    },
    Case {
        name: "kuma: the proxy that calls its own Pod is redirected",
        from: Origin::Proxy,
        to: Target::Pod,
        port: 8080,
        expect: Inbound,
        ..KUMA
    },
    Case {
        name: "kuma: the Pod's own address is direct",
        to: Target::Pod,
        port: 8080,
        expect: Direct,
        ..KUMA
    },
    Case {
        name: "kuma: an excluded port is direct",
        settings: || kuma().with(KUMA_EXCLUDE_OUTBOUND_PORTS, "443,80"),
        expect: Direct,
        ..KUMA
    },
    Case {
        name: "kuma: queries go to the proxy",
        ..KUMA_QUERY
    },
    Case {
        name: "kuma: queries over TCP go to the proxy",
        way: Way::Tcp,
        ..KUMA_QUERY
    },
    Case {
        name: "kuma: the proxy's queries are direct",
        from: Origin::Proxy,
        expect: Direct,
        ..KUMA_QUERY
    },
    Case {
        name: "kuma: a peer is redirected",
        ..KUMA_IN
    },
    Case {
        name: "kuma: 15020 is no exception",
        port: 15020,
        ..KUMA_IN
    },
    Case {
        name: "kuma: an excluded inbound port is not redirected",
        settings: || kuma().with(KUMA_EXCLUDE_INBOUND_PORTS, "8080"),
        expect: Direct,
        ..KUMA_IN
    },
    Case {
        name: "osm: a server is reached through the proxy",
        ..OSM
    },
    Case {
        name: "osm: the proxy connects directly",
        from: Origin::Proxy,
        expect: Direct,
        ..OSM
    },
    Case {
        name: "osm: the proxy that calls its own Pod is redirected",
        from: Origin::Proxy,
        to: Target::Pod,
        port: 8080,
        expect: Inbound,
        ..OSM
    },
    Case {
        name: "osm: an excluded port is direct",
        settings: || osm().with(OSM_EXCLUDE_OUTBOUND_PORTS, "80,443"),
        expect: Direct,
        ..OSM
    },
    Case {
        name: "osm: an excluded range is direct",
        settings: || osm().with(OSM_EXCLUDE_RANGES, "198.18.0.0/24"),
        expect: Direct,
        ..OSM
    },
    Case {
        name: "osm: an included range is reached through the proxy",
        settings: || osm().with(OSM_INCLUDE_RANGES, "198.18.0.0/24"),
        ..OSM
    },
    Case {
        name: "osm: a server outside the included range is direct",
        settings: || osm().with(OSM_INCLUDE_RANGES, "198.18.0.0/24"),
        to: Target::Outside(Server::Three),
        expect: Direct,
        ..OSM
    },
    Case {
        name: "osm: a peer is redirected",
        ..OSM_IN
    },
    Case {
        name: "osm: 15008 is no exception",
        port: 15008,
        ..OSM_IN
    },
    Case {
        name: "osm: an excluded inbound port is not redirected",
        settings: || osm().with(OSM_EXCLUDE_INBOUND_PORTS, "8080"),
        expect: Direct,
        ..OSM_IN
    },
];
