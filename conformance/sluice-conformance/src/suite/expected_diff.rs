//! The intended differences from the iptables rules, with their reasons.

use serde::Serialize;
use sluice_lab::pod_annotations::PodAnnotations;

use crate::suite::conn_spec::{ConnSpec, Source, Target};

/// An intended difference of every Pod. The comparison ignores it.
pub(crate) struct Global {
    pub(crate) what: &'static str,
    pub(crate) why: &'static str,
}

/// All of them.
pub(crate) const MEANT: &[Global] = &[
    Global {
        what: "conntrack",
        why: "no connection of a Pod is tracked: this is the purpose of the replacement",
    },
    Global {
        what: "the local address of the proxy's socket",
        why: "the rules rewrite to 127.0.0.1 and the listener's port; Sluice uses an alias address \
              of 127.64.0.0/10 or 100::7f40:0/106 outbound, and keeps the original destination inbound",
    },
    Global {
        what: "the owner of a socket that was passed to another process",
        why: "the rules exempt a socket by the process that created it; the hooks require that the \
              process that connects it is exempt as well",
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
        what: "queries are captured once the proxy listens for them, so that Pods whose proxy has no \
               resolver keep their own",
        applies: |settings, ask| {
            settings.dns && !settings.proxy && ask.from.inside() && ask.port == 53
        },
    },
    PerPod {
        what: "with TPROXY and no proxy, redirected connections are refused at once, as with REDIRECT; \
               under the rules their packets are lost",
        applies: |settings, _| settings.transparent() && !settings.proxy,
    },
    PerPod {
        what: "the proxy's connection from a client's address to its own inbound listener is refused: the \
               proxy would accept its own connection",
        applies: |settings, ask| {
            ask.source == Source::Client
                && matches!(
                    ask.to,
                    Target::Pod | Target::PodSecond | Target::PodSide | Target::Loopback
                )
                && ask.port == settings.mesh.ports().inbound
        },
    },
];

impl PerPod {
    /// The intended difference that explains a difference in a connection.
    pub(crate) fn of(settings: &PodAnnotations, ask: ConnSpec) -> Option<Self> {
        EXCEPTIONS
            .iter()
            .find(|exception| (exception.applies)(settings, ask))
            .copied()
    }
}
