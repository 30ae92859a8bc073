//! The proxy's connections from the addresses of its clients (`IP_TRANSPARENT`): the decision, as a
//! pure function.
//!
//! ztunnel, and Envoy with the `original_src` filter, connect to the application from the address of
//! the client. Neither the source nor the interface shows that such a connection comes from within the
//! Pod, so the inbound rules would return it to the proxy.

use crate::{Facts, PodConfig};

/// The decision on such a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceVerdict {
    /// Delivered over `lo` to the application, with the source address.
    Keep,
    /// Refused: the proxy would accept its own connection.
    Refuse,
}

/// The decision on an outbound TCP connection of a socket that is bound to an address, or carries
/// [`PodConfig::source_mark`]. `None` if the outbound rules decide.
///
/// `facts`: [`Facts::BY_PROXY`], [`Facts::MARKED`], [`Facts::FOREIGN_SOURCE`], [`Facts::LOCAL`],
/// [`Facts::TO_LOOPBACK`], [`Facts::INBOUND_REDIRECTED`] and [`Facts::TO_LISTENER`].
#[must_use]
pub const fn original_source(pod: &PodConfig, facts: Facts) -> Option<SourceVerdict> {
    if !facts.has(Facts::BY_PROXY) {
        return None;
    }
    let foreign_source = facts.has(Facts::FOREIGN_SOURCE);
    let from_client = foreign_source && facts.has(Facts::LOCAL.with(Facts::TO_LOOPBACK));
    if from_client && facts.has(Facts::TO_LISTENER) {
        return Some(SourceVerdict::Refuse);
    }
    if pod.source_mark != 0 && (from_client || facts.has(Facts::MARKED)) {
        return Some(SourceVerdict::Keep);
    }
    if foreign_source && facts.has(Facts::LOCAL) && facts.has(Facts::INBOUND_REDIRECTED) {
        return Some(SourceVerdict::Refuse);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The proxy connects to its own Pod from its client's address.
    const CALL: Facts = Facts::BY_PROXY
        .with(Facts::FOREIGN_SOURCE)
        .with(Facts::LOCAL)
        .with(Facts::INBOUND_REDIRECTED);

    fn verdict(source_mark: u32, call: Facts) -> Option<SourceVerdict> {
        let pod = PodConfig {
            source_mark,
            ..PodConfig::default()
        };
        original_source(&pod, call)
    }

    /// `CALL` without one fact.
    fn without(fact: Facts) -> Facts {
        assert!(CALL.has(fact));
        CALL.with(fact)
    }

    #[test]
    fn calls_to_own_pod_keep_a_foreign_source_with_a_mark() {
        for (call, marked_pod, other_pod) in [
            (CALL, Some(SourceVerdict::Keep), Some(SourceVerdict::Refuse)),
            (
                without(Facts::INBOUND_REDIRECTED),
                Some(SourceVerdict::Keep),
                None,
            ),
            (
                without(Facts::LOCAL).with(Facts::TO_LOOPBACK),
                Some(SourceVerdict::Keep),
                None,
            ),
        ] {
            assert_eq!(verdict(1337, call), marked_pod, "{call:?}");
            assert_eq!(verdict(0, call), other_pod, "{call:?}");
        }
    }

    #[test]
    fn call_to_the_own_listener_from_a_foreign_source_is_refused() {
        for mark in [0, 1337] {
            let verdict = verdict(mark, CALL.with(Facts::TO_LISTENER));
            assert_eq!(verdict, Some(SourceVerdict::Refuse));
        }
    }

    #[test]
    fn outbound_rules_decide_about_other_calls() {
        for call in [
            without(Facts::BY_PROXY).with(Facts::MARKED),
            without(Facts::FOREIGN_SOURCE),
            without(Facts::LOCAL),
        ] {
            for mark in [0, 1337] {
                assert_eq!(verdict(mark, call), None, "{call:?}");
            }
        }
    }

    #[test]
    fn a_marked_socket_of_the_proxy_needs_no_listed_address() {
        let call = without(Facts::LOCAL).with(Facts::MARKED);
        assert_eq!(verdict(1337, call), Some(SourceVerdict::Keep));
    }
}
