//! Sockets that pass between processes and network namespaces.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
    thread,
};

use nix::sched::{CloneFlags, setns};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::Socket;

/// Sends a socket through `SCM_RIGHTS` and receives it again.
pub(super) fn through_a_message(socket: Socket) -> io::Result<Socket> {
    let (one, other) = UnixStream::pair()?;
    {
        let fds = [socket.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(
            &one,
            &[IoSlice::new(b"x")],
            &mut control,
            SendFlags::empty(),
        )?;
    }
    drop(socket);
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut byte)];
    recvmsg(&other, &mut slices, &mut control, RecvFlags::empty())?;
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(received.ok_or(io::ErrorKind::InvalidData)?.into())
}

/// Runs `work` in a thread of another network namespace, as a process there that received the socket.
pub(super) fn within<R: Send>(
    netns: &Path,
    work: impl FnOnce() -> io::Result<R> + Send,
) -> io::Result<R> {
    let netns = File::open(netns)?;
    let work = move || {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        work()
    };
    let outcome = thread::scope(|scope| scope.spawn(work).join());
    outcome.map_err(|_| io::Error::other("the thread panicked"))?
}
