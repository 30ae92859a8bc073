//! Sockets that are bound to a device (`SO_BINDTODEVICE`).
//!
//! The kernel routes the packets of such a socket over that device, also those to an address of `lo`. A
//! redirected connection would leave the Pod with the proxy's address as destination, and a host on its
//! path could accept it.

use aya_ebpf::bindings::bpf_sock;
use sluice_abi::PodConfig;

use crate::{context::read, endpoint::Ends};

/// The index of `lo` (`LOOPBACK_IFINDEX`, `linux/if.h`).
const LOOPBACK: u32 = 1;

/// Whether packets to a loopback address leave the Pod on this socket.
#[inline(always)]
pub(crate) fn is_bound(sk: *const bpf_sock) -> bool {
    let device = read!(sk, bound_dev_if);
    device != 0 && device != LOOPBACK
}

/// Whether the socket is connected to a port of the proxy by a redirection.
#[inline(always)]
pub(crate) fn is_redirected(pod: &PodConfig, sk: *const bpf_sock) -> bool {
    let peer = Ends::remote(sk);
    (peer.addr.is_loopback() || peer.addr.is_alias()) && pod.reserves(peer.port, false)
}
