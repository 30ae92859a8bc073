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

/// Implements [`Ends`] for a context, by the fields of each end. The local port is in host byte order; the
/// remote one is converted.
macro_rules! ends {
    (
        $context:ty,
        local($local_v4:ident, $local_v6:ident, $local_port:ident),
        remote($remote_v4:ident, $remote_v6:ident, $remote_port:ident as $convert:path)
    ) => {
        impl Ends for $context {
            #[inline(always)]
            fn local(this: *const Self) -> Endpoint {
                let addr = read_addr!(this, $local_v4, $local_v6);
                Endpoint::new(addr, host_port(read!(this, $local_port)))
            }

            #[inline(always)]
            fn remote(this: *const Self) -> Endpoint {
                let addr = read_addr!(this, $remote_v4, $remote_v6);
                Endpoint::new(addr, $convert(read!(this, $remote_port)))
            }
        }
    };
}

ends! {
    bpf_sock,
    local(src_ip4, src_ip6, src_port),
    remote(dst_ip4, dst_ip6, dst_port as Port::from_be)
}
ends! {
    bpf_sock_ops,
    local(local_ip4, local_ip6, local_port),
    remote(remote_ip4, remote_ip6, remote_port as wide_port)
}
ends! {
    bpf_sk_lookup,
    local(local_ip4, local_ip6, local_port),
    remote(remote_ip4, remote_ip6, remote_port as Port::from_be)
}

/// A port in network byte order, as a context's field of 32 bits: it is in the upper half on
/// little-endian machines.
#[inline(always)]
fn wide_port(port: u32) -> Port {
    host_port(u32::from_be(port))
}

/// A port in host byte order, as a context's field of 32 bits.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a port has 16 bits")]
pub(crate) fn host_port(port: u32) -> Port {
    Port::new(port as u16)
}
