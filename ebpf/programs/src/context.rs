//! Access to the kernel's contexts, with the common address form.
//!
//! Each access is volatile and to one field. The verifier translates context accesses field by field;
//! LLVM would merge neighbouring accesses or compute on the pointer first, and the verifier rejects
//! both.

use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_sock, bpf_sock_addr, bpf_sockopt, sockaddr},
    helpers::{bpf_bind, bpf_get_current_uid_gid, bpf_get_netns_cookie},
    programs::SockAddrContext,
};
use sluice_abi::{Addr, Endpoint, NetnsEntry, Port, opaque};

/// `AF_INET`.
pub(crate) const AF_INET: u16 = 2;
/// `AF_INET6`.
pub(crate) const AF_INET6: u16 = 10;

/// `SOCK_STREAM`.
const STREAM: u32 = 1;
/// `SOCK_DGRAM`.
const DATAGRAM: u32 = 2;
/// `IPPROTO_TCP`.
pub(crate) const TCP: u32 = 6;
/// `IPPROTO_UDP`.
pub(crate) const UDP: u32 = 17;

/// Maximum size of a socket option that the kernel passes to programs: one page.
const OPTION_BYTES: i32 = 4096;

/// Reads one field of a context.
macro_rules! read {
    ($context:expr, $($field:tt)+) => {{
        // SAFETY: the kernel passes a valid context, and the verifier checks every offset.
        unsafe { (&raw const (*$context).$($field)+).read_volatile() }
    }};
}

/// Writes one field of a context.
macro_rules! write {
    ($context:expr, $($field:tt)+) => {{
        let (field, value) = write!(@split $context, $($field)+);
        // SAFETY: as for reading; the verifier rejects read-only fields at load.
        unsafe { field.write_volatile(value) }
    }};
    (@split $context:expr, $name:ident $([$index:literal])? = $value:expr) => {{
        // SAFETY: no access, only the address of a field.
        (unsafe { &raw mut (*$context).$name$([$index])? }, $value)
    }};
}

/// Reads the four words of an IPv6 address.
macro_rules! read_v6 {
    ($context:expr, $field:ident) => {
        [
            $crate::context::read!($context, $field[0]),
            $crate::context::read!($context, $field[1]),
            $crate::context::read!($context, $field[2]),
            $crate::context::read!($context, $field[3]),
        ]
    };
}

/// Reads an address from a context with one field for each family.
///
/// Both fields are read for every family: with a read in each branch, LLVM would merge the last loads
/// of the branches into one at a computed offset.
macro_rules! read_addr {
    ($context:expr, $v4:ident, $v6:ident) => {
        $crate::context::addr_of_family(
            $crate::context::read!($context, family),
            $crate::context::read!($context, $v4),
            $crate::context::read_v6!($context, $v6),
        )
    };
}

/// The address of a socket of this family.
#[inline(always)]
pub(crate) fn addr_of_family(family: u32, v4: u32, v6: [u32; 4]) -> Addr {
    if family == u32::from(AF_INET) {
        Addr::v4(v4)
    } else {
        Addr::v6(v6)
    }
}

pub(crate) use {read, read_addr, read_v6};

/// The netns cookie of the context's socket.
#[inline(always)]
pub(crate) fn netns_cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the helper accepts every context unchanged.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// UID and GID of the calling process in the initial user namespace.
#[inline(always)]
pub(crate) fn current_uid_gid() -> (u32, u32) {
    let owner = bpf_get_current_uid_gid();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the helper packs gid << 32 | uid"
    )]
    let (uid, gid) = (owner as u32, (owner >> 32) as u32);
    (uid, gid)
}

/// Whether a socket uses TCP, also as the first subflow of an MPTCP connection.
#[inline(always)]
pub(crate) fn is_tcp(ctx: &SockAddrContext) -> bool {
    read!(ctx.sock_addr, type_) == STREAM && read!(ctx.sock_addr, protocol) == TCP
}

/// Whether a socket uses UDP.
#[inline(always)]
pub(crate) fn is_udp(ctx: &SockAddrContext) -> bool {
    read!(ctx.sock_addr, type_) == DATAGRAM && read!(ctx.sock_addr, protocol) == UDP
}

