//! Listeners on the proxy's ports.

use crate::attack::agent::Trick;
use crate::attack::net::{V4, V6};
use crate::attack::{
    Attacker::{ContainerRoot, Process},
    Case,
};
use crate::suite::conn_spec::Origin;

pub(crate) const CASES: &[Case] = cases![
    Process "listen-15001" [V4 V6] "a listener on port 15001 before the sidecar starts"
        { .by(Trick::Listen(15001)).without_sidecar() };
    Process "listen-15006" [V4 V6] "a listener on port 15006 before the sidecar starts"
        { .by(Trick::Listen(15006)).without_sidecar() };
    Process "listen-15053" [V4 V6] "a listener on port 15053 before the sidecar starts"
        { .by(Trick::Listen(15053)).without_sidecar() };
    ContainerRoot "listen-root-15001" [V4] "root's listener on port 15001 before the sidecar starts"
        { .from(Origin::Root).by(Trick::Listen(15001)).without_sidecar() };
    Process "reuseport-15001" [V4 V6] "SO_REUSEPORT beside the sidecar's listener on port 15001"
        { .by(Trick::Listen(15001)) };
    ContainerRoot "listen-root-15006" [V4] "root's listener on port 15006 before the sidecar starts"
        { .from(Origin::Root).by(Trick::Listen(15006)).without_sidecar() };
    Process "reuseport-15006" [V4 V6] "SO_REUSEPORT beside the sidecar's listener on port 15006"
        { .by(Trick::Listen(15006)) };
];
