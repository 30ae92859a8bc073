//! Sockets that pass by `SCM_RIGHTS`, and threads that stand for another process.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
    thread,
};

use nix::sched::{CloneFlags, setns};
use rustix::{
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
    process::{Gid, Uid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};
use socket2::Socket;

/// Sends a socket through `SCM_RIGHTS` and receives it again.
pub(super) fn through_a_message(socket: &Socket) -> io::Result<Socket> {
    receive(&send(socket)?)
}

/// Sends a socket to the reader of the returned Unix socket.
fn send(socket: &Socket) -> io::Result<UnixStream> {
    let (one, other) = UnixStream::pair()?;
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
    Ok(other)
}

/// Receives a socket.
pub(super) fn receive(message: &UnixStream) -> io::Result<Socket> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut byte)];
    recvmsg(message, &mut slices, &mut control, RecvFlags::empty())?;
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(received.ok_or(io::ErrorKind::InvalidData)?.into())
}

/// A process of another Pod or user, as a thread with a namespace and credentials of its own.
pub(super) struct OtherProcess<'a> {
    netns: Option<&'a Path>,
    user: Option<u32>,
}

impl<'a> OtherProcess<'a> {
    /// In this network namespace, or the caller's; with this user and group, or the caller's.
    pub(super) fn new(netns: Option<&'a Path>, user: Option<u32>) -> Self {
        Self { netns, user }
    }

    /// Runs `work` as that process.
    pub(super) fn run<R: Send>(
        &self,
        work: impl FnOnce() -> io::Result<R> + Send,
    ) -> io::Result<R> {
        let netns = self.netns.map(File::open).transpose()?;
        let work = move || {
            if let Some(netns) = netns {
                setns(netns, CloneFlags::CLONE_NEWNET)?;
            }
            if let Some(id) = self.user {
                set_thread_groups(&[])?;
                set_thread_gid(Gid::from_raw(id))?;
                set_thread_uid(Uid::from_raw(id))?;
            }
            work()
        };
        let outcome = thread::scope(|scope| scope.spawn(work).join());
        outcome.map_err(|_| io::Error::other("the thread panicked"))?
    }

    /// Sends the socket that this process makes.
    pub(super) fn send(
        &self,
        make: impl FnOnce() -> io::Result<Socket> + Send,
    ) -> io::Result<UnixStream> {
        self.run(|| send(&make()?))
    }
}
