//! A client with many connections on which nothing happens.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
};

use anyhow::Result;
use clap::Args;
use sluice_testbed::agent::serve::READY;

/// Hold connections to a server that echoes.
#[derive(Args)]
pub(crate) struct IdleConns {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    count: u16,
}

impl IdleConns {
    /// Holds them until it is ended.
    pub(crate) fn run(self) -> Result<()> {
        let streams = (0..self.count).map(|_| open(self.to));
        let _held = streams.collect::<Result<Vec<_>>>()?;
        println!("{READY}");
        loop {
            thread::park();
        }
    }
}

/// What a byte has gone through is complete.
fn open(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(b"e")?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}