/// Preserves an option that is longer than the part that programs see: to the kernel, zero means "not
/// changed" (`Documentation/bpf/prog_cgroup_sockopt.rst`). Linux 6.18 preserves it without this.
#[inline(always)]
pub(crate) fn pass_long_optval(sockopt: *mut bpf_sockopt) {
    if read!(sockopt, optlen) > OPTION_BYTES {
        set_optlen(sockopt, 0);
    }
}

#[inline(always)]
pub(crate) fn set_optlen(sockopt: *mut bpf_sockopt, length: i32) {
    write!(sockopt, optlen = length);
}

/// Layout of a socket address in a `bpf_sock_addr`, and in `sockaddr`.
pub(crate) trait Family {
    /// The address from the caller, or the one that the caller will see.
    fn user_addr(ctx: *const bpf_sock_addr) -> Addr;
    /// Replaces the address. An address of the other family is ignored: the caller checks.
    fn set_address(ctx: *mut bpf_sock_addr, addr: Addr);
    /// The address that the socket is bound to.
    fn source(sk: *const bpf_sock) -> Addr;
    /// The source of a datagram in a `sendmsg` hook: of the socket, or of the call (`IP_PKTINFO`).
    fn message_source(ctx: *const bpf_sock_addr) -> Addr;
    /// Binds the socket to an address, and defers the port to `connect`. `false` if the address is not
    /// in the socket's network namespace, or if the socket already has a port: it then keeps the source
    /// address from the route, and everything else works unchanged.
    fn bind(ctx: *mut bpf_sock_addr, addr: Addr) -> bool;
    /// Sets the source address of a datagram that has none yet.
    fn set_source(ctx: *mut bpf_sock_addr, addr: Addr);
    /// Whether a socket of this family can represent this address.
    fn can_represent(addr: Addr) -> bool;
    /// Hides what the compiler and the verifier know about an address. `unknown`: see [`opaque::zero`].
    fn hide(addr: Addr, unknown: u64) -> Addr;
}

/// `AF_INET` sockets.
pub(crate) enum V4 {}
/// `AF_INET6` sockets, including those that carry IPv4.
pub(crate) enum V6 {}

impl Family for V4 {
    #[inline(always)]
    fn user_addr(ctx: *const bpf_sock_addr) -> Addr {
        Addr::v4(read!(ctx, user_ip4))
    }

    #[inline(always)]
    fn set_address(ctx: *mut bpf_sock_addr, addr: Addr) {
        write!(ctx, user_ip4 = addr.words()[3]);
    }

    /// A connected `AF_INET6` socket has a placeholder in its IPv4 address (`LOOPBACK4_IPV6`).
    #[inline(always)]
    fn source(sk: *const bpf_sock) -> Addr {
        if read!(sk, family) != u32::from(AF_INET6) {
            return Addr::v4(read!(sk, src_ip4));
        }
        match V6::source(sk).as_v4() {
            Some(source) => Addr::v4(source),
            None => Addr::v4(0),
        }
    }

    #[inline(always)]
    fn message_source(ctx: *const bpf_sock_addr) -> Addr {
        Addr::v4(read!(ctx, msg_src_ip4))
    }

    #[inline(always)]
    fn bind(ctx: *mut bpf_sock_addr, addr: Addr) -> bool {
        // struct sockaddr_in: family, port 0, address, padding.
        let mut name = [u32::from(AF_INET), addr.words()[3], 0, 0];
        bind(ctx, &mut name)
    }

    #[inline(always)]
    fn set_source(ctx: *mut bpf_sock_addr, addr: Addr) {
        if read!(ctx, msg_src_ip4) == 0 {
            write!(ctx, msg_src_ip4 = addr.words()[3]);
        }
    }

    #[inline(always)]
    fn can_represent(addr: Addr) -> bool {
        addr.is_v4()
    }

    #[inline(always)]
    fn hide(addr: Addr, unknown: u64) -> Addr {
        Addr::v4(addr.words()[3] ^ zero_word(unknown))
    }
}

