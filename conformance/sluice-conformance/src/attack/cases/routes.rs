//! Source routes and routing headers, which lead packets to a hop of the attacker's choice.

use super::{COMPAT, RAW_LINK};
use crate::attack::agent::{Route, Trick};
use crate::attack::net::{MAPPED, V4, V6};
use crate::attack::{
    Act,
    Attacker::{ContainerRoot, Process},
    Case,
};
use crate::suite::conn_spec::Origin;

pub(crate) const CASES: &[Case] = &[
    Case::stopped(
        "routing-header-early-6",
        Process,
        "IPV6_RTHDR before connect()",
        Act::Net(V6.by(Trick::Route(Route::Early))),
    ),
    Case::stopped(
        "source-route-early-4",
        ContainerRoot,
        "a source route (IP_OPTIONS) before connect(), IPv4",
        Act::Net(V4.from(Origin::Root).by(Trick::Route(Route::Early))),
    ),
    Case::stopped(
        "source-route-early-mapped",
        ContainerRoot,
        "a source route (IP_OPTIONS) before connect(), v4-mapped",
        Act::Net(MAPPED.from(Origin::Root).by(Trick::Route(Route::Early))),
    ),
    Case::stopped(
        "routing-header-late-6",
        Process,
        "IPV6_RTHDR on the connection",
        Act::Net(V6.by(Trick::Route(Route::Late))),
    ),
    Case::stopped(
        "source-route-late-4",
        ContainerRoot,
        "a source route (IP_OPTIONS) on the connection, IPv4",
        Act::Net(V4.from(Origin::Root).by(Trick::Route(Route::Late))),
    ),
    Case::stopped(
        "source-route-late-mapped",
        ContainerRoot,
        "a source route (IP_OPTIONS) on the connection, v4-mapped",
        Act::Net(MAPPED.from(Origin::Root).by(Trick::Route(Route::Late))),
    ),
    Case::passed(
        "routing-header-compat-6",
        Process,
        "IPV6_RTHDR on the connection by a 32-bit system call",
        Act::Net(V6.by(Trick::Route(Route::Compat))),
        COMPAT,
    ),
    Case::passed(
        "source-route-compat-4",
        ContainerRoot,
        "a source route on the connection by a 32-bit system call",
        Act::Net(V4.from(Origin::Root).by(Trick::Route(Route::Compat))),
        COMPAT,
    ),
    Case::passed(
        "packet-syn-4",
        ContainerRoot,
        "a TCP SYN by a packet socket (AF_PACKET)",
        Act::Net(V4.from(Origin::Root).by(Trick::PacketSyn).at(81)),
        RAW_LINK,
    ),
];
