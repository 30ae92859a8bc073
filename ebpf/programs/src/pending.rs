//! Pods that are known by their addresses alone: whoever connects from one of these addresses is
//! in the Pod, and its network namespace is known from then on.

use aya_ebpf::programs::SockAddrContext;
use sluice_abi::{Addr, NetnsEntry, Reason, maps::MAX_PENDING_PODS};

use crate::{
    context::{self, Family},
    count::count,
    maps::{self, NETNS_FOUND, PENDING_PODS, PROCESS_IP},
};

/// The awaited Pod that the caller, of whom nothing is known, is in. One look-up if none is
/// awaited.
///
/// The entry is found under a provisional cookie, as everything that the Pod lists. A copy of it
/// becomes the entry of the caller's namespace, until the daemon replaces it by a complete one. Any user
/// may own namespaces with such an address, so there are no more copies than the ring has places:
/// beyond, each connection is compared anew.
#[inline(always)]
pub(crate) fn resolve<F: Family>(
    ctx: &SockAddrContext,
    cookie: u64,
) -> Option<&'static NetnsEntry> {
    let provisional = match_pending::<F>(ctx)?;
    let netns = maps::netns_entry(provisional)?;
    if NETNS_FOUND.output(cookie, 0).is_ok() {
        PROCESS_IP.insert(cookie, netns, 0).ok()?;
        count(Reason::PodNetnsFound);
    }
    Some(netns)
}

/// The provisional cookie of the Pod whose address is the caller's.
#[inline(always)]
fn match_pending<F: Family>(ctx: &SockAddrContext) -> Option<u64> {
    for slot in 0..MAX_PENDING_PODS {
        let provisional = *PENDING_PODS.get(slot)?;
        if provisional == 0 {
            return None;
        }
        if maps::netns_entry(provisional).is_some_and(|netns| owns_addr::<F>(ctx, netns)) {
            return Some(provisional);
        }
    }
    None
}

/// Whether a Pod's address is one of the caller's network namespace: only then can a socket be
/// bound to it. Callers that stay within their namespace, or that chose a source, are not asked.
///
/// A function of its own: were it inlined, the verifier would follow every way through it anew
/// for each place of the list.
#[inline(never)]
fn owns_addr<F: Family>(ctx: &SockAddrContext, netns: &NetnsEntry) -> bool {
    let dst = context::destination::<F>(ctx).addr;
    let addr = netns.addr_for(dst);
    let chosen = !F::source(context::socket(ctx)).is_unspecified();
    !dst.connects_to_loopback()
        && !addr.is_unspecified()
        && !chosen
        && F::bind(ctx.sock_addr, addr)
        && !can_bind_nonlocal::<F>(ctx, dst)
}

/// Whether the caller may bind to addresses that are not its own (`ip_nonlocal_bind`,
/// `IP_FREEBIND`): then the address tells nothing, and the socket is as it was.
#[inline(always)]
fn can_bind_nonlocal<F: Family>(ctx: &SockAddrContext, dst: Addr) -> bool {
    let anywhere = F::bind(ctx.sock_addr, dst.unassigned());
    if anywhere {
        let _unbound = F::bind(ctx.sock_addr, Addr::UNSPECIFIED);
    }
    anywhere
}