impl Family for V6 {
    #[inline(always)]
    fn user_addr(ctx: *const bpf_sock_addr) -> Addr {
        Addr::v6(read_v6!(ctx, user_ip6))
    }

    #[inline(always)]
    fn set_address(ctx: *mut bpf_sock_addr, addr: Addr) {
        let [a, b, c, d] = addr.words();
        write!(ctx, user_ip6[0] = a);
        write!(ctx, user_ip6[1] = b);
        write!(ctx, user_ip6[2] = c);
        write!(ctx, user_ip6[3] = d);
    }

    #[inline(always)]
    fn source(sk: *const bpf_sock) -> Addr {
        Addr::v6(read_v6!(sk, src_ip6))
    }

    #[inline(always)]
    fn message_source(ctx: *const bpf_sock_addr) -> Addr {
        Addr::v6(read_v6!(ctx, msg_src_ip6))
    }

    #[inline(always)]
    fn bind(ctx: *mut bpf_sock_addr, addr: Addr) -> bool {
        let [a, b, c, d] = addr.words();
        // struct sockaddr_in6: family, port 0, flow information, address, scope.
        let mut name = [u32::from(AF_INET6), 0, a, b, c, d, 0];
        bind(ctx, &mut name)
    }

    #[inline(always)]
    fn set_source(ctx: *mut bpf_sock_addr, addr: Addr) {
        if Addr::v6(read_v6!(ctx, msg_src_ip6)).is_unspecified() {
            let [a, b, c, d] = addr.words();
            write!(ctx, msg_src_ip6[0] = a);
            write!(ctx, msg_src_ip6[1] = b);
            write!(ctx, msg_src_ip6[2] = c);
            write!(ctx, msg_src_ip6[3] = d);
        }
    }

    #[inline(always)]
    fn can_represent(_addr: Addr) -> bool {
        true
    }

    #[inline(always)]
    fn hide(addr: Addr, unknown: u64) -> Addr {
        let zero = zero_word(unknown);
        Addr::v6(addr.words().map(|word| word ^ zero))
    }
}

#[inline(always)]
fn bind<const WORDS: usize>(ctx: *mut bpf_sock_addr, name: &mut [u32; WORDS]) -> bool {
    // SAFETY: `name` stays on the stack during the call, and the length is its size.
    unsafe { bpf_bind(ctx, name.as_mut_ptr().cast::<sockaddr>(), bytes(name)) == 0 }
}

/// Size of a socket address, in the kernel's type.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a socket address has 28 bytes at most"
)]
pub(crate) const fn bytes<const WORDS: usize>(_name: &[u32; WORDS]) -> i32 {
    size_of::<[u32; WORDS]>() as i32
}

/// Zero, for a word of an address.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a part of a zero is zero")]
fn zero_word(unknown: u64) -> u32 {
    opaque::zero(unknown) as u32
}

/// The same addresses for the next stage: see [`opaque`].
#[inline(always)]
pub(crate) fn hide<F: Family>(
    netns: &NetnsEntry,
    (source, dst): (Addr, Endpoint),
) -> (Addr, Endpoint) {
    let unknown = netns.pod.cookie;
    let addr = F::hide(dst.addr, unknown);
    (F::hide(source, unknown), Endpoint::new(addr, dst.port))
}

/// The destination of a `bpf_sock_addr`.
#[inline(always)]
pub(crate) fn destination<F: Family>(ctx: &SockAddrContext) -> Endpoint {
    #[expect(clippy::cast_possible_truncation, reason = "16 bits in network order")]
    let port = Port::from_be(read!(ctx.sock_addr, user_port) as u16);
    Endpoint::new(F::user_addr(ctx.sock_addr), port)
}

/// Replaces the destination of a `bpf_sock_addr`.
#[inline(always)]
pub(crate) fn set_destination<F: Family>(ctx: &SockAddrContext, to: Endpoint) {
    F::set_address(ctx.sock_addr, to.addr);
    write!(ctx.sock_addr, user_port = u32::from(to.port.to_be()));
}

/// The socket of a `bpf_sock_addr`.
#[inline(always)]
pub(crate) fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    read!(ctx.sock_addr, __bindgen_anon_1.sk)
}
