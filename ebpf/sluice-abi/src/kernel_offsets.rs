//! Offsets of the kernel structure members that the programs read.

/// Byte offsets of members of kernel structures, from the kernel's BTF. A constant of the object that
/// the daemon sets before it loads the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KernelOffsets {
    /// One if all offsets are known; otherwise zero, which disables acceleration.
    pub valid: u32,
    /// `tcp_sock.write_seq`: the sequence number of the next byte that is written to TCP.
    pub write_seq: u32,
    /// `tcp_sock.copied_seq`: the sequence number of the next byte that the receiver reads from TCP.
    pub copied_seq: u32,
    /// `tcp_sock.data_segs_out`: the number of sent segments with data.
    pub data_segs_out: u32,
    /// `sock_common.skc_flags`, at the start of a socket.
    pub skc_flags: u32,
    /// The bit number of `SOCK_ZEROCOPY` in `skc_flags`.
    pub zero_copy: u32,
    /// `sock.sk_socket`: the `struct socket` of the descriptor; null before `accept(2)`.
    pub sk_socket: u32,
    /// `sock.sk_user_data`: for a socket in a sockhash, its `sk_psock`, with flags in the low bits.
    pub sk_user_data: u32,
    /// `socket.sk`.
    pub sk: u32,
    /// `socket.file`.
    pub file: u32,
    /// `file.f_flags`.
    pub f_flags: u32,
    /// `sk_psock.ingress_msg`: redirected messages that are unread.
    pub ingress_msg: u32,
    /// `sk_psock.refcnt`: one reference for the map, and one for each call that sends or receives.
    pub refcnt: u32,
    /// Always zero: keeps the size a multiple of 8.
    pub pad: u32,
}

/// Byte offsets on the way from a socket to the credentials of the process that made it, from the
/// kernel's BTF. A constant of the object that the daemon sets before it loads the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CredOffsets {
    /// One if all offsets are known; otherwise zero, and the caller's user alone counts.
    pub valid: u32,
    /// `sock.sk_socket`: the `struct socket` of the descriptor.
    pub sk_socket: u32,
    /// `socket.file`.
    pub file: u32,
    /// `file.f_cred`: the credentials at `socket(2)` or `accept(2)`.
    pub f_cred: u32,
    /// `cred.fsuid`.
    pub fsuid: u32,
    /// `cred.fsgid`.
    pub fsgid: u32,
}
