//! Fuzz target: untrusted bytes in place of the kernel's netlink replies.

use std::{cell::Cell, panic, sync::Once};

use super::{listeners, routes, rules, tcp_sockets};

thread_local! {
    static IN_DECODER: Cell<bool> = const { Cell::new(false) };
}

/// Runs the decoder of rtnetlink as the daemon does: in the daemon it has a task of its own, and a panic
/// there fails the request alone. `netlink-packet-route` 0.28 panics on attributes that are shorter than
/// their structure (cache info, realms); the kernel writes whole structures.
pub(super) fn contained<T>(decode: impl FnOnce() -> T + panic::UnwindSafe) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        // The fuzzer's own hook aborts.
        let fuzzer = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IN_DECODER.get() {
                fuzzer(info);
            }
        }));
    });
    IN_DECODER.set(true);
    let decoded = panic::catch_unwind(decode);
    IN_DECODER.set(false);
    decoded.ok()
}

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
