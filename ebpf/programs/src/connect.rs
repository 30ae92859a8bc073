//! `connect(2)`: decide, remember where the caller wanted to go, and send it to the proxy.

use aya_ebpf::{bindings::bpf_sock, helpers::bpf_get_current_uid_gid, programs::SockAddrContext};
use sluice_abi::{
    Addr, End, Endpoint, Event, Original, PodFlags, Port, Process, Reason,
    decide::{self, DNS, Listed, Outbound, Verdict},
};

use crate::{
    ALLOW, DENY, accelerate,
    context::{self, Family, read},
    count::count,
    datagram, filter, habit, inbound, learn,
    maps::{self, RESOLVERS},
    meeting, mptcp,
    order::Level,
    veil::{Fact, Veil},
    watch,
};

/// `SOCK_STREAM`.
const STREAM: u32 = 1;
/// `IPPROTO_TCP`.
const TCP: u32 = 6;

/// Decides about one connect. A caller outside every meshed Pod costs a look-up in a hash table, and
/// one in an array: whether Pods are awaited.
#[inline(always)]
pub(crate) fn connect<F: Family>(ctx: &SockAddrContext, level: Level) -> i32 {
    if datagram::is_udp(ctx) {
        return datagram::capture::<F>(ctx, level, |process, asked| {
            come_from_home::<F>(ctx, process, asked, Addr::UNSPECIFIED);
        });
    }
    if !is_tcp(ctx) {
        return ALLOW;
    }
    let cookie = context::netns_cookie(ctx);
    let Some(process) = maps::process(cookie).or_else(|| learn::process::<F>(ctx, cookie)) else {
        return ALLOW;
    };
    if level.is_decided(ctx) {
        return ALLOW;
    }
    let asked = context::destination::<F>(ctx);
    let verdict = decide::<F>(ctx, process, asked);
    tell(process, asked, verdict.reason());
    nominate(ctx, process, asked, verdict);
    match verdict {
        Verdict::Direct(_) => {
            forget(context::socket(ctx));
            ALLOW
        }
        Verdict::ToProxy(port, _) => match meeting_place(cookie, process, asked, port) {
            Some(place) => meet::<F>(ctx, process, asked, place),
            None => divert::<F>(ctx, process, asked, port),
        },
    }
}

/// Counts a decision about what a process in the Pod does, and tells of it.
#[inline(always)]
pub(crate) fn tell(process: &Process, asked: Endpoint, reason: Reason) {
    count(reason);
    if watch::is_on() {
        let (uid, gid) = caller();
        watch::tell(&Event {
            cookie: process.pod.cookie,
            from: Endpoint::new(process.address_like(asked.addr), Port::new(0)),
            to: asked,
            reason: reason as u32,
            uid,
            gid,
            zero: 0,
        });
    }
}

/// The socket may have been connected before, to something that it was to remember. Only then does
/// the MPTCP connection above it, too; to look is cheaper than to ask for that.
#[inline(always)]
fn forget(sk: *mut bpf_sock) {
    if context::recall(sk).is_none() {
        return;
    }
    context::forget(sk);
    let connection = mptcp::connection(sk);
    if !connection.is_null() {
        context::forget(connection);
    }
}

/// Marks a connection for acceleration if the Pod wants it and the proxy will be at one end, or
/// at both.
#[inline(always)]
fn nominate(ctx: &SockAddrContext, process: &Process, asked: Endpoint, verdict: Verdict) {
    let flags = process.pod.flags;
    if !flags.has(PodFlags::ACCELERATE_PROXIES) {
        return;
    }
    let sk = context::socket(ctx);
    if !mptcp::connection(sk).is_null() {
        // Its bytes are numbered twice, and a sockhash knows one of the numbers.
        return;
    }
    let own = process.pod.cookie;
    let shared = match verdict.reason() {
        // Within the Pod: application and proxy.
        Reason::OutboundToProxy | Reason::OutboundPortListed | Reason::OutboundPassthrough
            if flags.has(PodFlags::ACCELERATE_ALL) && !accelerate::splices(own) =>
        {
            Some(own)
        }
        // Between Pods: this proxy, and the one that will accept.
        Reason::OutboundByProxy if is_accelerated(asked.addr) => Some(0),
        _ => None,
    };
    match shared {
        Some(cookie) if habit::may_last(own, asked) => accelerate::nominate(sk, cookie),
        _ => accelerate::pass_over(sk),
    }
}

