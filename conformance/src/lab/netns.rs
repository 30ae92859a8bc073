//! Network namespaces with names, as `ip netns` makes them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Result;

use crate::{inside::Place, lab::process::output};

const LIMIT: Duration = Duration::from_secs(10);

/// A network namespace. Dropping it removes its name.
pub(crate) struct Netns {
    name: String,
    path: PathBuf,
    removed: bool,
}

impl Netns {
    /// Makes it, with `lo` up and addresses that are usable at once.
    pub(crate) fn create(name: String) -> Result<Self> {
        output(Command::new("ip").args(["netns", "add", &name]), LIMIT)?;
        let netns = Self {
            path: Path::new("/run/netns").join(&name),
            name,
            removed: false,
        };
        // Duplicate address detection would keep an IPv6 address unusable for two seconds.
        // Applications, which are not root, serve low ports.
        let quiet = "for conf in all default; do \
                     echo 0 >/proc/sys/net/ipv6/conf/$conf/accept_dad; done; \
                     echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start";
        output(
            netns
                .place()
                .command(Path::new("/bin/sh"))?
                .args(["-c", quiet]),
            LIMIT,
        )?;
        output(
            Command::new("ip").args(["-n", &netns.name, "link", "set", "lo", "up"]),
            LIMIT,
        )?;
        Ok(netns)
    }

    /// Where it can be opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The content of a file below `/proc` as this namespace shows it; empty if it has none.
    pub(crate) fn read(&self, file: &str) -> Result<String> {
        let script = format!("[ ! -e {file} ] || cat {file}");
        output(
            self.place()
                .command(Path::new("/bin/sh"))?
                .args(["-c", &script]),
            LIMIT,
        )
    }

    /// The network interfaces in it, without `lo`.
    pub(crate) fn interfaces(&self) -> Result<Vec<String>> {
        let links = output(
            Command::new("ip").args(["-n", &self.name, "-br", "link"]),
            LIMIT,
        )?;
        let names = links
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        Ok(names
            .filter(|name| *name != "lo")
            .map(ToOwned::to_owned)
            .collect())
    }

    /// Runs `ip` in it, with arguments that are separated by blanks.
    pub(crate) fn ip(&self, arguments: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(arguments.split(' '));
        output(&mut command, LIMIT).map(drop)
    }

    /// Lets it route between its links.
    pub(crate) fn forward(&self) -> Result<()> {
        let script = "echo 1 >/proc/sys/net/ipv4/ip_forward; \
                      echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
        let mut command = self.place().command(Path::new("/bin/sh"))?;
        output(command.args(["-ec", script]), LIMIT).map(drop)
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Removes the name. The namespace goes with its last process.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.delete()
    }

    fn place(&self) -> Place<'_> {
        Place {
            netns: Some(&self.path),
            ..Place::default()
        }
    }

    fn delete(&mut self) -> Result<()> {
        self.removed = true;
        output(
            Command::new("ip").args(["netns", "delete", &self.name]),
            LIMIT,
        )
        .map(drop)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.removed {
            let _ = self.delete();
        }
    }
}
