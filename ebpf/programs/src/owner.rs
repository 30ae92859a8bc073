//! The user and group that the rules about owners judge.
//!
//! The owner match of iptables (`xt_owner`) takes the credentials of the socket's file: those of the
//! process that called `socket(2)` or `accept(2)`. Sluice demands more. An owner rule exempts a call
//! only if it exempts both the caller and the process that made the socket. So a socket that a process
//! of a meshed Pod hands to a process with the proxy's user (`SCM_RIGHTS`), or connects with registered
//! credentials of that user (`IORING_REGISTER_PERSONALITY`), stays redirected.

use aya_ebpf::bindings::bpf_sock;

use crate::{context::current_uid_gid, kread};

/// UID and GID of the caller of `connect` or `sendmsg`; those of the socket's creator if `exempts` holds for the
/// caller alone. A caller without exemption costs no read of kernel memory.
#[inline(always)]
pub(crate) fn judged(sk: *const bpf_sock, exempts: impl Fn(u32, u32) -> bool) -> (u32, u32) {
    judge(|| kread::creator_at_call(sk), exempts)
}

/// As [`judged`], for the caller of `bind`.
#[inline(always)]
pub(crate) fn judged_at_bind(
    sk: *const bpf_sock,
    exempts: impl Fn(u32, u32) -> bool,
) -> (u32, u32) {
    judge(|| kread::creator(sk), exempts)
}

#[inline(always)]
fn judge(creator: impl Fn() -> (u32, u32), exempts: impl Fn(u32, u32) -> bool) -> (u32, u32) {
    let caller = current_uid_gid();
    if !kread::creds_known() || !exempts(caller.0, caller.1) {
        return caller;
    }
    let creator = creator();
    if exempts(creator.0, creator.1) {
        caller
    } else {
        creator
    }
}
