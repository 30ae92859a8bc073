//! The application of a Pod: reports its name and its peer.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use serde::{Deserialize, Serialize};

/// Serve on some ports.
#[derive(Args)]
pub struct Serve {
    #[arg(long)]
    name: String,
    #[arg(long = "port", required = true)]
    ports: Vec<u16>,
}

/// The body of every answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Greeting {
    /// The Pod that answers.
    pub pod: String,
    /// The client, as the server sees it.
    pub source: SocketAddr,
    /// The address at which it was reached.
    pub local: SocketAddr,
}

/// Printed once every port is open.
pub const READY: &str = "ready";

impl Serve {
    /// Serves until it is ended.
    pub fn run(self) -> Result<()> {
        let Self { name, ports } = self;
        let wildcards = [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ];
        for (port, ip) in ports
            .iter()
            .flat_map(|port| wildcards.map(|ip| (*port, ip)))
        {
            let at = SocketAddr::new(ip, port);
            let listener = open(at).with_context(|| format!("cannot listen on {at}"))?;
            let name = name.clone();
            thread::spawn(move || accept(&listener, &name));
        }
        println!("{READY}");
        loop {
            thread::park();
        }
    }
}

/// One family each: a dual-stack socket would show IPv4 clients as v4-mapped ones.
fn open(at: SocketAddr) -> Result<TcpListener> {
    let family = if at.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if at.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&fd),
        &SockaddrStorage::from(at),
    )?;
    listen(&fd, Backlog::new(128)?)?;
    Ok(TcpListener::from(fd))
}

fn accept(listener: &TcpListener, name: &str) {
    for stream in listener.incoming().flatten() {
        let name = name.to_owned();
        thread::spawn(move || {
            // A client that goes away in the middle has seen enough.
            let _ = answer(stream, name);
        });
    }
}

/// Responds until the client closes the connection or requests its end.
fn answer(mut stream: TcpStream, pod: String) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let greeting = Greeting {
        pod,
        source: stream.peer_addr()?,
        local: stream.local_addr()?,
    };
    let body = serde_json::to_string(&greeting)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(last) = request(&mut reader)? {
        let connection = if last { "close" } else { "keep-alive" };
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: {connection}\r\n\r\n{body}",
            body.len()
        )?;
        if last {
            break;
        }
    }
    Ok(())
}

/// Reads the head of a request. Returns whether it ends the connection; `None` without a request.
fn request(reader: &mut impl BufRead) -> Result<Option<bool>> {
    let mut last = false;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        if line.trim_end().is_empty() {
            return Ok(Some(last));
        }
        last |= line.trim_end().eq_ignore_ascii_case("connection: close");
        line.clear();
    }
    Ok(None)
}
