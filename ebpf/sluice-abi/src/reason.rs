//! The reasons: one stable number and label for each decision and event that the programs count.

/// The kind of a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasonKind {
    /// The outcome of the rules for a connection or a DNS query.
    Decision,
    /// An event of the mechanism that carries decisions out.
    Event,
}

macro_rules! reasons {
    ($($(#[doc = $words:literal])+ $name:ident = $number:literal, $kind:ident $label:literal;)+) => {
        /// The rule behind a decision, or an event. The number is the index in the `counters` map and part
        /// of the ABI; the label is the metric's label and the name in logs and tables.
        ///
        /// Numbers are never reused: a removed reason leaves a gap.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[doc = $words])+ $name = $number,)+
        }

        impl Reason {
            /// Every reason, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Size of the `counters` map.
            pub const COUNT: u32 = {
                let mut next = 0;
                let mut index = 0;
                while index < Self::ALL.len() {
                    let number = Self::ALL[index] as u32;
                    next = if number < next { next } else { number + 1 };
                    index += 1;
                }
                next
            };

            /// Whether it is a decision or an event.
            #[must_use]
            pub const fn kind(self) -> ReasonKind {
                match self { $(Self::$name => ReasonKind::$kind,)+ }
            }

            /// A short name in `snake_case`, stable across versions.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// A description for people.
            #[must_use]
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => concat!($($words),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Outbound: redirected to the proxy's outbound listener.
    OutboundToProxy = 0, Decision "outbound_to_proxy";
    /// Outbound: the application connected to an address of its own Pod or to a loopback address.
    OutboundLocal = 1, Decision "outbound_local";
    /// Outbound: the proxy connected to an upstream.
    OutboundByProxy = 2, Decision "outbound_by_proxy";
    /// Outbound: the port is excluded.
    OutboundPortExcluded = 3, Decision "outbound_port_excluded";
    /// Outbound: the proxy connected to its own application, from `127.0.0.6` or `::6`.
    OutboundPassthrough = 4, Decision "outbound_passthrough";
    /// Outbound: the proxy connected to its own Pod; redirected to its inbound listener.
    OutboundHairpin = 5, Decision "outbound_hairpin";
    /// Outbound: the original destination could not be stored, so the connect failed.
    OutboundOrigDstStoreFailed = 6, Event "outbound_orig_dst_store_failed";
    /// Inbound: redirected to the proxy's inbound listener.
    InboundToProxy = 7, Decision "inbound_to_proxy";
    /// Inbound: the port is excluded.
    InboundPortExcluded = 8, Decision "inbound_port_excluded";
    /// Inbound: a connection of the Pod to itself.
    InboundLocal = 9, Decision "inbound_local";
    /// Inbound: the proxy does not listen; refused, never delivered to the application.
    InboundNoProxy = 10, Decision "inbound_no_proxy";
    /// `SO_ORIGINAL_DST` was answered from the stored destination.
    OrigDstFromState = 11, Event "orig_dst_from_state";
    /// `SO_ORIGINAL_DST` was answered with the socket's own address (redirected by `sk_lookup`).
    OrigDstFromSockaddr = 12, Event "orig_dst_from_sockaddr";
    /// A listener of the proxy was found and registered.
    ListenerAdded = 13, Event "listener_added";
    /// A listener of the proxy could not be registered: every slot is in use.
    ListenerSlotsFull = 14, Event "listener_slots_full";
    /// A connection to the proxy arrived without a published original destination.
    OrigDstMissing = 15, Event "orig_dst_missing";
    /// Inbound: the Pod includes only listed ports, and this port is not listed.
    InboundNotListed = 16, Decision "inbound_not_listed";
    /// Outbound: the address is in an excluded network.
    OutboundNetworkExcluded = 17, Decision "outbound_network_excluded";
    /// Outbound: the Pod includes only listed networks, and the address is in none of them.
    OutboundNotListed = 18, Decision "outbound_not_listed";
    /// Outbound: redirected to the proxy's outbound listener, because the port is listed.
    OutboundPortListed = 19, Decision "outbound_port_listed";
    /// Outbound: a DNS query, over TCP or UDP, redirected to the proxy's resolver.
    OutboundDns = 20, Decision "outbound_dns";
    /// The network namespace of a pending Pod was found.
    PodNetnsFound = 21, Event "pod_netns_found";
    /// Outbound: the packets leave by an excluded interface or to a bypassed network.
    OutboundBypass = 22, Decision "outbound_bypass";
    /// Inbound: the packets arrive on an excluded interface or from a bypassed network.
    InboundBypass = 23, Decision "inbound_bypass";
    /// Outbound: no alias address was free, so the destination is stored in the socket.
    OutboundNoAlias = 24, Event "outbound_no_alias";
    /// Inbound: the network namespace has the inbound hook and no Pod; refused.
    InboundNoPod = 25, Decision "inbound_no_pod";
    /// A process that is not the proxy was denied a port of the proxy in a meshed Pod (`bind(2)`).
    ForeignBind = 26, Event "foreign_bind";
    /// A process that is not the proxy listens on a port of the proxy; it gets no inbound connection.
    ForeignListener = 27, Event "foreign_listener";
    /// Outbound: the proxy connected to its own application from its client's address.
    OutboundOriginalSource = 34, Decision "outbound_original_source";
    /// Outbound: the process's group is excluded, or not among the included groups.
    OutboundGroupExcluded = 28, Decision "outbound_group_excluded";
    /// Outbound: the Pod's proxy has not listened yet, and the Pod's connections may bypass it until
    /// then.
    OutboundBeforeProxy = 29, Decision "outbound_before_proxy";
    /// Outbound: refused. The connection would return to the process that made it: it listens on the
    /// proxy's outbound port as another user, or it is the proxy, which connected to its own Pod from a
    /// foreign address.
    OutboundLoop = 30, Decision "outbound_loop";
    /// Outbound: the socket is bound to a loopback address, so the kernel itself refuses the connection.
    OutboundLoopbackSource = 31, Decision "outbound_loopback_source";
    /// A source route or a routing header was denied in a meshed Pod (`setsockopt(2)`).
    SourceRouteDenied = 36, Event "source_route_denied";
    /// A raw socket was denied in a meshed Pod (`raw-sockets = "deny"`).
    RawSocketDenied = 37, Event "raw_socket_denied";
    /// Inbound: a process of the node opened the connection, and the Pod does not intercept such ones.
    InboundFromNode = 38, Decision "inbound_from_node";
    /// A connection of the node to a Pod was established after its entry had been evicted; without the
    /// entry, the Pod intercepts it.
    NodeConnEvicted = 39, Event "node_conn_evicted";
    /// Forwarded: a connection that arrived on a virtual interface, redirected to the proxy's outbound
    /// listener.
    ForwardedToProxy = 50, Decision "forwarded_to_proxy";
    /// Forwarded: the connection arrived on a virtual interface, and its destination is in no included
    /// network.
    ForwardedDirect = 51, Decision "forwarded_direct";
    /// Forwarded: a packet that arrived on a virtual interface was dropped, because it has a loopback
    /// address, is a fragment, or no alias address was free.
    ForwardedRefused = 52, Event "forwarded_refused";
    /// Outbound: refused. The socket is bound to a device, by which the redirected packets would leave the
    /// Pod.
    OutboundDevice = 56, Decision "outbound_device";
    /// A redirected socket was denied a device (`SO_BINDTODEVICE`, `SO_BINDTOIFINDEX`).
    DeviceDenied = 57, Event "device_denied";
    /// Redirection started for one direction of a connection.
    AccelStarted = 40, Event "accel_started";
    /// A connection moved to TCP: a direction exceeded its window without a reply or a read.
    AccelStoppedWindow = 41, Event "accel_stopped_window";
    /// Redirection stopped: the peer socket is not in the sockhash.
    AccelStoppedNoPeer = 42, Event "accel_stopped_no_peer";
    /// The kernel refused to add a socket to the sockhash.
    AccelSockhashFailed = 43, Event "accel_sockhash_failed";
    /// setsockopt was denied: accelerated sockets do not support the option.
    AccelSetsockoptDenied = 44, Event "accel_setsockopt_denied";
    /// Not accelerated: the application uses blocking sockets.
    AccelSkippedBlocking = 45, Event "accel_skipped_blocking";
    /// Redirection stopped: the application calls splice.
    AccelStoppedSplice = 46, Event "accel_stopped_splice";
    /// Connection aborted: the application called splice with redirected data unread.
    AccelAborted = 47, Event "accel_aborted";
    /// Drained: the sockets of the connection left the sockhash.
    AccelDrained = 48, Event "accel_drained";
    /// Not accelerated: too many connections to this destination, or they end within a second.
    AccelSkippedRate = 49, Event "accel_skipped_rate";
    /// An event was dropped: the event rate limit was reached.
    EventsDropped = 60, Event "events_dropped";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_labels_are_unique() {
        for (index, one) in Reason::ALL.iter().enumerate() {
            for other in &Reason::ALL[index + 1..] {
                assert_ne!(*one as u32, *other as u32);
                assert_ne!(one.label(), other.label());
            }
        }
    }

    #[test]
    fn labels_of_decisions_begin_with_the_direction() {
        for reason in Reason::ALL {
            let label = reason.label();
            let has_direction = ["outbound_", "inbound_", "forwarded_"]
                .iter()
                .any(|direction| label.starts_with(direction));
            assert!(
                has_direction || reason.kind() == ReasonKind::Event,
                "{label}"
            );
        }
    }
}
