//! Where this kernel keeps what acceleration must know of a socket.

/// Byte offsets of members of the kernel's structures, as its BTF tells them. A constant of the
/// object, written by the daemon before the programs are loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelOffsets {
    /// One if all of this is known, or else zero: then nothing is accelerated.
    pub valid: u32,
    /// `tcp_sock.write_seq`: the number of the next byte that TCP is given.
    pub write_seq: u32,
    /// `tcp_sock.copied_seq`: the number of the next byte of TCP's that its reader takes.
    pub copied_seq: u32,
    /// `tcp_sock.data_segs_out`: segments with data that were sent.
    pub data_segs_out: u32,
    /// `sock_common.skc_flags`, with which a socket begins.
    pub skc_flags: u32,
    /// The number of the bit `SOCK_ZEROCOPY` in it.
    pub zero_copy: u32,
    /// `sock.sk_socket`: what a descriptor holds; none before `accept(2)`.
    pub sk_socket: u32,
    /// `sock.sk_user_data`: for a socket in a sockhash, its `sk_psock`, with flags in the last bits.
    pub sk_user_data: u32,
    /// `socket.sk`.
    pub sk: u32,
    /// `socket.file`.
    pub file: u32,
    /// `file.f_flags`.
    pub f_flags: u32,
    /// `sk_psock.ingress_msg`: redirected messages that were not read.
    pub ingress_msg: u32,
    /// `sk_psock.refcnt`: one for the map, and one for each call that sends or receives.
    pub refcnt: u32,
    /// Always zero: keeps the size a multiple of 8.
    pub pad: u32,
}
