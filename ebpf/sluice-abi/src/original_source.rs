//! The proxy's connections from the addresses of its clients (`IP_TRANSPARENT`): the decision, as a
//! pure function.
//!
//! ztunnel, and Envoy with the `original_src` filter, connect to the application from the address of
//! the client. Neither the source nor the interface shows that such a connection comes from within the
//! Pod, so the inbound rules would return it to the proxy.

use crate::PodConfig;

/// An outbound TCP connection of a socket that is bound to an address, or carries
/// [`PodConfig::source_mark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub struct BoundCall {
    /// The socket belongs to the proxy, by user, group or mark.
    pub by_proxy: bool,
    /// The socket carries [`PodConfig::source_mark`].
    pub marked: bool,
    /// The socket is bound to an address that is neither the Pod's nor a loopback address.
    pub foreign_source: bool,
    /// The destination is an address of the Pod.
    pub to_own: bool,
    /// The destination is a loopback address.
    pub to_loopback: bool,
    /// The inbound rules redirect connections from this source to this port.
    pub redirected: bool,
    /// The destination port is that of the proxy's inbound listener.
    pub to_listener: bool,
}

/// The decision on such a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceVerdict {
    /// Delivered over `lo` to the application, with the source address.
    Keep,
    /// Refused: the proxy would accept its own connection.
    Refuse,
}

/// The decision, or `None` if the outbound rules decide.
#[must_use]
pub const fn original_source(pod: &PodConfig, call: &BoundCall) -> Option<SourceVerdict> {
    if !call.by_proxy {
        return None;
    }
    let from_client = call.foreign_source && (call.to_own || call.to_loopback);
    if from_client && call.to_listener {
        return Some(SourceVerdict::Refuse);
    }
    if pod.source_mark != 0 && (call.marked || from_client) {
        return Some(SourceVerdict::Keep);
    }
    if call.foreign_source && call.to_own && call.redirected {
        return Some(SourceVerdict::Refuse);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: BoundCall = BoundCall {
        by_proxy: true,
        marked: false,
        foreign_source: true,
        to_own: true,
        to_loopback: false,
        redirected: true,
        to_listener: false,
    };

    fn verdict(source_mark: u32, call: BoundCall) -> Option<SourceVerdict> {
        let pod = PodConfig {
            source_mark,
            ..PodConfig::default()
        };
        original_source(&pod, &call)
    }

    #[test]
    fn calls_to_own_pod_keep_a_foreign_source_with_a_mark() {
        for (call, marked_pod, other_pod) in [
            (CALL, Some(SourceVerdict::Keep), Some(SourceVerdict::Refuse)),
            (
                BoundCall {
                    redirected: false,
                    ..CALL
                },
                Some(SourceVerdict::Keep),
                None,
            ),
            (
                BoundCall {
                    to_own: false,
                    to_loopback: true,
                    ..CALL
                },
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
        let call = BoundCall {
            to_listener: true,
            ..CALL
        };
        for mark in [0, 1337] {
            assert_eq!(verdict(mark, call), Some(SourceVerdict::Refuse));
        }
    }

    #[test]
    fn outbound_rules_decide_about_other_calls() {
        for call in [
            BoundCall {
                by_proxy: false,
                marked: true,
                ..CALL
            },
            BoundCall {
                foreign_source: false,
                ..CALL
            },
            BoundCall {
                to_own: false,
                ..CALL
            },
        ] {
            for mark in [0, 1337] {
                assert_eq!(verdict(mark, call), None, "{call:?}");
            }
        }
    }

    #[test]
    fn a_marked_socket_of_the_proxy_needs_no_listed_address() {
        let call = BoundCall {
            marked: true,
            to_own: false,
            ..CALL
        };
        assert_eq!(verdict(1337, call), Some(SourceVerdict::Keep));
    }
}
