//! A sidecar that does as little as one can: bytes from one side to the other.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::Result;
use clap::Args;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream};

use crate::agent::bench_server::serve;

/// Pass connections on.
#[derive(Clone, Args)]
pub(crate) struct MinProxy {
    #[arg(long)]
    port: u16,
    /// Where to; without it, to where the client wanted to go.
    #[arg(long)]
    to: Option<SocketAddr>,
    /// From which address.
    #[arg(long)]
    from: Option<IpAddr>,
}

impl MinProxy {
    /// Relays until it is ended.
    pub(crate) fn run(self) -> Result<()> {
        serve(&[self.port], move |client| {
            let relay = self.clone();
            async move {
                // Either end may go away at any time: that is the end of the connection.
                let _ = relay.pass(client).await;
            }
        })
    }

    async fn pass(&self, mut client: TcpStream) -> Result<()> {
        let to = match self.to {
            Some(to) => to,
            None => original(&client)?,
        };
        let socket = TcpSocket::new_v4()?;
        if let Some(from) = self.from {
            socket.bind((from, 0).into())?;
        }
        let mut server = socket.connect(to).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        Ok(())
    }
}

fn original(client: &TcpStream) -> Result<SocketAddr> {
    let address = getsockopt(client, sockopt::OriginalDst)?;
    let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
    Ok(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
}
