//! The ends of a connection, from the contexts of all hooks.

use aya_ebpf::bindings::{bpf_sk_lookup, bpf_sock, bpf_sock_ops};
use sluice_abi::{Endpoint, Port};

use crate::context::{read, read_addr};

/// A context with both ends of a connection.
pub(crate) trait Ends {
    /// The end in the socket's network namespace.
    fn local(this: *const Self) -> Endpoint;
    /// The peer.
    fn remote(this: *const Self) -> Endpoint;
}

impl Ends for bpf_sock {
    #[inline(always)]
    fn local(this: *const Self) -> Endpoint {
        let addr = read_addr!(this, src_ip4, src_ip6);
        Endpoint::new(addr, host_port(read!(this, src_port)))
    }

    #[inline(always)]
    fn remote(this: *const Self) -> Endpoint {
        let addr = read_addr!(this, dst_ip4, dst_ip6);
        Endpoint::new(addr, Port::from_be(read!(this, dst_port)))
    }
}

impl Ends for bpf_sock_ops {
    #[inline(always)]
    fn local(this: *const Self) -> Endpoint {
        let addr = read_addr!(this, local_ip4, local_ip6);
        Endpoint::new(addr, host_port(read!(this, local_port)))
    }

    #[inline(always)]
    fn remote(this: *const Self) -> Endpoint {
        let addr = read_addr!(this, remote_ip4, remote_ip6);
        // Network byte order as 32 bits: the port is in the upper half on little-endian machines.
        Endpoint::new(addr, host_port(u32::from_be(read!(this, remote_port))))
    }
}

impl Ends for bpf_sk_lookup {
    #[inline(always)]
    fn local(this: *const Self) -> Endpoint {
        let addr = read_addr!(this, local_ip4, local_ip6);
        Endpoint::new(addr, host_port(read!(this, local_port)))
    }

    #[inline(always)]
    fn remote(this: *const Self) -> Endpoint {
        let addr = read_addr!(this, remote_ip4, remote_ip6);
        Endpoint::new(addr, Port::from_be(read!(this, remote_port)))
    }
}

/// A port in host byte order, as a context's field of 32 bits.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a port has 16 bits")]
pub(crate) fn host_port(port: u32) -> Port {
    Port::new(port as u16)
}
