//! Operations by `io_uring`: the kernel makes the calls in its own context.
#![expect(unsafe_code, reason = "operations on a ring")]

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _},
};

use io_uring::{
    IoUring, opcode, squeue,
    types::{Fd, Fixed},
};
use socket2::{Domain, SockAddr, Socket, Type};

/// The only file that is registered with a ring.
const REGISTERED: Fixed = Fixed(0);

/// Connects the socket and writes to it.
pub(super) fn connect_and_write(socket: &Socket, to: &SockAddr, bytes: &[u8]) -> io::Result<()> {
    let mut ring = IoUring::new(2)?;
    let fd = Fd(socket.as_raw_fd());
    let connect = opcode::Connect::new(fd, to.as_ptr().cast(), to.len()).build();
    submit(&mut ring, connect)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let send = opcode::Send::new(fd, bytes.as_ptr(), length).build();
    submit(&mut ring, send).map(drop)
}

/// Registers a socket with the ring.
pub(super) fn register(ring: &IoUring, socket: &Socket) -> io::Result<()> {
    ring.submitter().register_files(&[socket.as_raw_fd()])
}

/// Connects the registered socket.
pub(super) fn connect_registered(ring: &mut IoUring, to: &SockAddr) -> io::Result<()> {
    let connect = opcode::Connect::new(REGISTERED, to.as_ptr().cast(), to.len()).build();
    submit(ring, connect).map(drop)
}

/// Connects the registered socket with credentials that are registered with the ring.
pub(super) fn connect_as(ring: &mut IoUring, to: &SockAddr, credentials: u16) -> io::Result<()> {
    let connect = opcode::Connect::new(REGISTERED, to.as_ptr().cast(), to.len()).build();
    submit(ring, connect.personality(credentials)).map(drop)
}

/// Makes a TCP socket with credentials that are registered with the ring.
pub(super) fn socket(ring: &mut IoUring, domain: Domain, credentials: u16) -> io::Result<Socket> {
    let make = opcode::Socket::new(domain.into(), Type::STREAM.into(), 0).build();
    let fd = submit(ring, make.personality(credentials))?;
    // SAFETY: the kernel has just opened the descriptor for this process.
    Ok(unsafe { Socket::from_raw_fd(fd) })
}

/// Submits an operation, waits for its end, and returns its result.
fn submit(ring: &mut IoUring, entry: squeue::Entry) -> io::Result<i32> {
    // Asynchronously: in a worker thread of the kernel.
    let entry = entry.flags(squeue::Flags::ASYNC);
    // SAFETY: address and bytes outlive the operation, for whose end this function waits.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().map_or(-1, |done| done.result());
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Ok(result)
}
