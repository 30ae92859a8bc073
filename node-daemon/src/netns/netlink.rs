//! Bounded netlink requests in the calling thread's netns: its owner determines the size of
//! replies.

use std::{io, time::Duration};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike as _},
};

use super::Error;

/// The kernel replies at once; a later reply was lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A request.
pub(super) struct Request<'a> {
    /// The name of the netlink family, for errors.
    pub(super) family: &'static str,
    /// Its number.
    pub(super) protocol: isize,
    /// The type of the message.
    pub(super) kind: u16,
    /// The message without the header.
    pub(super) body: &'a [u8],
}

/// The limit of replies.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    /// Their kind.
    pub(super) what: &'static str,
    /// The maximum number.
    pub(super) most: usize,
}

impl Limit {
    /// # Errors
    ///
    /// [`Error::TooMany`] beyond the limit.
    pub(super) fn check(self, count: usize) -> Result<(), Error> {
        let Self { what, most: limit } = self;
        if count > limit {
            return Err(Error::TooMany { what, limit });
        }
        Ok(())
    }
}

impl<'a> Request<'a> {
    /// A request to rtnetlink.
    pub(super) fn rtnetlink(kind: u16, body: &'a [u8]) -> Self {
        Self {
            family: "NETLINK_ROUTE",
            protocol: NETLINK_ROUTE,
            kind,
            body,
        }
    }

    /// Passes the body of each reply of a dump to `take`.
    ///
    /// # Errors
    ///
    /// [`Error::TooMany`] beyond the limit; [`Error::Io`] if the kernel returns an error or does
    /// not reply.
    pub(super) fn dump(&self, limit: Limit, mut take: impl FnMut(&[u8])) -> Result<(), Error> {
        let mut count = 0;
        let done = self.reply(NLM_F_REQUEST | NLM_F_DUMP, &mut |body| {
            count += 1;
            if count <= limit.most {
                take(body);
            }
            count <= limit.most
        });
        done.map_err(|source| self.failed(source))?;
        limit.check(count)
    }

    /// Passes the body of the single reply to `take`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the kernel returns an error or does not reply.
    pub(super) fn ask(&self, mut take: impl FnMut(&[u8])) -> Result<(), Error> {
        self.reply(NLM_F_REQUEST, &mut |body| {
            take(body);
            false
        })
        .map_err(|source| self.failed(source))
    }

    /// Requests a change, and waits for the acknowledgement.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the kernel returns an error or does not reply.
    pub(super) fn act(&self) -> Result<(), Error> {
        self.act_with(0)
    }

    /// As [`Request::act`], with further flags of the message.
    pub(super) fn act_with(&self, flags: u16) -> Result<(), Error> {
        self.reply(NLM_F_REQUEST | NLM_F_ACK | flags, &mut |_| false)
            .map_err(|source| self.failed(source))
    }

    /// As [`Request::act_with`]. `false` if the kernel refuses the change.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the kernel does not reply.
    pub(super) fn attempt_with(&self, flags: u16) -> Result<bool, Error> {
        let reply = self.exchange(NLM_F_REQUEST | NLM_F_ACK | flags, &mut |_| false);
        let reply = reply.map_err(|source| self.failed(source))?;
        Ok(reply.is_ok())
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Io {
            what: self.family,
            source,
        }
    }

    fn reply(&self, flags: u16, take: &mut impl FnMut(&[u8]) -> bool) -> io::Result<()> {
        self.exchange(flags, take)?
    }

    /// The inner result is the kernel's reply.
    fn exchange(
        &self,
        flags: u16,
        take: &mut impl FnMut(&[u8]) -> bool,
    ) -> io::Result<io::Result<()>> {
        let socket = Socket::new(self.protocol)?;
        let patience = TimeVal::seconds(PATIENCE.as_secs().cast_signed());
        setsockopt(&socket, ReceiveTimeout, &patience)?;
        let mut message = vec![0; HEADER];
        let length = u32::try_from(HEADER + self.body.len()).map_err(io::Error::other)?;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message[4..6].copy_from_slice(&self.kind.to_ne_bytes());
        message[6..8].copy_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(self.body);
        socket.send_to(&message, &SocketAddr::new(0, 0), 0)?;
        loop {
            let (datagram, _) = socket.recv_from_full()?;
            match walk(&datagram, take) {
                Ok(true) => {}
                Ok(false) => return Ok(Ok(())),
                Err(refused) => return Ok(Err(refused)),
            }
        }
    }
}

/// Passes on the messages of one datagram. `false` after the last, or if `take` needs no more; an error
/// if the kernel refuses.
pub(super) fn walk(mut datagram: &[u8], take: &mut impl FnMut(&[u8]) -> bool) -> io::Result<bool> {
    while let Some((head, _)) = datagram.split_first_chunk::<HEADER>() {
        let [a, b, c, d, kind, kind_high, ..] = *head;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let body = datagram.get(HEADER..length).unwrap_or_default();
        match u16::from_ne_bytes([kind, kind_high]) {
            DONE => return Ok(false),
            ERROR => return refusal(body).map(|()| false),
            _ if !take(body) => return Ok(false),
            _ => {}
        }
        // Messages are aligned to four bytes (`netlink(7)`).
        datagram = datagram
            .get(length.next_multiple_of(4).max(HEADER)..)
            .unwrap_or_default();
    }
    Ok(true)
}

/// The error of an `NLMSG_ERROR`.
fn refusal(body: &[u8]) -> io::Result<()> {
    let code = body
        .first_chunk()
        .map_or(0, |code| i32::from_ne_bytes(*code));
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Four messages: two replies, the end, and one beyond it.
    fn datagram() -> Vec<u8> {
        let message = |kind: u16, body: &[u8]| {
            let length = u32::try_from(HEADER + body.len()).unwrap();
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(body);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        [
            message(16, b"one"),
            message(16, b"two"),
            message(DONE, &[]),
            message(16, b"beyond"),
        ]
        .concat()
    }

    #[test]
    fn walk_ends_at_done_and_when_enough_was_read() {
        for (most, expected) in [(9, 2), (1, 1)] {
            let mut found = Vec::new();
            let more = walk(&datagram(), &mut |body| {
                found.push(body.to_vec());
                found.len() < most
            });
            assert!(!more.unwrap());
            assert_eq!(found, [b"one".to_vec(), b"two".to_vec()][..expected]);
        }
    }

    #[test]
    fn error_messages_carry_the_errno() {
        let refused = refusal(&(-libc::EPERM).to_ne_bytes()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert!(refusal(&0_i32.to_ne_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn walk_accepts_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _either = walk(&bytes, &mut |_| true);
        }
    }
}
