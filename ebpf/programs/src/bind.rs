//! `bind(2)`: reserves the proxy's ports in a meshed Pod.
//!
//! Sluice redirects connections and DNS queries to the sockets on these ports, so another process that
//! bound one would receive the proxy's traffic. The bind fails with `EPERM`, also if another process
//! made the socket. A socket that the proxy bound gets a mark in its storage, which `listen(2)` checks
//! later.

use aya_ebpf::{bindings::bpf_sock, programs::SockContext};
use sluice_abi::{ForeignKey, ForeignUse, NetnsEntry, Port, Reason};

use crate::{
    ALLOW, DENY,
    context::{self, TCP, UDP, read},
    count::count,
    endpoint,
    maps::{self, FOREIGN_BINDS, FOREIGN_FOUND, PROXY_SOCKETS},
    order::Level,
    owner,
    sk_storage::SocketStorage as _,
};

/// Values of `proxy_sockets`: the owner of a socket on a port of the proxy.
const OF_PROXY: u8 = 0;
const OF_VALIDATOR: u8 = 1;

/// After a bind. A process outside every meshed Pod costs one hash lookup. Both copies decide, because
/// the kernel runs the root's copy even if the child's has denied the bind; one of them counts.
#[inline(always)]
pub(crate) fn bound(ctx: &SockContext, level: Level) -> i32 {
    let protocol = read!(ctx.sock, protocol);
    if protocol != TCP && protocol != UDP {
        return ALLOW;
    }
    let Some(netns) = maps::netns_entry(context::netns_cookie(ctx)) else {
        return ALLOW;
    };
    let port = endpoint::host_port(read!(ctx.sock, src_port));
    if !netns.pod.reserves(port, protocol == UDP) {
        return ALLOW;
    }
    let pod = &netns.pod;
    let (uid, gid) = owner::judged_at_bind(ctx.sock, |uid, gid| {
        pod.may_bind(uid, gid) || pod.may_validate(uid, port)
    });
    let owner = if pod.may_bind(uid, gid) {
        OF_PROXY
    } else if pod.may_validate(uid, port) {
        OF_VALIDATOR
    } else {
        if !level.is_decided(ctx) {
            report(netns, port, protocol, uid);
            count(Reason::ForeignBind);
        }
        return DENY;
    };
    // Without the mark it would look like a foreign socket.
    if !PROXY_SOCKETS.store(ctx.sock, owner) {
        return DENY;
    }
    ALLOW
}

/// Whether the proxy bound this socket after its Pod was enrolled. `sk` may be null.
#[inline(always)]
pub(crate) fn is_by_proxy(sk: *mut bpf_sock) -> bool {
    PROXY_SOCKETS.load(sk) == Some(OF_PROXY)
}

/// Whether a container that validates the redirection bound this socket. `sk` may be null.
#[inline(always)]
pub(crate) fn is_by_validator(sk: *mut bpf_sock) -> bool {
    PROXY_SOCKETS.load(sk) == Some(OF_VALIDATOR)
}

/// Records a process that requested a port of the proxy, for operators. The daemon is notified once for
/// each user and port.
#[inline(always)]
pub(crate) fn report(netns: &NetnsEntry, port: Port, protocol: u32, uid: u32) {
    let key = ForeignKey {
        cookie: netns.pod.cookie,
        port,
        #[expect(clippy::cast_possible_truncation, reason = "6 or 17")]
        protocol: protocol as u16,
        pad: 0,
    };
    let mut found = ForeignUse {
        uid,
        pad: 0,
        count: 1,
    };
    if let Some(before) = FOREIGN_BINDS.get_ptr_mut(key) {
        // SAFETY: an evicted entry may belong to another key before the program ends: a count is off.
        unsafe {
            if (*before).uid == uid {
                (*before).count += 1;
                return;
            }
            found.count += (*before).count;
        }
    }
    let _full = FOREIGN_BINDS.insert(key, found, 0);
    let _full = FOREIGN_FOUND.output(netns.pod.cookie, 0);
}
