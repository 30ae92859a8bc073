//! What an application gives up when its connections go from socket to socket: a socket in a
//! sockhash takes these options and then does not keep to them, so they are refused at once.

use aya_ebpf::programs::SockoptContext;
use sluice_abi::Reason;

use crate::{
    ALLOW, DENY, accelerate,
    context::{self, read},
    count::count,
};

/// `SOL_SOCKET`.
const SOL_SOCKET: i32 = 1;
/// `SO_ZEROCOPY`: no completion would ever be told of what is sent with `MSG_ZEROCOPY`.
const SO_ZEROCOPY: i32 = 60;
/// `SOL_TCP`.
const SOL_TCP: i32 = 6;
/// `TCP_ULP`: what kTLS is to encrypt would reach the other end in clear.
const TCP_ULP: i32 = 31;

/// Refuses options that accelerated sockets cannot keep to; leaves every other one as it is.
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
