//! Repeats one system call, so that its cost in the kernel can be measured.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use nix::{
    sys::socket::{getsockopt, sockopt},
    unistd::{Gid, Uid, setgid, setresgid, setresuid, setuid},
};
use socket2::SockRef;

/// Connect to a listener of this process; without an address, request a socket option.
#[derive(Args)]
pub(crate) struct SyscallLoop {
    /// The destination, which leads to the listener.
    #[arg(long)]
    to: Option<SocketAddr>,
    /// The address of its listener.
    #[arg(long, default_value_t = 0)]
    listen: u16,
    #[arg(long)]
    count: u32,
    /// The user that makes the listener: the proxy's ports are reserved for it. Needs root.
    #[arg(long, requires = "user")]
    owner: Option<u32>,
    /// The user that connects.
    #[arg(long)]
    user: Option<u32>,
}

impl SyscallLoop {
    /// Makes the listener, then the calls.
    pub(crate) fn run(self) -> Result<()> {
        let listener = self.listener()?;
        if let Some(user) = self.user {
            setgid(Gid::from_raw(user))?;
            setuid(Uid::from_raw(user))?;
        }
        (0..self.count).try_for_each(|_| match self.to {
            Some(to) => connect(to, &listener),
            // An option that no program handles.
            None => Ok(getsockopt(&listener, sockopt::ReuseAddr).map(drop)?),
        })
    }

    fn listener(&self) -> Result<TcpListener> {
        if let Some(owner) = self.owner {
            become_user(owner)?;
        }
        let listener = TcpListener::bind(("0.0.0.0", self.listen))?;
        if self.owner.is_some() {
            become_user(0)?;
        }
        Ok(listener)
    }
}

/// Becomes a user and its group, with root as the saved IDs.
fn become_user(id: u32) -> Result<()> {
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    let (root, wheel) = (Uid::from_raw(0), Gid::from_raw(0));
    // The order that is permitted in both directions: root changes the group.
    if id == 0 {
        setresuid(user, user, root)?;
        return Ok(setresgid(group, group, wheel)?);
    }
    setresgid(group, group, wheel)?;
    Ok(setresuid(user, user, root)?)
}

/// Accepts in the same thread, so that nothing else runs meanwhile, and leaves no `TIME_WAIT`.
fn connect(to: SocketAddr, listener: &TcpListener) -> Result<()> {
    let client = TcpStream::connect(to)?;
    let _accepted = listener.accept()?;
    Ok(SockRef::from(&client).set_linger(Some(Duration::ZERO))?)
}
