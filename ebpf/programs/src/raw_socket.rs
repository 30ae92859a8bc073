//! Raw sockets in a meshed Pod, which write TCP packets past the hook at `connect(2)`.
//!
//! The daemon attaches this program only with `raw-sockets = "deny"`. The kernel has no such hook for
//! packet sockets (`AF_PACKET`).

use aya_ebpf::programs::SockContext;
use sluice_abi::Reason;

use crate::{
    ALLOW, DENY,
    context::{self, read},
    count::count,
    maps,
};

/// `SOCK_RAW`.
const RAW: u32 = 3;

/// Denies a raw socket of any protocol: with `IP_HDRINCL` the sender chooses the protocol.
#[inline(always)]
pub(crate) fn create(ctx: &SockContext) -> i32 {
    if read!(ctx.sock, type_) != RAW || maps::netns_entry(context::netns_cookie(ctx)).is_none() {
        return ALLOW;
    }
    count(Reason::RawSocketDenied);
    DENY
}
