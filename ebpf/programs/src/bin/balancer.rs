//! A socket load balancer for the tests of the conformance suite: a stand-in for those of CNI plugins.
//! It is no part of the daemon's object.
//!
//! `connect` and `sendmsg` replace a Service's address and port by those of its backend, and store the
//! replacement with the socket's cookie. `getpeername` and `recvmsg` translate the backend back.
//!
//! An address is four words in network byte order, IPv4 in its v4-mapped form; a port is one word, as in
//! `bpf_sock_addr::user_port`.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::bpf_get_socket_cookie,
    macros::{cgroup_sock_addr, map},
    maps::{HashMap, LruHashMap},
    programs::SockAddrContext,
};

/// An address and a port.
type Endpoint = [u32; 5];
/// A socket's cookie, in two words, and the backend that it connected or sent to.
type Replacement = [u32; 7];

/// The third word of a v4-mapped address.
const MAPPED: u32 = 0xffff_u32.to_be();
/// Return value of a cgroup program: the operation continues.
const ALLOW: i32 = 1;

/// The backend of each Service.
#[map(name = "services")]
static SERVICES: HashMap<Endpoint, Endpoint> = HashMap::with_max_entries(1024, 0);

/// The Service of each replacement.
#[map(name = "replacements")]
static REPLACEMENTS: LruHashMap<Replacement, Endpoint> = LruHashMap::with_max_entries(16_384, 0);

/// Reads one field of the context.
macro_rules! read {
    ($ctx:expr, $field:ident $([$index:literal])?) => {{
        let context: *const bpf_sock_addr = $ctx.sock_addr;
        // SAFETY: the kernel passes a valid context, and the verifier checks every offset. Volatile:
        // LLVM would merge neighbouring reads, which the verifier rejects.
        unsafe { (&raw const (*context).$field$([$index])?).read_volatile() }
    }};
}

/// Writes one field of the context.
macro_rules! write {
    ($ctx:expr, $field:ident $([$index:literal])? = $value:expr) => {{
        let value = $value;
        // SAFETY: as for reading; the verifier rejects read-only fields at load.
        unsafe { (&raw mut (*$ctx.sock_addr).$field$([$index])?).write_volatile(value) }
    }};
}

#[cgroup_sock_addr(connect4)]
fn lb_connect4(ctx: SockAddrContext) -> i32 {
    replace(&ctx, read_v4, write_v4)
}

#[cgroup_sock_addr(connect6)]
fn lb_connect6(ctx: SockAddrContext) -> i32 {
    replace(&ctx, read_v6, write_v6)
}

#[cgroup_sock_addr(sendmsg4)]
fn lb_sendmsg4(ctx: SockAddrContext) -> i32 {
    replace(&ctx, read_v4, write_v4)
}

#[cgroup_sock_addr(sendmsg6)]
fn lb_sendmsg6(ctx: SockAddrContext) -> i32 {
    replace(&ctx, read_v6, write_v6)
}

#[cgroup_sock_addr(recvmsg4)]
fn lb_recvmsg4(ctx: SockAddrContext) -> i32 {
    translate_back(&ctx, read_v4, write_v4)
}

#[cgroup_sock_addr(recvmsg6)]
fn lb_recvmsg6(ctx: SockAddrContext) -> i32 {
    translate_back(&ctx, read_v6, write_v6)
}

#[cgroup_sock_addr(getpeername4)]
fn lb_getpeername4(ctx: SockAddrContext) -> i32 {
    translate_back(&ctx, read_v4, write_v4)
}

#[cgroup_sock_addr(getpeername6)]
fn lb_getpeername6(ctx: SockAddrContext) -> i32 {
    translate_back(&ctx, read_v6, write_v6)
}

/// Replaces a Service by its backend.
#[inline(always)]
fn replace(
    ctx: &SockAddrContext,
    read: impl Fn(&SockAddrContext) -> Endpoint,
    write: impl Fn(&SockAddrContext, Endpoint),
) -> i32 {
    let service = read(ctx);
    // SAFETY: entries change only between runs of the suite.
    let Some(backend) = unsafe { SERVICES.get(service) }.copied() else {
        return ALLOW;
    };
    let _full = REPLACEMENTS.insert(replacement(ctx, backend), service, 0);
    write(ctx, backend);
    ALLOW
}

/// Returns the Service to which a socket connected in place of the backend.
#[inline(always)]
fn translate_back(
    ctx: &SockAddrContext,
    read: impl Fn(&SockAddrContext) -> Endpoint,
    write: impl Fn(&SockAddrContext, Endpoint),
) -> i32 {
    // SAFETY: an entry is written whole, by the socket's own process.
    let service = unsafe { REPLACEMENTS.get(replacement(ctx, read(ctx))) }.copied();
    if let Some(service) = service {
        write(ctx, service);
    }
    ALLOW
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves of a cookie"
)]
fn replacement(ctx: &SockAddrContext, [a, b, c, d, port]: Endpoint) -> Replacement {
    // SAFETY: the context is the kernel's, and alive during the call.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) };
    [cookie as u32, (cookie >> 32) as u32, a, b, c, d, port]
}

#[inline(always)]
fn read_v4(ctx: &SockAddrContext) -> Endpoint {
    [0, 0, MAPPED, read!(ctx, user_ip4), read!(ctx, user_port)]
}

#[inline(always)]
fn write_v4(ctx: &SockAddrContext, [_, _, _, address, port]: Endpoint) {
    write!(ctx, user_ip4 = address);
    write!(ctx, user_port = port);
}

#[inline(always)]
fn read_v6(ctx: &SockAddrContext) -> Endpoint {
    [
        read!(ctx, user_ip6[0]),
        read!(ctx, user_ip6[1]),
        read!(ctx, user_ip6[2]),
        read!(ctx, user_ip6[3]),
        read!(ctx, user_port),
    ]
}

#[inline(always)]
fn write_v6(ctx: &SockAddrContext, [a, b, c, d, port]: Endpoint) {
    write!(ctx, user_ip6[0] = a);
    write!(ctx, user_ip6[1] = b);
    write!(ctx, user_ip6[2] = c);
    write!(ctx, user_ip6[3] = d);
    write!(ctx, user_port = port);
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
