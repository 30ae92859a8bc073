//! A client that connects to many destinations, once to each.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use clap::Args;
use socket2::{Domain, Socket, Type};

/// Connect to many destinations and leave each at once.
#[derive(Args)]
pub(crate) struct Flood {
    /// Their number.
    #[arg(long)]
    count: u32,
}

impl Flood {
    /// Prints how many sockets it had.
    pub(crate) fn run(&self) -> Result<()> {
        let first = u32::from(Ipv4Addr::new(198, 18, 0, 2));
        let mut made = 0;
        for one in 0..self.count {
            let to = SocketAddr::from((Ipv4Addr::from(first + one), 80));
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            // The redirection happens in the call; how the connection ends does not matter.
            let _in_progress = socket.connect(&to.into());
            made += 1;
        }
        println!("{made}");
        Ok(())
    }
}
