//! Fuzz target: untrusted bytes in place of the kernel's netlink replies.

use super::{listeners, routes, rules, tcp_sockets};

/// The first byte selects the protocol: `NETLINK_SOCK_DIAG`, `NETLINK_NETFILTER` or
/// `NETLINK_ROUTE`.
pub(crate) fn netlink(reply: &[u8]) {
    let Some((protocol, datagram)) = reply.split_first() else {
        return;
    };
    match protocol % 3 {
        0 => {
            listeners::fuzz(datagram);
            tcp_sockets::fuzz(datagram);
        }
        1 => rules::fuzz(datagram),
        _ => routes::fuzz(datagram),
    }
}
