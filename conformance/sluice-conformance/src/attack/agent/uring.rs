//! A connection that is made by `io_uring`.
#![expect(unsafe_code, reason = "operations on a ring")]

use std::{io, os::fd::AsRawFd as _};

use io_uring::{IoUring, opcode, squeue, types::Fd};
use socket2::{SockAddr, Socket};

/// Connects the socket and writes to it: the kernel makes both calls in its own context.
pub(super) fn connect_and_write(socket: &Socket, to: &SockAddr, bytes: &[u8]) -> io::Result<()> {
    let mut ring = IoUring::new(2)?;
    let fd = Fd(socket.as_raw_fd());
    let connect = opcode::Connect::new(fd, to.as_ptr().cast(), to.len()).build();
    submit(&mut ring, &connect)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    submit(
        &mut ring,
        &opcode::Send::new(fd, bytes.as_ptr(), length).build(),
    )
}

/// Submits an operation and waits for its end.
fn submit(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    // Asynchronously: in a worker thread of the kernel.
    let entry = entry.clone().flags(squeue::Flags::ASYNC);
    // SAFETY: address and bytes outlive the operation, whose end this function awaits.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().map_or(-1, |done| done.result());
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Ok(())
}
