//! Network namespaces with names, as `ip netns` makes them.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{agent::ExecContext, process::output};

const LIMIT: Duration = Duration::from_secs(10);
/// Where the user namespaces are mounted that own network namespaces of the lab.
const USERS: &str = "/run/sluice-users";
/// Users inside such a namespace, and outside: first inside, first outside, how many.
const MAP: &str = "0 100000 65536";

/// A network namespace. Dropping it removes its name.
pub struct Netns {
    name: String,
    path: PathBuf,
    removed: bool,
}

impl Netns {
    /// Makes it, with `lo` up and addresses that are usable at once.
    pub fn create(name: String) -> Result<Self> {
        output(Command::new("ip").args(["netns", "add", &name]), LIMIT)?;
        Self::named(name).furnish()
    }

    /// The same, with users of its own, as of a Pod with `hostUsers: false`.
    pub fn with_users(name: String) -> Result<Self> {
        let mut holder = Command::new("unshare")
            .args(["--user", "--net", "sleep", "60"])
            .spawn()?;
        let made = Self::of(name, &mut holder);
        holder.kill()?;
        holder.wait()?;
        made?.furnish()
    }

    /// Names the namespaces of a process.
    fn of(name: String, holder: &mut Child) -> Result<Self> {
        let proc = PathBuf::from(format!("/proc/{}", holder.id()));
        let (own, users) = (fs::read_link("/proc/self/ns/user")?, proc.join("ns/user"));
        let end = Instant::now() + LIMIT;
        while fs::read_link(&users)? == own {
            ensure!(Instant::now() < end, "no user namespace can be made");
            thread::sleep(Duration::from_millis(2));
        }
        for map in ["uid_map", "gid_map"] {
            fs::write(proc.join(map), MAP).context("users cannot be mapped")?;
        }
        let pid = holder.id().to_string();
        let mut attach = Command::new("ip");
        output(attach.args(["netns", "attach", &name, &pid]), LIMIT)?;
        let netns = Self::named(name);
        fs::create_dir_all(USERS)?;
        let point = owner(&netns.path);
        File::create(&point)?;
        mount(
            Some(&users),
            &point,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        Ok(netns)
    }

    fn named(name: String) -> Self {
        Self {
            path: Path::new("/run/netns").join(&name),
            name,
            removed: false,
        }
    }

    fn furnish(self) -> Result<Self> {
        let netns = self;
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
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of a file below `/proc` as this namespace shows it; empty if it has none.
    pub fn read(&self, file: &str) -> Result<String> {
        let script = format!("[ ! -e {file} ] || cat {file}");
        output(
            self.place()
                .command(Path::new("/bin/sh"))?
                .args(["-c", &script]),
            LIMIT,
        )
    }

    /// The network interfaces in it, without `lo`.
    pub fn interfaces(&self) -> Result<Vec<String>> {
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
    pub fn ip(&self, arguments: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(arguments.split(' '));
        output(&mut command, LIMIT).map(drop)
    }

    /// Lets it route between its links.
    pub fn forward(&self) -> Result<()> {
        let script = "echo 1 >/proc/sys/net/ipv4/ip_forward; \
                      echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
        let mut command = self.place().command(Path::new("/bin/sh"))?;
        output(command.args(["-ec", script]), LIMIT).map(drop)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes the name. The namespace goes with its last process.
    pub fn remove(mut self) -> Result<()> {
        self.delete()
    }

    fn place(&self) -> ExecContext<'_> {
        ExecContext {
            netns: Some(&self.path),
            ..ExecContext::default()
        }
    }

    fn delete(&mut self) -> Result<()> {
        self.removed = true;
        let users = owner(&self.path);
        if users.exists() {
            umount2(&users, MntFlags::MNT_DETACH)?;
            fs::remove_file(&users)?;
            // Another Pod's may be there still.
            let _ = fs::remove_dir(USERS);
        }
        output(
            Command::new("ip").args(["netns", "delete", &self.name]),
            LIMIT,
        )
        .map(drop)
    }
}

/// Where the user namespace is mounted that owns a network namespace, if it is not ours.
pub fn owner(netns: &Path) -> PathBuf {
    Path::new(USERS).join(netns.file_name().unwrap_or_default())
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.removed {
            let _ = self.delete();
        }
    }
}
