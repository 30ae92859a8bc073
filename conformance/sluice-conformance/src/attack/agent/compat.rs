//! 32-bit system calls of a 64-bit process (`int 0x80`), for which the kernel takes other paths.
#![expect(unsafe_code, reason = "a system call in assembly")]

use std::io;

use nix::libc::c_int;
use socket2::{SockAddr, Socket};

/// Numbers among the 32-bit system calls.
const CONNECT: u32 = 362;
const SETSOCKOPT: u32 = 366;

/// `setsockopt`.
pub(super) fn set_option(
    socket: &Socket,
    level: c_int,
    name: c_int,
    value: &[u8],
) -> io::Result<()> {
    let (level, name) = (level.cast_unsigned(), name.cast_unsigned());
    call(SETSOCKOPT, socket, value, |value, length| {
        [level, name, value, length]
    })
}

/// `connect`.
pub(super) fn connect(socket: &Socket, to: &SockAddr) -> io::Result<()> {
    // SAFETY: the address is initialized up to its length.
    let address =
        unsafe { std::slice::from_raw_parts(to.as_ptr().cast::<u8>(), to.len() as usize) };
    call(CONNECT, socket, address, |address, length| {
        [address, length, 0, 0]
    })
}

/// Makes a call about a socket with `data` at an address of 32 bits. `arguments` gets that address and the
/// length.
#[cfg(target_arch = "x86_64")]
fn call(
    number: u32,
    socket: &Socket,
    data: &[u8],
    arguments: impl FnOnce(u32, u32) -> [u32; 4],
) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;

    use nix::libc::{self, c_void};

    const PAGE: usize = 4096;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, which no pointer refers to.
    let page: *mut c_void = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, access, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let number_of = |one: usize| u32::try_from(one).map_err(io::Error::other);
    let [second, third, fourth, fifth] =
        arguments(number_of(page as usize)?, number_of(data.len())?);
    let result: c_int;
    // SAFETY: the data is shorter than the page; the call reads it and changes no memory of this
    // process. `rbx` holds the first argument and is restored.
    unsafe {
        std::ptr::copy_nonoverlapping(data.as_ptr(), page.cast(), data.len());
        std::arch::asm!(
            "xchg rbx, {fd}",
            "int 0x80",
            "xchg rbx, {fd}",
            fd = inout(reg) i64::from(socket.as_raw_fd()) => _,
            inlateout("eax") number => result,
            in("ecx") second,
            in("edx") third,
            in("esi") fourth,
            in("edi") fifth,
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
fn call(_: u32, _: &Socket, _: &[u8], _: impl FnOnce(u32, u32) -> [u32; 4]) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(nix::libc::EOPNOTSUPP))
}