/// Whether an address belongs to a Pod of this node that wants acceleration.
#[inline(always)]
fn is_accelerated(addr: Addr) -> bool {
    maps::pod(addr).is_some_and(|pod| pod.flags.has(PodFlags::ACCELERATE_PROXIES))
}

/// Whether a socket is a TCP one, also as the first subflow of an MPTCP connection.
#[inline(always)]
fn is_tcp(ctx: &SockAddrContext) -> bool {
    read!(ctx.sock_addr, type_) == STREAM && read!(ctx.sock_addr, protocol) == TCP
}

/// Where a socket's connection goes, or its datagram to a DNS server.
#[inline(always)]
pub(crate) fn decide<F: Family>(
    ctx: &SockAddrContext,
    process: &Process,
    asked: Endpoint,
) -> Verdict {
    decide::outbound(&process.pod, &facts::<F>(ctx, process, asked))
}

/// Whether the Pod's proxy answers what is sent to this port of others.
#[inline(always)]
pub(crate) fn captures_dns(process: &Process, port: Port) -> bool {
    port.same(DNS) && RESOLVERS.get_ptr(process.pod.cookie).is_some()
}

/// User and group of the calling process, as the initial user namespace numbers them.
#[inline(always)]
pub(crate) fn caller() -> (u32, u32) {
    let owner = bpf_get_current_uid_gid();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the helper packs gid << 32 | uid"
    )]
    let (uid, gid) = (owner as u32, (owner >> 32) as u32);
    (uid, gid)
}

/// What the decision depends on.
#[inline(always)]
fn facts<F: Family>(ctx: &SockAddrContext, process: &Process, asked: Endpoint) -> Outbound {
    let (uid, gid) = caller();
    let pod = &process.pod;
    let sk = context::socket(ctx);
    let inbound_listed =
        || pod.flags.has(PodFlags::TRANSPARENT) && inbound::is_listed(pod, asked.port);
    let facts = Veil::new(uid.into())
        .note(Fact::Own, owns(process, asked.addr))
        .note(Fact::PortExcluded, filter::excludes_port(pod, asked.port))
        .note(Fact::Datagram, datagram::is_udp(ctx))
        .note(Fact::CapturesDns, captures_dns(process, asked.port))
        .note(Fact::InboundListed, inbound_listed())
        .note(Fact::NetworkExcluded, filter::excludes(pod, asked.addr))
        .note(Fact::PortListed, filter::includes_port(pod, asked.port))
        .note(Fact::NetworkListed, filter::includes(pod, asked.addr))
        .note(
            Fact::Aside,
            filter::sets_aside_to(pod, asked.addr, read!(sk, bound_dev_if)),
        );
    Outbound {
        uid,
        gid,
        mark: read!(sk, mark),
        source: F::source(sk),
        addr: asked.addr,
        port: asked.port,
        own: facts.has(Fact::Own),
        aside: facts.has(Fact::Aside),
        excluded: facts.has(Fact::PortExcluded),
        datagram: facts.has(Fact::Datagram),
        captures_dns: facts.has(Fact::CapturesDns),
        inbound_listed: facts.has(Fact::InboundListed),
        listed: Listed {
            excluded: facts.has(Fact::NetworkExcluded),
            port: facts.has(Fact::PortListed),
            network: facts.has(Fact::NetworkListed),
        },
    }
}

/// Whether an address belongs to a Pod.
#[inline(always)]
pub(crate) fn owns(process: &Process, addr: Addr) -> bool {
    if process.owns(addr) {
        return true;
    }
    process.pod.flags.has(PodFlags::MORE_ADDRESSES)
        && maps::pod(addr).is_some_and(|pod| pod.cookie == process.pod.cookie)
}

