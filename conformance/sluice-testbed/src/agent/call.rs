//! A client: one connection, one request, and its observations.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::agent::serve::Greeting;

const PATIENCE: Duration = Duration::from_secs(3);

/// Call a server once.
#[derive(Args)]
pub struct Call {
    /// An address `::ffff:a.b.c.d` makes the socket an `AF_INET6` one.
    #[arg(long)]
    to: SocketAddr,
}

/// The observations of the client.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CallResult {
    /// `getpeername()` after `connect()`.
    pub peer: Option<SocketAddr>,
    /// `getsockname()` after `connect()`.
    pub local: Option<SocketAddr>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// The answer.
    pub greeting: Option<Greeting>,
    /// Name of the error, such as `ECONNREFUSED`.
    pub errno: Option<String>,
    /// From before `connect()` until the answer was read.
    pub millis: f64,
}

impl Call {
    /// Prints the observations; an error of the network is an answer, not a failure.
    pub fn run(self) -> Result<()> {
        let started = Instant::now();
        let mut heard = CallResult::default();
        if let Err(error) = talk(self.to, &mut heard) {
            let errno = error.raw_os_error().map(Errno::from_raw);
            heard.errno = Some(errno.map_or_else(|| error.to_string(), |e| format!("{e:?}")));
        }
        heard.millis = started.elapsed().as_secs_f64() * 1e3;
        println!("{}", serde_json::to_string(&heard)?);
        Ok(())
    }
}

fn talk(to: SocketAddr, heard: &mut CallResult) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    heard.peer = Some(stream.peer_addr()?);
    heard.local = Some(stream.local_addr()?);
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    heard.status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    heard.greeting = answer
        .split_once("\r\n\r\n")
        .and_then(|(_, body)| serde_json::from_str(body).ok());
    Ok(())
}
