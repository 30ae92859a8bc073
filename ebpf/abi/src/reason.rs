//! Why a connection went where it went: one stable number for each way through the decisions.

macro_rules! reasons {
    ($($(#[doc = $words:literal])+ $name:ident = $number:literal, $label:literal;)+) => {
        /// The reason of a decision. The number is the index in the `counters` map and part of
        /// the ABI; the label is the metric's label and the word in logs and tables.
        ///
        /// Numbers are never re-used: a reason that goes away leaves a gap.
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

            /// A short name in `snake_case`, stable across versions.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// A sentence for people.
            #[must_use]
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => concat!($($words),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Outbound: diverted to the proxy's outbound listener.
    OutboundToProxy = 0, "outbound_to_proxy";
    /// Outbound: the application called an address of its own Pod or a loopback address.
    OutboundLocal = 1, "outbound_local";
    /// Outbound: the proxy itself connects to the world.
    OutboundByProxy = 2, "outbound_by_proxy";
    /// Outbound: the port is excluded.
    OutboundPortExcluded = 3, "outbound_port_excluded";
    /// Outbound: the proxy hands a request to its own application, from `127.0.0.6` or `::6`.
    OutboundPassthrough = 4, "outbound_passthrough";
    /// Outbound: the proxy called its own Pod and meets its own inbound listener.
    OutboundOwnPod = 5, "outbound_own_pod";
    /// Outbound: the destination could not be remembered, so the connect was refused.
    OutboundRefused = 6, "outbound_refused";
    /// Inbound: steered to the proxy's inbound listener.
    InboundToProxy = 7, "inbound_to_proxy";
    /// Inbound: the port is excluded.
    InboundPortExcluded = 8, "inbound_port_excluded";
    /// Inbound: a connection of the Pod to itself, which is not inbound traffic.
    InboundLocal = 9, "inbound_local";
    /// Inbound: the proxy does not listen; refused, never handed to the application.
    InboundNoProxy = 10, "inbound_no_proxy";
    /// `SO_ORIGINAL_DST` was answered with a remembered destination.
    OriginalRemembered = 11, "original_remembered";
    /// `SO_ORIGINAL_DST` was answered with the socket's own address (steered by `sk_lookup`).
    OriginalSteered = 12, "original_steered";
    /// A listener of the proxy was found and registered.
    ListenerAdded = 13, "listener_added";
    /// A listener of the proxy could not be registered: every place is taken.
    ListenerLost = 14, "listener_lost";
    /// A connection to the proxy arrived whose destination nobody had published.
    PairMissing = 15, "pair_missing";
    /// Inbound: the Pod lists the ports that are the proxy's, and this is none of them.
    InboundNotListed = 16, "inbound_not_listed";
    /// Outbound: the address is in an excluded network.
    OutboundNetworkExcluded = 17, "outbound_network_excluded";
    /// Outbound: the Pod lists the networks that are the proxy's, and the address is in none.
    OutboundNotListed = 18, "outbound_not_listed";
    /// Outbound: diverted to the proxy's outbound listener, because the port is listed.
    OutboundPortListed = 19, "outbound_port_listed";
    /// Outbound: a DNS query, over TCP or UDP, diverted to the proxy's resolver.
    OutboundDns = 20, "outbound_dns";
    /// A Pod that was known by its addresses alone is known by its network namespace.
    PodLearned = 21, "pod_learned";
    /// Outbound: the packets leave by an excluded interface, or to a network that is left alone.
    OutboundAside = 22, "outbound_aside";
    /// Inbound: the packets come by an excluded interface, or from a network that is left alone.
    InboundAside = 23, "inbound_aside";
    /// Outbound: no address was free to tell the destination, so the connection remembers it.
    OutboundAlone = 24, "outbound_alone";
    /// Inbound: the network namespace has the inbound hook and no Pod; refused.
    InboundNoPod = 25, "inbound_no_pod";
    /// A process that is not the proxy was refused a port of the proxy in a meshed Pod (`bind(2)`).
    ForeignBind = 26, "foreign_bind";
    /// A process that is not the proxy listens on a port of the proxy; the listener gets nothing.
    ForeignListener = 27, "foreign_listener";
    /// A direction of a connection goes from socket to socket.
    Accelerated = 40, "accelerated";
    /// A connection moved to TCP: the budget of a direction was spent without an answer, or unread.
    AccelerationSpent = 41, "acceleration_spent";
    /// A connection moved to TCP: the other end was not enrolled.
    AccelerationPeerMissing = 42, "acceleration_peer_missing";
    /// The kernel did not take a socket.
    AccelerationRefused = 43, "acceleration_refused";
    /// An application was refused an option that accelerated sockets cannot keep to.
    AccelerationOption = 44, "acceleration_option";
    /// A connection is left to TCP: its application blocks in its calls.
    AccelerationBlocking = 45, "acceleration_blocking";
    /// A connection moved to TCP: its application splices.
    AccelerationSpliced = 46, "acceleration_spliced";
    /// A connection was broken off: its application spliced while redirected bytes were unread.
    AccelerationBroken = 47, "acceleration_broken";
    /// The sockets of a connection that moved to TCP are as they were before.
    AccelerationLeft = 48, "acceleration_left";
    /// A connection is left to TCP: others to the same destination are made too often.
    AccelerationShort = 49, "acceleration_short";
    /// Whoever watches was not told of a decision: there were too many.
    EventsLeftOut = 60, "events_left_out";
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
}
