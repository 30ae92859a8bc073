//! Socket options that lead a connection's packets over a hop of the sender's choice.
#![expect(unsafe_code, reason = "options that no crate has")]

use std::{io, net::IpAddr, os::fd::AsRawFd as _};

use nix::libc;
use socket2::Socket;

use super::compat;

/// Sets a loose source route or a segment routing header. `compat`: by a 32-bit system call.
pub(super) fn set(socket: &Socket, hop: IpAddr, compat: bool) -> io::Result<()> {
    let (level, name, value) = match hop {
        // Kind, length, pointer, one address, end of the list.
        IpAddr::V4(hop) => (
            libc::IPPROTO_IP,
            libc::IP_OPTIONS,
            [&[131, 7, 4][..], &hop.octets(), &[0]].concat(),
        ),
        // Next header, length, type, segments left, last entry, flags, tag.
        IpAddr::V6(hop) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_RTHDR,
            [&[0, 2, 4, 0, 0, 0, 0, 0][..], &hop.octets()].concat(),
        ),
    };
    if compat {
        return compat::set_option(socket, level, name, &value);
    }
    let fd = socket.as_raw_fd();
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the value has this length.
    match unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
