//! Repeats one system call, so that its cost in the kernel can be measured.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use nix::sys::socket::{getsockopt, sockopt};
use socket2::SockRef;

/// Connect to a listener of this process; without an address, ask for a socket option.
#[derive(Args)]
pub(crate) struct SyscallLoop {
    /// What leads to the listener.
    #[arg(long)]
    to: Option<SocketAddr>,
    /// The address of its listener.
    #[arg(long, default_value_t = 0)]
    listen: u16,
    #[arg(long)]
    count: u32,
}

impl SyscallLoop {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let listener = TcpListener::bind(("0.0.0.0", self.listen))?;
        (0..self.count).try_for_each(|_| match self.to {
            Some(to) => connect(to, &listener),
            // An option that no program handles.
            None => Ok(getsockopt(&listener, sockopt::ReuseAddr).map(drop)?),
        })
    }
}

/// Accepts in the same thread, so that nothing else runs meanwhile, and leaves no `TIME_WAIT`.
fn connect(to: SocketAddr, listener: &TcpListener) -> Result<()> {
    let client = TcpStream::connect(to)?;
    let _accepted = listener.accept()?;
    Ok(SockRef::from(&client).set_linger(Some(Duration::ZERO))?)
}
