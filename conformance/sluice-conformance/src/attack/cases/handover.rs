//! Sockets, listeners and rings that pass between processes of two Pods, or of two users.

use super::{ELSEWHERE, LENT, PEER, POD};
use crate::attack::agent::{Handover, Trick};
use crate::attack::net::{V4, V6};
use crate::attack::{
    Attacker::{Process, Sidecar},
    Case,
};
use crate::suite::conn_spec::Origin;

/// A port without a server.
const PORT: u16 = 8099;

pub(crate) const CASES: &[Case] = cases![
    Process "socket-to-other-pod" [V4 V6] "a socket of the Pod that a process of another Pod connects"
        { .from(Origin::Root).by(Trick::HandedOver(Handover::Away)) };
    Process "socket-from-other-pod" [V4 V6]
        "a socket of another Pod that a process of the Pod connects"
        { .from(Origin::Root).by(Trick::HandedOver(Handover::In)).passing(ELSEWHERE) };
    Process "socket-to-proxy-user-elsewhere" [V4 V6]
        "a socket of the Pod that another Pod's process with the sidecar's user connects"
        { .from(Origin::Root).by(Trick::HandedOver(Handover::AwayToProxyUser)) };
    Process "socket-to-proxy-user" [V4 V6]
        "a socket of the Pod that a process of the Pod with the sidecar's user connects"
        { .from(Origin::Root).by(Trick::HandedOver(Handover::ToProxyUser)) };
    Sidecar "socket-from-proxy-user" [V4 V6]
        "a socket that the sidecar's user made and another user connects"
        { .from(Origin::Root).by(Trick::HandedOver(Handover::FromProxyUser)) };
    Process "connection-to-other-pod" [V4 V6]
        "a connection of the Pod that a process of another Pod uses"
        { .from(Origin::Root).by(Trick::HandedOver(Handover::ConnectedAway)) };
    Process "connection-from-other-pod" [V4 V6]
        "a connection of another Pod that a process of the Pod uses"
        { .from(Origin::Root).by(Trick::HandedOver(Handover::ConnectedIn)).passing(ELSEWHERE) };
    Process "listener-to-other-pod" [V4 V6]
        "a listener of the Pod on which a process of another Pod accepts"
        { .from(Origin::Root).by(Trick::HandedOver(Handover::ListenerAway)).to(POD).at(PORT) };
    Process "listener-from-other-pod" [V4 V6]
        "a listener of another Pod on which a process of the Pod accepts"
        { .from(Origin::Root).by(Trick::HandedOver(Handover::ListenerIn)).to(PEER).at(PORT).passing(ELSEWHERE) };
    Process "bind-15001-elsewhere" [V4 V6]
        "a socket of the Pod to which another Pod's process with the sidecar's user binds port 15001"
        { .from(Origin::Root).by(Trick::HandedOver(Handover::BoundAway)).without_sidecar() };
    Process "ring-to-proxy-user-elsewhere" [V4 V6]
        "a ring with a socket of the Pod to which another Pod's process with the sidecar's user submits"
        { .from(Origin::Root).by(Trick::HandedOver(Handover::RingAway)) };
    Process "ring-from-other-pod" [V4 V6]
        "a ring with a socket of another Pod to which a process of the Pod submits"
        { .from(Origin::Root).by(Trick::HandedOver(Handover::RingIn)).passing(ELSEWHERE) };
    Process "ring-credentials" [V4 V6]
        "a connect() with credentials of the sidecar's user that are registered with a ring"
        { .from(Origin::Root).by(Trick::HandedOver(Handover::RingCredentials)) };
    Sidecar "ring-credentials-socket" [V4 V6]
        "a socket() and a connect() with such credentials"
        { .from(Origin::Root).by(Trick::HandedOver(Handover::RingSocket)).passing(LENT) };
];
