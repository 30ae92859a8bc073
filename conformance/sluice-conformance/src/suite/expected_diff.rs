//! Differences from the rules that are known, and why they are there.

use serde::Serialize;
use sluice_lab::pod_annotations::PodAnnotations;

use crate::suite::conn_spec::{ConnSpec, Source, Target};

/// A difference that is meant. The comparison leaves it out.
pub(crate) struct Global {
    pub(crate) what: &'static str,
    pub(crate) why: &'static str,
}

/// All of them.
pub(crate) const MEANT: &[Global] = &[
    Global {
        what: "conntrack",
        why: "no connection of a Pod is tracked, which is what the rules are replaced for",
    },
    Global {
        what: "the own address of the proxy's socket",
        why: "the rules rewrite to 127.0.0.1 and the listener's port; here outbound connections \
              meet the proxy all over 127.64.0.0/10 and 100::7f40:0/106, so that client ports last \
              and the address identifies the destination, and inbound ones keep the address that was \
              asked for",
    },
    Global {
        what: "the owner of a socket that changed hands",
        why: "the rules look at who made the socket, the hooks at who connects it",
    },
];

/// An intended difference of some Pods. The comparison counts it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct PerPod {
    pub(crate) what: &'static str,
    #[serde(skip)]
    applies: fn(&PodAnnotations, ConnSpec) -> bool,
}

/// All of them.
pub(crate) const EXCEPTIONS: &[PerPod] = &[
    PerPod {
        what: "queries are captured once the proxy listens for them, not before, so that Pods whose \
               proxy has no resolver keep theirs",
        applies: |settings, ask| {
            settings.dns && !settings.proxy && ask.from.inside() && ask.port == 53
        },
    },
    PerPod {
        what: "with TPROXY and no proxy, what would enter it is refused at once, as with REDIRECT, where \
               the rules lose packets",
        applies: |settings, _| settings.transparent() && !settings.proxy,
    },
    PerPod {
        what: "the proxy's connection from a client's address to its own inbound listener is refused: it would \
               return to the proxy, again and again",
        applies: |settings, ask| {
            ask.source == Source::Client
                && matches!(ask.to, Target::Pod | Target::PodSecond | Target::Loopback)
                && ask.port == settings.mesh.ports().inbound
        },
    },
];

impl PerPod {
    /// What explains a difference in a connection.
    pub(crate) fn of(settings: &PodAnnotations, ask: ConnSpec) -> Option<Self> {
        EXCEPTIONS
            .iter()
            .find(|exception| (exception.applies)(settings, ask))
            .copied()
    }
}
