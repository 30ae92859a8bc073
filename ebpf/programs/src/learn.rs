//! Pods that are known by their addresses alone: whoever connects from one of these addresses is
//! in the Pod, and its network namespace is known from then on.

use aya_ebpf::programs::SockAddrContext;
use sluice_abi::{Addr, Process, Reason, maps::MAX_AWAITED};

use crate::{
    context::{self, Family},
    count::count,
    maps::{self, AWAITED, LEARNED, PROCESS_IP},
};

/// The awaited Pod that the caller, of whom nothing is known, is in. One look-up if none is
/// awaited.
///
/// The entry is found under a provisional cookie, as everything that the Pod lists. A copy of it
/// becomes the entry of the caller's namespace, until the daemon replaces it by a complete one. Any user
/// may own namespaces with such an address, so there are no more copies than the ring has places:
/// beyond, each connection is compared anew.
#[inline(always)]
pub(crate) fn process<F: Family>(ctx: &SockAddrContext, cookie: u64) -> Option<&'static Process> {
    let provisional = find::<F>(ctx)?;
    let process = maps::process(provisional)?;
    if LEARNED.output(cookie, 0).is_ok() {
        PROCESS_IP.insert(cookie, process, 0).ok()?;
        count(Reason::PodLearned);
    }
    Some(process)
}

/// The provisional cookie of the Pod whose address is the caller's.
#[inline(always)]
fn find<F: Family>(ctx: &SockAddrContext) -> Option<u64> {
    for place in 0..MAX_AWAITED {
        let provisional = *AWAITED.get(place)?;
        if provisional == 0 {
            return None;
        }
        if maps::process(provisional).is_some_and(|process| is_home::<F>(ctx, process)) {
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
fn is_home<F: Family>(ctx: &SockAddrContext, process: &Process) -> bool {
    let asked = context::destination::<F>(ctx).addr;
    let home = process.address_like(asked);
    let chosen = !F::source(context::socket(ctx)).is_unspecified();
    !asked.connects_to_loopback()
        && !home.is_unspecified()
        && !chosen
        && F::bind(ctx.sock_addr, home)
        && !is_bound_anywhere::<F>(ctx, asked)
}

/// Whether the caller may bind to addresses that are not its own (`ip_nonlocal_bind`,
/// `IP_FREEBIND`): then the address tells nothing, and the socket is as it was.
#[inline(always)]
fn is_bound_anywhere<F: Family>(ctx: &SockAddrContext, asked: Addr) -> bool {
    let anywhere = F::bind(ctx.sock_addr, asked.nobodys());
    if anywhere {
        let _unbound = F::bind(ctx.sock_addr, Addr::UNSPECIFIED);
    }
    anywhere
}
