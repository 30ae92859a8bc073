//! Differences from the rules that are known, and why they are there.

use serde::Serialize;

use crate::{settings::Settings, suite::ask::Ask};

/// A difference that is meant. The comparison leaves it out.
pub(crate) struct Meant {
    pub(crate) what: &'static str,
    pub(crate) why: &'static str,
}

/// All of them.
pub(crate) const MEANT: &[Meant] = &[
    Meant {
        what: "conntrack",
        why: "no connection of a Pod is tracked, which is what the rules are replaced for",
    },
    Meant {
        what: "the own address of the proxy's socket",
        why: "the rules rewrite to 127.0.0.1 and the listener's port; here outbound connections \
              meet the proxy all over 127.64.0.0/10, so that client ports last, and inbound \
              ones keep the address that was asked for",
    },
    Meant {
        what: "the owner of a socket that changed hands",
        why: "the rules look at who made the socket, the hooks at who connects it",
    },
];

/// A difference of some Pods alone. The comparison tells how often it shows.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Gap {
    pub(crate) what: &'static str,
    #[serde(skip)]
    applies: fn(&Settings, Ask) -> bool,
}

/// Said by the daemon of what it refuses because it cannot do it.
const REFUSALS: [&str; 2] = ["is not supported yet", "ports are too many"];

/// A Pod that is refused rather than intercepted in another way than it asks for.
pub(crate) const REFUSED: Gap = Gap {
    what: "annotations that are not supported yet keep the Pod from starting",
    applies: |_, _| false,
};

/// All others.
pub(crate) const GAPS: &[Gap] = &[
    Gap {
        what: "queries are captured once the proxy listens for them, not before; meant, so that Pods \
               whose proxy has no resolver keep theirs",
        applies: |settings, _| settings.dns && !settings.proxy,
    },
    Gap {
        what: "with TPROXY and no proxy peers are refused at once, as with REDIRECT, where the rules \
               lose their packets; meant",
        applies: |settings, _| settings.transparent() && !settings.proxy,
    },
];

impl Gap {
    /// The gap that explains a difference in a connection.
    pub(crate) fn of(settings: &Settings, ask: Ask) -> Option<Self> {
        GAPS.iter()
            .find(|gap| (gap.applies)(settings, ask))
            .copied()
    }

    /// The gap that explains why a Pod was not admitted.
    pub(crate) fn of_refusal(said: &str) -> Option<Self> {
        (REFUSALS.iter())
            .any(|refusal| said.contains(refusal))
            .then_some(REFUSED)
    }
}
