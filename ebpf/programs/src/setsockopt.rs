//! Socket options that acceleration does not support. A socket in a sockhash would accept them without
//! effect, so `setsockopt` denies them.

use aya_ebpf::programs::SockoptContext;
use sluice_abi::Reason;

use crate::{
    ALLOW, DENY, accelerate,
    context::{self, read},
    count::count,
};

/// `SOL_SOCKET`.
const SOL_SOCKET: i32 = 1;
/// `SO_ZEROCOPY`: redirected `MSG_ZEROCOPY` data would never produce a completion.
const SO_ZEROCOPY: i32 = 60;
/// `SOL_TCP`.
const SOL_TCP: i32 = 6;
/// `TCP_ULP`: kTLS data would reach the peer unencrypted.
const TCP_ULP: i32 = 31;

/// Denies options that accelerated sockets do not support; does not change other options.
#[inline(always)]
pub(crate) fn deny_unsupported(ctx: &SockoptContext) -> i32 {
    let option = (read!(ctx.sockopt, level), read!(ctx.sockopt, optname));
    let unsupported = option == (SOL_SOCKET, SO_ZEROCOPY) || option == (SOL_TCP, TCP_ULP);
    if unsupported && accelerate::is_in_sockhash(read!(ctx.sockopt, __bindgen_anon_1.sk)) {
        count(Reason::AccelSetsockoptDenied);
        return DENY;
    }
    context::pass_long_optval(ctx.sockopt);
    ALLOW
}
