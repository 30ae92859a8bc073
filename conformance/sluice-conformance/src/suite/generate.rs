//! Random Pods and random connections, the same for the same seed.

use std::iter;

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use sluice_lab::{
    pod_annotations::{self, PodAnnotations},
    servers::SERVED,
};
use sluice_testbed::{agent::probe::Way, cni::AddressPlan};

use crate::suite::{
    behind,
    conn_spec::{CLOSED, ConnSpec, Family, Origin, SERVICE_PORTS, Server, Service, Source, Target},
};

/// Connections of one Pod.
pub(crate) const PER_POD: usize = 60;

/// Destination ports besides the served ones: a closed one and the proxy's own.
const ODD_PORTS: [u16; 3] = [CLOSED, 15001, 15006];
const PORT_RANGES: [&str; 5] = ["8000-8999", "1-1023", "443-9000", "15000-15100", "1-65535"];
/// Of a Pod that has `eth0` and `net1`.
const INTERFACES: [&str; 5] = ["net1", "eth0", "net+", "net2", "eth0, net1"];
const RANGES: [&str; 21] = [
    "10.96.0.0/16",
    "10.96.0.1/32",
    "fd00:96::/32",
    "198.18.0.0/15",
    "198.18.0.0/24",
    "198.18.0.1/32",
    "198.18.7.0/24",
    "198.18.7.7/32",
    "203.0.113.0/24",
    "10.77.0.0/16",
    "192.0.2.0/24",
    "0.0.0.0/0",
    "127.0.0.0/8",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8:1:7::/64",
    "2001:db8:1::1/128",
    "2001:db8:2::/48",
    "fd00:77::/32",
    "::/0",
    "::1/128",
];

/// A Pod and its connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RandomCase {
    pub(crate) settings: PodAnnotations,
    pub(crate) asks: Vec<ConnSpec>,
}

/// Pods without end, each with connections.
pub(crate) fn scenes(seed: u64) -> impl Iterator<Item = RandomCase> {
    let mut rng = Rng::with_seed(seed);
    iter::repeat_with(move || random_case(&mut rng))
}

fn random_case(rng: &mut Rng) -> RandomCase {
    // Draws that other connections of the seed do not depend on.
    let mut separate = rng.clone();
    let settings = with_host_behind(&mut separate, settings(rng));
    let asks = (0..PER_POD).map(|_| {
        let ask = ask(rng, &settings);
        if behind::is_in(&settings) && chance(&mut separate, 25) {
            from_behind(&mut separate, ask)
        } else {
            ask
        }
    });
    let asks = asks.collect();
    RandomCase { settings, asks }
}

/// True in so many of a hundred cases.
fn chance(rng: &mut Rng, percent: u32) -> bool {
    rng.u32(..100) < percent
}

/// One of several.
fn one<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

/// One of several, each with its weight.
fn weighted<T: Copy>(rng: &mut Rng, from: &[(u32, T)]) -> T {
    let total: u32 = from.iter().map(|(weight, _)| weight).sum();
    let mut left = rng.u32(..total);
    for (weight, value) in from {
        if left < *weight {
            return *value;
        }
        left -= weight;
    }
    from[0].1
}

fn settings(rng: &mut Rng) -> PodAnnotations {
    let address_plan = weighted(
        rng,
        &[
            (60, AddressPlan::Dual),
            (10, AddressPlan::Side),
            (10, AddressPlan::V4),
            (10, AddressPlan::V6),
            (10, AddressPlan::Twice),
        ],
    );
    let (uid, gid) = weighted(
        rng,
        &[(80, (1337, 1337)), (10, (4321, 4322)), (10, (5000, 1337))],
    );
    let mut made = PodAnnotations {
        address_plan,
        uid,
        gid,
        dns: chance(rng, 35),
        proxy: chance(rng, 92),
        users: chance(rng, 8),
        ..PodAnnotations::default()
    };
    for (percent, key, list) in ANNOTATIONS {
        if chance(rng, percent) {
            made = made.with(key, &list(rng));
        }
    }
    if address_plan == AddressPlan::Side && chance(rng, 75) {
        made = made.with(pod_annotations::EXCLUDE_INTERFACES, one(rng, &INTERFACES));
    }
    made
}

