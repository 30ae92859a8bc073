//! What Istio's container `istio-validation` does before a Pod's own containers start: it listens
//! where the sidecar will listen, and connects as the sidecar's user to a port without a listener. If
//! the traffic is redirected it talks to itself.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sys::socket::{getsockopt, sockopt};

/// Only on this address, unlike the sidecar.
const LISTEN: Ipv4Addr = Ipv4Addr::LOCALHOST;
const PORTS: [u16; 2] = [15001, 15006];
/// An address without a listener.
const PROBE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 6), 15002);
const PATIENCE: Duration = Duration::from_secs(5);

/// Check that traffic is redirected.
#[derive(Args)]
pub struct Validate;

impl Validate {
    /// Fails if it is not.
    #[expect(clippy::unused_self, reason = "as every job of the lab is run")]
    pub fn run(self) -> Result<()> {
        for port in PORTS {
            let listener = TcpListener::bind((LISTEN, port))?;
            thread::spawn(move || listener.incoming().flatten().try_for_each(answer));
        }
        let mut stream = TcpStream::connect_timeout(&PROBE.into(), PATIENCE)
            .with_context(|| format!("nothing answers for {PROBE}: traffic is not redirected"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut port = String::new();
        stream.read_to_string(&mut port)?;
        ensure!(
            port == PROBE.port().to_string(),
            "the original port is {port}, not {}",
            PROBE.port()
        );
        println!("redirected");
        Ok(())
    }
}

/// Answers with the port that the client requested.
fn answer(mut stream: TcpStream) -> Result<()> {
    let original = getsockopt(&stream, sockopt::OriginalDst)?;
    write!(stream, "{}", u16::from_be(original.sin_port))?;
    Ok(())
}