/// The place at which the proxy is met by all that goes where this connection goes, if there is one.
///
/// What the proxy calls of its own Pod, and DNS queries, arrive at one address. A destination on
/// loopback is reached from a loopback address, and the route to the meetings names another source.
/// Without that route, nothing leads to those of IPv6.
#[inline(always)]
fn meeting_place(cookie: u64, process: &Process, asked: Endpoint, port: Port) -> Option<Endpoint> {
    let pod = &process.pod;
    if !port.same(pod.outbound_port)
        || pod.flags.has(PodFlags::SINGLE_LOOPBACK)
        || asked.addr.connects_to_loopback()
        || !(asked.addr.is_v4() || process.is_routed_like(asked.addr))
    {
        return None;
    }
    let place = meeting::place(cookie, asked, port);
    if place.is_none() {
        count(Reason::OutboundAlone);
    }
    place
}

/// Sends the connection to the proxy at a place that tells where it was going.
#[inline(always)]
fn meet<F: Family>(
    ctx: &SockAddrContext,
    process: &Process,
    asked: Endpoint,
    place: Endpoint,
) -> i32 {
    forget(context::socket(ctx));
    let routed = if process.is_routed_like(asked.addr) {
        process.address_like(asked.addr)
    } else {
        Addr::UNSPECIFIED
    };
    come_from_home::<F>(ctx, process, asked.addr, routed);
    context::set_destination::<F>(ctx, place);
    ALLOW
}

/// Sends the connection to the proxy at `port`, and lets its socket remember the destination. If that
/// is not possible, the proxy could not know where to take it: the connect fails.
#[inline(always)]
fn divert<F: Family>(ctx: &SockAddrContext, process: &Process, asked: Endpoint, port: Port) -> i32 {
    let sk = context::socket(ctx);
    let original = Original {
        to: asked,
        end: End::CLIENT,
    };
    if !context::remember(sk, original) {
        count(Reason::OutboundRefused);
        return DENY;
    }
    // What `getpeername` is asked about.
    let _is_no_subflow = context::remember(mptcp::connection(sk), original);
    come_from_home::<F>(ctx, process, asked.addr, Addr::UNSPECIFIED);
    // What the proxy calls of its own Pod arrives where iptables' REDIRECT would send it: Istio's
    // validation listens at 127.0.0.1 alone and asks for 127.0.0.6 before a Pod may start.
    let single = process.pod.flags.has(PodFlags::SINGLE_LOOPBACK)
        || port.same(process.pod.dns_port)
        || port.same(process.pod.inbound_port);
    let loopback = if single && asked.addr.is_v4() {
        Addr::V4_LOOPBACK
    } else {
        asked.addr.proxy_loopback(asked.port)
    };
    context::set_destination::<F>(ctx, Endpoint::new(loopback, port));
    ALLOW
}

/// Under iptables the proxy sees the source that the route to the asked address gives: one of the
/// Pod's addresses. The route to the proxy chooses `routed`, or a loopback address if that is
/// unspecified; binding is needed for any other one, and dear.
#[inline(always)]
fn come_from_home<F: Family>(ctx: &SockAddrContext, process: &Process, asked: Addr, routed: Addr) {
    if F::source(context::socket(ctx)).is_unspecified()
        && let Some(home) = home(process, asked)
        && !home.same(routed)
    {
        let _keeps_its_route = F::bind(ctx.sock_addr, home);
    }
}

/// The Pod's address from which it reaches others, unless the destination is a loopback address.
/// An own IPv6 address is reached from itself (RFC 6724, rule 1), while the local routes of IPv4
/// name the first address of a network.
#[inline(always)]
pub(crate) fn home(process: &Process, asked: Addr) -> Option<Addr> {
    let home = if !asked.is_v4() && owns(process, asked) {
        asked
    } else {
        filter::source(&process.pod, asked).unwrap_or_else(|| process.address_like(asked))
    };
    (!asked.connects_to_loopback() && !home.is_unspecified()).then_some(home)
}