/// The same Pod, now and then with a host behind an interface.
fn with_host_behind(rng: &mut Rng, settings: PodAnnotations) -> PodAnnotations {
    if settings.transparent() || settings.address_plan == AddressPlan::Side || !chance(rng, 12) {
        return settings;
    }
    settings.with(pod_annotations::REROUTE_INTERFACES, behind::BRIDGE)
}

/// A call of that host in place of another one.
fn from_behind(rng: &mut Rng, ask: ConnSpec) -> ConnSpec {
    let is_datagram = matches!(ask.way, Way::Udp | Way::UdpUnconnected);
    let server = Target::Outside(one(rng, &Server::ALL));
    let to = weighted(
        rng,
        &[
            (25, Target::Pod),
            (10, Target::Peer),
            (10, Target::Node),
            (55, server),
        ],
    );
    ConnSpec {
        from: Origin::Behind,
        source: Source::Any,
        to,
        port: if is_datagram {
            one(rng, &SERVED)
        } else {
            port(rng)
        },
        ..ask
    }
}

/// The frequency of an annotation, and its values.
type Annotation = (u32, &'static str, fn(&mut Rng) -> String);

const ANNOTATIONS: [Annotation; 8] = [
    (12, pod_annotations::INTERCEPTION_MODE, |_| {
        "TPROXY".to_owned()
    }),
    (10, pod_annotations::STATUS_PORT, |rng| {
        one(rng, &SERVED).to_string()
    }),
    (40, pod_annotations::INCLUDE_INBOUND_PORTS, |rng| {
        starred(rng, ports)
    }),
    (40, pod_annotations::EXCLUDE_INBOUND_PORTS, ports),
    (45, pod_annotations::INCLUDE_OUTBOUND_RANGES, |rng| {
        starred(rng, ranges)
    }),
    (35, pod_annotations::EXCLUDE_OUTBOUND_RANGES, ranges),
    (25, pod_annotations::INCLUDE_OUTBOUND_PORTS, ports),
    (35, pod_annotations::EXCLUDE_OUTBOUND_PORTS, ports),
];

/// A list, or now and then a star.
fn starred(rng: &mut Rng, list: fn(&mut Rng) -> String) -> String {
    if chance(rng, 20) {
        "*".to_owned()
    } else {
        list(rng)
    }
}

/// A list of ports, sometimes an empty one.
fn ports(rng: &mut Rng) -> String {
    list(rng, |rng| {
        if chance(rng, 20) {
            one(rng, &PORT_RANGES).to_owned()
        } else {
            port(rng).to_string()
        }
    })
}

/// A list of ranges of addresses, sometimes an empty one.
fn ranges(rng: &mut Rng) -> String {
    list(rng, |rng| one(rng, &RANGES).to_owned())
}

fn list(rng: &mut Rng, item: fn(&mut Rng) -> String) -> String {
    let length = weighted(rng, &[(15, 0), (35, 1), (25, 2), (15, 3), (10, 8)]);
    let separator = one(rng, &[",", ", "]);
    (0..length)
        .map(|_| item(rng))
        .collect::<Vec<_>>()
        .join(separator)
}

fn port(rng: &mut Rng) -> u16 {
    if chance(rng, 12) {
        one(rng, &ODD_PORTS)
    } else {
        one(rng, &SERVED)
    }
}

fn ask(rng: &mut Rng, settings: &PodAnnotations) -> ConnSpec {
    if keeps_source(settings) && chance(rng, 10) {
        return kept(rng, settings.address_plan);
    }
    let from = weighted(
        rng,
        &[
            (40, Origin::Application),
            (5, Origin::Root),
            (12, Origin::Proxy),
            (8, Origin::ProxyUser),
            (8, Origin::ProxyGroup),
            (12, Origin::Peer),
            (8, Origin::Node),
            (7, Origin::Outside),
        ],
    );
    let way = weighted(
        rng,
        &[
            (60, Way::Tcp),
            (8, Way::NonBlocking),
            (6, Way::FastOpen),
            (4, Way::Mptcp),
            (11, Way::Udp),
            (11, Way::UdpUnconnected),
        ],
    );
    let family = family(rng, settings.address_plan);
    let to = target(rng, from, family);
    let service = matches!(to, Target::Service(_));
    // At `getpeername` the kernel passes the hooks another socket than at `connect`: a balancer that
    // knows sockets by their cookies does not recognize it.
    let way = if service && way == Way::Mptcp {
        Way::Tcp
    } else {
        way
    };
    ConnSpec {
        from,
        source: source(rng, from, to),
        to,
        family,
        // A datagram to a closed port gets no answer, which takes time and shows nothing.
        port: if service {
            one(rng, &SERVICE_PORTS).0
        } else if matches!(way, Way::Udp | Way::UdpUnconnected) {
            one(rng, &SERVED)
        } else {
            port(rng)
        },
        way,
    }
}

/// Whether the rules deliver what the proxy opens from its client's address. Those of DNS and of
/// loopback networks return it to the proxy.
fn keeps_source(settings: &PodAnnotations) -> bool {
    let loopback = settings.get(pod_annotations::INCLUDE_OUTBOUND_RANGES);
    settings.transparent() && !settings.dns && loopback.is_none()
}

/// A call of the proxy from its client's address.
fn kept(rng: &mut Rng, address_plan: AddressPlan) -> ConnSpec {
    ConnSpec {
        from: Origin::ProxyGroup,
        source: Source::Client,
        to: one(rng, &[Target::Pod, Target::PodSecond]),
        family: family(rng, address_plan),
        port: port(rng),
        way: one(rng, &[Way::Tcp, Way::NonBlocking, Way::FastOpen]),
    }
}

fn family(rng: &mut Rng, address_plan: AddressPlan) -> Family {
    match address_plan {
        AddressPlan::V4 => one(rng, &[Family::V4, Family::Mapped]),
        AddressPlan::V6 => Family::V6,
        _ => one(rng, &Family::ALL),
    }
}

fn target(rng: &mut Rng, from: Origin, family: Family) -> Target {
    if !from.inside() {
        return weighted(rng, &[(80, Target::Pod), (20, Target::PodSecond)]);
    }
    let loopback = if family.v4() {
        weighted(
            rng,
            &[
                (4, Target::Loopback),
                (3, Target::LoopbackSecond),
                (3, Target::Resolver),
            ],
        )
    } else {
        Target::Loopback
    };
    let server = Target::Outside(one(rng, &Server::ALL));
    let service = Target::Service(one(rng, &[Service::One, Service::Two]));
    weighted(
        rng,
        &[
            (18, Target::Pod),
            (4, Target::PodSecond),
            (4, Target::PodSide),
            (10, Target::Peer),
            (8, Target::Node),
            (40, server),
            (25, service),
            (20, loopback),
        ],
    )
}

/// Loopback addresses cannot be a source beyond the Pod.
fn source(rng: &mut Rng, from: Origin, to: Target) -> Source {
    if !from.inside() {
        return Source::Any;
    }
    let stays = !matches!(
        to,
        Target::Peer | Target::Node | Target::Outside(_) | Target::Service(_)
    );
    if stays {
        weighted(
            rng,
            &[
                (80, Source::Any),
                (7, Source::Pod),
                (5, Source::Loopback),
                (8, Source::Passthrough),
            ],
        )
    } else {
        weighted(rng, &[(92, Source::Any), (8, Source::Pod)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_connections() {
        let text = |seed| {
            let scenes: Vec<_> = scenes(seed).take(5).collect();
            serde_json::to_string(&scenes).unwrap()
        };
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
    }

    #[test]
    fn generator_covers_annotations_and_connections() {
        let scenes: Vec<_> = scenes(1).take(100).collect();
        for (_, key, _) in ANNOTATIONS {
            assert!(
                scenes
                    .iter()
                    .any(|random_case| random_case.settings.get(key).is_some()),
                "{key}"
            );
        }
        let asks: Vec<_> = scenes
            .iter()
            .flat_map(|random_case| &random_case.asks)
            .collect();
        for family in Family::ALL {
            assert!(asks.iter().any(|ask| ask.family == family), "{family:?}");
        }
        assert!(asks.iter().any(|ask| ask.way == Way::FastOpen));
        assert!(scenes.iter().any(|random_case| random_case.settings.users));
        let excluded = |random_case: &RandomCase| {
            random_case
                .settings
                .get(pod_annotations::EXCLUDE_INTERFACES)
                .is_some()
        };
        assert!(scenes.iter().any(excluded));
        assert!(asks.iter().any(|ask| ask.from == Origin::Behind));
    }
}
