//! `bind(2)`: reserves the proxy's ports in a meshed Pod.
//!
//! Sluice redirects connections and DNS queries to the sockets on these ports, so another process that
//! bound one would receive the proxy's traffic. The bind fails with `EPERM`. A socket that the proxy
//! bound gets a mark in its storage, which `listen(2)` checks later.

use aya_ebpf::{bindings::bpf_sock, programs::SockContext};
use sluice_abi::{ForeignKey, NetnsEntry, Port, Reason};

use crate::{
    ALLOW, DENY,
    context::{self, TCP, UDP, read},
    count::count,
    endpoint,
    maps::{self, FOREIGN_BINDS, PROXY_SOCKETS},
    sk_storage::SocketStorage as _,
};

/// After a bind. A process outside every meshed Pod costs one hash lookup.
#[inline(always)]
pub(crate) fn bound(ctx: &SockContext) -> i32 {
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
    let (uid, gid) = context::current_uid_gid();
    if !netns.pod.may_bind(uid, gid) {
        report(netns, port, protocol, uid);
        count(Reason::ForeignBind);
        return DENY;
    }
    // Without the mark it would look like a foreign socket.
    if !PROXY_SOCKETS.store(ctx.sock, 0) {
        return DENY;
    }
    ALLOW
}

/// Whether the proxy bound this socket after its Pod was enrolled. `sk` may be null.
#[inline(always)]
pub(crate) fn is_by_proxy(sk: *mut bpf_sock) -> bool {
    PROXY_SOCKETS.load(sk).is_some()
}

/// Records a process that requested a port of the proxy, for operators.
#[inline(always)]
pub(crate) fn report(netns: &NetnsEntry, port: Port, protocol: u32, uid: u32) {
    let key = ForeignKey {
        cookie: netns.pod.cookie,
        port,
        #[expect(clippy::cast_possible_truncation, reason = "6 or 17")]
        protocol: protocol as u16,
        pad: 0,
    };
    let _full = FOREIGN_BINDS.insert(key, uid, 0);
}
