//! Connections of root, of a sidecar, and from nested namespaces.

use super::{RAW, SIDECAR};
use crate::attack::agent::Trick;
use crate::attack::net::{V4, V6};
use crate::attack::{
    Attacker::{ContainerRoot, Process, Sidecar},
    Case,
};
use crate::suite::conn_spec::Origin;

pub(crate) const CASES: &[Case] = cases![
    ContainerRoot "root-connect" [V4 V6] "connect() as root" { .from(Origin::Root) };
    ContainerRoot "root-mark" [V4 V6] "SO_MARK 0x539 as root"
        { .from(Origin::Root).by(Trick::Mark(0x539)) };
    ContainerRoot "root-device" [V4 V6] "SO_BINDTODEVICE as root"
        { .from(Origin::Root).by(Trick::Device) };
    ContainerRoot "root-transparent" [V4 V6] "IP_TRANSPARENT with an address of another host"
        { .from(Origin::Root).by(Trick::Transparent) };
    ContainerRoot "raw-syn" [V4 V6] "a TCP SYN by a raw socket"
        { .from(Origin::Root).by(Trick::RawSyn).at(81).passing(RAW) };
    Sidecar "sidecar-connect" [V4 V6] "connect() as the sidecar's user"
        { .from(Origin::Proxy).passing(SIDECAR) };
    Process "nested" [V4] "connect() in a user and network namespace of the attacker's own"
        { .by(Trick::NestedNamespace) };
];
