//! Sockets, listeners and rings that pass between processes of two Pods, or of two users of one Pod.
//!
//! A thread with a network namespace and credentials of its own stands for the other process; what it
//! receives comes by `SCM_RIGHTS`. A ring does not: the kernel refuses rings in messages since Linux
//! 6.7, so that it passes by `fork(2)` or `pidfd_getfd(2)`, which share the ring like two threads.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    thread,
};

use io_uring::IoUring;
use sluice_lab::CLIENT;
use sluice_testbed::agent::echo_server::ListenResult;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    HELLO, LISTENER, PATIENCE,
    attempt::{Handover, Try},
    pass::{OtherProcess, receive},
    read_name, uring,
};

/// The user and group of Istio's sidecars.
const PROXY: u32 = 1337;
/// The proxy's outbound port.
const PROXY_PORT: u16 = 15_001;

impl Try {
    /// The attempt starts as root, who may start the other processes.
    pub(super) fn hand_over(&self, how: Handover) -> io::Result<String> {
        let elsewhere = Some(self.elsewhere.as_path());
        let application = OtherProcess::new(None, Some(CLIENT));
        let proxy_user = OtherProcess::new(None, Some(PROXY));
        let foreign = OtherProcess::new(elsewhere, Some(CLIENT));
        let foreign_proxy_user = OtherProcess::new(elsewhere, Some(PROXY));
        match how {
            Handover::Away => self.connected_by(&application, &foreign),
            Handover::In => self.connected_by(&foreign, &application),
            Handover::AwayToProxyUser => self.connected_by(&application, &foreign_proxy_user),
            Handover::ToProxyUser => self.connected_by(&application, &proxy_user),
            Handover::FromProxyUser => self.connected_by(&proxy_user, &application),
            Handover::ConnectedAway => self.used_by(&application, &foreign),
            Handover::ConnectedIn => self.used_by(&foreign, &application),
            Handover::ListenerAway => self.accepted_by(&application, &foreign),
            Handover::ListenerIn => self.accepted_by(&foreign, &application),
            Handover::BoundAway => self.bound_by(&application, &foreign_proxy_user),
            Handover::RingAway => self.submitted_by(&application, &foreign_proxy_user),
            Handover::RingIn => self.submitted_by(&foreign, &application),
            Handover::RingCredentials => self.with_credentials(&application, &proxy_user, false),
            Handover::RingSocket => self.with_credentials(&application, &proxy_user, true),
        }
    }

    fn stream_socket(&self) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, None)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// `maker` creates the socket; `other` connects it and reads who answers.
    fn connected_by(
        &self,
        maker: &OtherProcess<'_>,
        other: &OtherProcess<'_>,
    ) -> io::Result<String> {
        let message = maker.send(|| self.stream_socket())?;
        let to = SockAddr::from(self.to()?);
        other.run(|| {
            let socket = receive(&message)?;
            socket.connect(&to)?;
            ask(socket)
        })
    }

    /// `maker` connects; `other` reads who answers.
    fn used_by(&self, maker: &OtherProcess<'_>, other: &OtherProcess<'_>) -> io::Result<String> {
        let to = SockAddr::from(self.to()?);
        let message = maker.send(|| {
            let socket = self.stream_socket()?;
            socket.connect(&to)?;
            Ok(socket)
        })?;
        other.run(|| ask(receive(&message)?))
    }

    /// `maker` listens, `other` accepts and answers a client from elsewhere.
    fn accepted_by(
        &self,
        maker: &OtherProcess<'_>,
        other: &OtherProcess<'_>,
    ) -> io::Result<String> {
        let message = maker.send(|| {
            let socket = self.stream_socket()?;
            socket.set_reuse_address(true)?;
            socket.bind(&self.any(self.to.port()).into())?;
            socket.listen(1)?;
            Ok(socket)
        })?;
        let listener = receive(&message)?;
        let client = OtherProcess::new(Some(&self.elsewhere), Some(CLIENT));
        thread::scope(|scope| {
            let acceptor = scope.spawn(|| other.run(|| answer(&listener)));
            let answered = client.run(|| {
                let socket = self.stream_socket()?;
                socket.connect(&self.to()?.into())?;
                ask(socket)
            });
            // It fails if the sidecar accepted.
            drop(acceptor.join());
            answered
        })
    }

    /// `maker` makes the socket, `other` binds the proxy's port and listens. The goal is the listener.
    fn bound_by(&self, maker: &OtherProcess<'_>, other: &OtherProcess<'_>) -> io::Result<String> {
        let message = maker.send(|| self.stream_socket())?;
        other.run(|| {
            let socket = receive(&message)?;
            socket.bind(&self.any(PROXY_PORT).into())?;
            socket.listen(1)?;
            Ok(LISTENER.to_owned())
        })
    }

    /// `maker` registers a socket with a ring, `other` submits its `connect()`.
    fn submitted_by(
        &self,
        maker: &OtherProcess<'_>,
        other: &OtherProcess<'_>,
    ) -> io::Result<String> {
        let to = SockAddr::from(self.to()?);
        let (mut ring, socket) = maker.run(|| {
            let (ring, socket) = (IoUring::new(2)?, self.stream_socket()?);
            uring::register(&ring, &socket)?;
            Ok((ring, socket))
        })?;
        other.run(|| uring::connect_registered(&mut ring, &to))?;
        ask(socket)
    }

    /// `lender` registers its credentials with a ring, `borrower` connects by them; `makes`: they also
    /// make the socket.
    fn with_credentials(
        &self,
        borrower: &OtherProcess<'_>,
        lender: &OtherProcess<'_>,
        makes: bool,
    ) -> io::Result<String> {
        let to = SockAddr::from(self.to()?);
        let mut ring = borrower.run(|| IoUring::new(2))?;
        let credentials = lender.run(|| ring.submitter().register_personality())?;
        borrower.run(|| {
            let socket = if makes {
                uring::socket(&mut ring, Domain::for_address(self.to), credentials)?
            } else {
                self.stream_socket()?
            };
            socket.set_read_timeout(Some(PATIENCE))?;
            uring::register(&ring, &socket)?;
            uring::connect_as(&mut ring, &to, credentials)?;
            ask(socket)
        })
    }
}

/// The process that answers on a connected socket.
fn ask(socket: Socket) -> io::Result<String> {
    let mut stream = TcpStream::from(socket);
    stream.write_all(HELLO)?;
    read_name(stream)
}

/// Accepts one connection and answers it.
fn answer(listener: &Socket) -> io::Result<()> {
    let (stream, source) = listener.accept()?;
    let mut stream = TcpStream::from(stream);
    // Data that is unread at the end would reset the connection.
    let _hello = stream.read(&mut [0; 64])?;
    let unknown = || io::Error::from(io::ErrorKind::InvalidData);
    let name = ListenResult {
        by: LISTENER.to_owned(),
        source: source.as_socket().ok_or_else(unknown)?,
        local: stream.local_addr()?,
        original: None,
    };
    serde_json::to_writer(stream, &name).map_err(io::Error::from)
}
