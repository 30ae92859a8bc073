//! Repeats one system call, so that its cost can be measured.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::{
    sys::socket::{getsockopt, sockopt},
    unistd::{Gid, Uid, setgid, setresgid, setresuid, setuid},
};
use sluice_testbed::agent::serve::READY;
use socket2::SockRef;

use crate::statistics::median;

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
    /// Destinations, which take turns: the address with this port and those above it.
    #[arg(long, default_value_t = 1)]
    destinations: u16,
    /// Print how long `connect` took, the median in ns.
    #[arg(long)]
    time: bool,
    /// Leave the connections open until this process is ended.
    #[arg(long)]
    hold: bool,
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
        let Some(to) = self.to else {
            // An option that no program handles.
            return (0..self.count)
                .try_for_each(|_| Ok(getsockopt(&listener, sockopt::ReuseAddr).map(drop)?));
        };
        self.connect(to, &listener)
    }

    fn connect(&self, to: SocketAddr, listener: &TcpListener) -> Result<()> {
        let (mut nanos, mut held) = (Vec::new(), Vec::new());
        for number in 0..self.count {
            let to = SocketAddr::new(to.ip(), to.port() + self.destination(number));
            let begin = Instant::now();
            let client = TcpStream::connect(to)?;
            if self.time {
                nanos.push(begin.elapsed().as_secs_f64() * 1e9);
            }
            // In the same thread, so that nothing else runs meanwhile.
            let (accepted, _) = listener.accept()?;
            if self.hold {
                held.push((client, accepted));
            } else {
                // Leaves no `TIME_WAIT`.
                SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
            }
        }
        if self.time {
            println!("{}", median(&nanos).context("no connection")?);
        }
        if self.hold {
            println!("{READY}");
            loop {
                thread::park();
            }
        }
        Ok(())
    }

    /// The number of a connection's destination: each in turn, or evenly distributed ones of many.
    fn destination(&self, number: u32) -> u16 {
        let destinations = u32::from(self.destinations);
        let place = match self.count.checked_div(destinations) {
            Some(0) => u64::from(number) * u64::from(destinations) / u64::from(self.count),
            _ => u64::from(number % destinations.max(1)),
        };
        u16::try_from(place).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_connections_reach_all_of_many_destinations_evenly() {
        let reached = |count, destinations| {
            let repeat = SyscallLoop {
                to: None,
                listen: 0,
                count,
                destinations,
                time: false,
                hold: false,
                owner: None,
                user: None,
            };
            (0..count)
                .map(|number| repeat.destination(number))
                .collect::<Vec<_>>()
        };
        assert_eq!(reached(4, 2), [0, 1, 0, 1]);
        assert_eq!(reached(4, 20_000), [0, 5000, 10_000, 15_000]);
        assert_eq!(reached(2, 1), [0, 0]);
    }
}
