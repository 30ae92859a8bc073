//! Socket options that lead a connection's packets over a hop of the sender's choice.
#![expect(
    unsafe_code,
    reason = "options that no crate has, and a 32-bit system call"
)]

use std::{io, net::IpAddr, os::fd::AsRawFd as _, ptr};

use nix::libc::{self, c_int, c_void};
use socket2::Socket;

/// The number of `setsockopt` among the 32-bit system calls.
const SETSOCKOPT_32: u32 = 366;

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
    let fd = socket.as_raw_fd();
    if compat {
        return set_32(fd, level, name, &value);
    }
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the value has this length.
    match unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `setsockopt` by `int 0x80`. The value is at an address of 32 bits.
#[cfg(target_arch = "x86_64")]
fn set_32(fd: c_int, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    const PAGE: usize = 4096;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    // SAFETY: a new mapping, which no pointer refers to.
    let page: *mut c_void = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let result: c_int;
    // SAFETY: the value is shorter than the page; the call reads it and changes no memory of this
    // process. `rbx` holds the first argument and is restored.
    unsafe {
        ptr::copy_nonoverlapping(value.as_ptr(), page.cast(), value.len());
        std::arch::asm!(
            "xchg rbx, {fd}",
            "int 0x80",
            "xchg rbx, {fd}",
            fd = inout(reg) i64::from(fd) => _,
            inlateout("eax") SETSOCKOPT_32 => result,
            in("ecx") level,
            in("edx") name,
            in("esi") page as usize,
            in("edi") value.len(),
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
        libc::munmap(page, PAGE);
    }
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn set_32(_: c_int, _: c_int, _: c_int, _: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
