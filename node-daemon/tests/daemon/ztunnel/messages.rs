//! The messages of ZDS as ztunnel reads and writes them, with its own view of the schema.

use std::{
    io::{IoSlice, IoSliceMut},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use prost::Message;

/// The message that ztunnel reads.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(message, optional, tag = "1")]
    pub(super) add: Option<Add>,
    #[prost(message, optional, tag = "2")]
    pub(super) del: Option<Del>,
    #[prost(message, optional, tag = "3")]
    pub(super) snapshot_sent: Option<Nothing>,
    #[prost(message, optional, tag = "5")]
    pub(super) keep: Option<Keep>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Add {
    #[prost(string, tag = "1")]
    pub(super) uid: String,
    #[prost(message, optional, tag = "2")]
    pub(super) info: Option<Info>,
}

/// The identity of a Pod.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Info {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) namespace: String,
    #[prost(string, tag = "3")]
    pub(super) service_account: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Del {
    #[prost(string, tag = "2")]
    pub(super) uid: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Keep {
    #[prost(string, tag = "1")]
    pub(super) uid: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Nothing {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(super) ack: Option<Ack>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Ack {
    #[prost(string, tag = "1")]
    pub(super) error: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Hello {
    #[prost(int32, tag = "1")]
    pub(super) version: i32,
}

/// Sends a message.
pub(super) fn send(stream: &OwnedFd, message: &impl Message) -> nix::Result<()> {
    send_with(stream, message, &[])
}

/// Sends a message with descriptors.
pub(super) fn send_with(
    stream: &OwnedFd,
    message: &impl Message,
    descriptors: &[RawFd],
) -> nix::Result<()> {
    let bytes = message.encode_to_vec();
    let rights = [ControlMessage::ScmRights(descriptors)];
    sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(&bytes)],
        if descriptors.is_empty() { &[] } else { &rights },
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map(drop)
}

/// The next message, with its descriptor. `None` at the end of the connection.
pub(super) fn receive<M: Message + Default>(stream: &OwnedFd) -> Option<(M, Option<OwnedFd>)> {
    let mut buffer = [0; 1024];
    let mut space = cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let received = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .ok()?;
    let bytes = received.bytes;
    let rights = received
        .cmsgs()
        .expect("control messages")
        .find_map(|message| match message {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
    // SAFETY: the kernel made this descriptor for this process, and nothing else owns it.
    let netns = rights.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    if bytes == 0 {
        return None;
    }
    Some((M::decode(&buffer[..bytes]).expect("a message"), netns))
}
