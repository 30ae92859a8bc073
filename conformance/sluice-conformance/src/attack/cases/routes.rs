//! Source routes and routing headers, which lead packets to a hop of the attacker's choice.

use super::{COMPAT, RAW_LINK};
use crate::attack::agent::{Route, Trick};
use crate::attack::net::{MAPPED, V4, V6};
use crate::attack::{
    Attacker::{ContainerRoot, Process},
    Case,
};
use crate::suite::conn_spec::Origin;

pub(crate) const CASES: &[Case] = cases![
    Process "routing-header-early" [V6] "IPV6_RTHDR before connect()"
        { .by(Trick::Route(Route::Early)) };
    ContainerRoot "source-route-early" [V4 MAPPED] "a source route (IP_OPTIONS) before connect()"
        { .from(Origin::Root).by(Trick::Route(Route::Early)) };
    Process "routing-header-late" [V6] "IPV6_RTHDR on the connection"
        { .by(Trick::Route(Route::Late)) };
    ContainerRoot "source-route-late" [V4 MAPPED] "a source route (IP_OPTIONS) on the connection"
        { .from(Origin::Root).by(Trick::Route(Route::Late)) };
    Process "routing-header-compat" [V6] "IPV6_RTHDR on the connection by a 32-bit system call"
        { .by(Trick::Route(Route::Compat)).passing(COMPAT) };
    ContainerRoot "source-route-compat" [V4]
        "a source route on the connection by a 32-bit system call"
        { .from(Origin::Root).by(Trick::Route(Route::Compat)).passing(COMPAT) };
    ContainerRoot "packet-syn" [V4] "a TCP SYN by a packet socket (AF_PACKET)"
        { .from(Origin::Root).by(Trick::PacketSyn).at(81).passing(RAW_LINK) };
];
