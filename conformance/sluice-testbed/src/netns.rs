//! Named network namespaces, as `ip netns` creates them, for Pods, nodes and hosts.

use std::{
    fs::{self, File},
    mem,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use netns_rs::NetNs;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::process::output;

const LIMIT: Duration = Duration::from_secs(10);
/// The directory of the mounted user namespaces that own network namespaces of the lab.
const USERS: &str = "/run/sluice-users";
/// Users inside such a namespace, and outside: first inside, first outside, how many.
const MAP: &str = "0 100000 65536";
/// The host's ID of user 0 in such a namespace.
pub const FIRST_USER: u32 = 100_000;

/// A network namespace. Dropping it removes its name.
pub struct Netns {
    name: String,
    path: PathBuf,
    removed: bool,
}

impl Netns {
    /// Makes it, with `lo` up and addresses that are usable at once.
    pub fn create(name: String) -> Result<Self> {
        // Not kept open: the namespace must go with its name and its last process.
        drop(NetNs::new(&name).with_context(|| format!("cannot make the netns {name}"))?);
        Self::named(name).configure()
    }

    /// The same, with users of its own, as of a Pod with `hostUsers: false`.
    pub fn with_users(name: String) -> Result<Self> {
        let mut holder = Command::new("unshare")
            .args(["--user", "--net", "sleep", "60"])
            .spawn()?;
        let made = Self::of(name, &mut holder);
        holder.kill()?;
        holder.wait()?;
        made?.configure()
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

    fn configure(self) -> Result<Self> {
        let netns = self;
        netns.run(|| {
            // Duplicate address detection would keep an IPv6 address unusable for two seconds.
            for conf in ["all", "default"] {
                fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/accept_dad"), "0")?;
            }
            // Applications, which are not root, serve low ports.
            fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
        })??;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Runs `work` inside, in a thread of its own: a panic leaves no thread of the caller there.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R> {
        let netns = self.open()?;
        let ran = thread::scope(|scope| scope.spawn(|| netns.run(|_| work())).join());
        let ran = ran.unwrap_or_else(|panic| resume_unwind(panic));
        ran.with_context(|| format!("cannot enter the netns {}", self.name))
    }

    fn open(&self) -> Result<NetNs> {
        NetNs::get(&self.name).with_context(|| format!("cannot open the netns {}", self.name))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of a file below `/proc` as this namespace shows it; empty if it has none.
    pub fn read(&self, file: &str) -> Result<String> {
        // `/proc/net` and `/proc/self` are those of the main thread, which stays outside.
        let file = file.replacen("/proc/net/", "/proc/thread-self/net/", 1);
        self.run(|| match fs::read_to_string(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            read => read.with_context(|| file.clone()),
        })?
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
        self.run(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })?
        .context("cannot forward")
    }

    /// Keeps it from redirecting hosts of a link to another router there (ICMP). They would remember it longer
    /// than the route exists.
    pub fn send_no_redirects(&self) -> Result<()> {
        self.run(|| {
            for interface in fs::read_dir("/proc/sys/net/ipv4/conf")? {
                fs::write(interface?.path().join("send_redirects"), "0")?;
            }
            Ok::<_, std::io::Error>(())
        })?
        .context("cannot switch redirects off")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes the name. The namespace ends with its last process.
    pub fn remove(mut self) -> Result<()> {
        self.delete()
    }

    fn delete(&mut self) -> Result<()> {
        if mem::replace(&mut self.removed, true) {
            return Ok(());
        }
        let users = owner(&self.path);
        if users.exists() {
            umount2(&users, MntFlags::MNT_DETACH)?;
            fs::remove_file(&users)?;
            // Another Pod's may be there still.
            let _ = fs::remove_dir(USERS);
        }
        self.open()?
            .remove()
            .with_context(|| format!("cannot remove the netns {}", self.name))
    }
}

/// The mount point of the user namespace that owns a network namespace, if it is not ours.
pub fn owner(netns: &Path) -> PathBuf {
    Path::new(USERS).join(netns.file_name().unwrap_or_default())
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = self.delete();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn netns(test: &str) -> Result<Netns> {
        Netns::create(format!("sluice-testbed-{test}-{}", std::process::id()))
    }

    #[test]
    fn closure_runs_inside_the_netns() -> Result<()> {
        let netns = netns("run")?;
        let here = || fs::read_link("/proc/thread-self/ns/net");
        let before = here()?;
        let inside = netns.run(here)??;
        assert_ne!(inside, before);
        assert_eq!(here()?, before);
        assert!(netns.read("/proc/net/dev")?.contains("lo:"));
        netns.remove()
    }

    #[test]
    fn panic_inside_reaches_the_caller_outside() -> Result<()> {
        let netns = netns("panic")?;
        let before = fs::read_link("/proc/thread-self/ns/net")?;
        let panicked = std::panic::catch_unwind(|| netns.run(|| resume_unwind(Box::new("inside"))));
        assert!(panicked.is_err());
        assert_eq!(fs::read_link("/proc/thread-self/ns/net")?, before);
        Ok(())
    }

    #[test]
    fn dropped_namespace_loses_its_name() -> Result<()> {
        let path = netns("drop")?.path().to_owned();
        assert!(!path.exists());
        Ok(())
    }
}
