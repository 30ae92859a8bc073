//! The user and group that the rules about owners judge.
//!
//! The owner match of iptables (`xt_owner`) takes the credentials of the socket's file: those of the
//! process that called `socket(2)` or `accept(2)`. Sluice demands more. An owner rule exempts a call
//! only if it exempts both the caller and the process that made the socket. So a socket that a process
//! of a meshed Pod hands to a process with the proxy's user (`SCM_RIGHTS`), or connects with registered
//! credentials of that user (`IORING_REGISTER_PERSONALITY`), stays redirected.

use aya_ebpf::bindings::bpf_sock;

use crate::{context::current_uid_gid, kread};

/// UID and GID of the caller; those of the socket's creator if `exempts` holds for the caller alone.
/// A caller without exemption costs no read of kernel memory.
#[inline(always)]
pub(crate) fn judged(sk: *const bpf_sock, exempts: impl Fn(u32, u32) -> bool) -> (u32, u32) {
    let caller = current_uid_gid();
    if !kread::creds_known() || !exempts(caller.0, caller.1) {
        return caller;
    }
    let creator = kread::creator(sk);
    if exempts(creator.0, creator.1) {
        caller
    } else {
        creator
    }
}
