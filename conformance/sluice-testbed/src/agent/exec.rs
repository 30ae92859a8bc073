//! Becoming a process of a Pod. `ip netns exec` would hide bpffs and the cgroups, so no mount
//! namespace is touched.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow};
use caps::{CapSet, Capability};
use clap::Args;
use nix::{
    sched::{CloneFlags, setns},
    sys::{
        prctl::{set_keepcaps, set_pdeathsig},
        signal::{SigSet, Signal},
    },
    unistd::{Gid, Uid, setgid, setgroups, setuid},
};

use crate::netns::owner;

/// Start a program elsewhere: in the user namespace that owns the network namespace, too.
#[derive(Args)]
pub struct Exec {
    #[arg(long)]
    netns: Option<PathBuf>,
    #[arg(long)]
    cgroup: Option<PathBuf>,
    #[arg(long)]
    user: Option<u32>,
    /// The user's number, unless another is given.
    #[arg(long)]
    group: Option<u32>,
    /// Keep the right to accept connections to addresses that are not the host's.
    #[arg(long)]
    transparent: bool,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Exec {
    /// Does not return unless something is wrong.
    pub fn run(self) -> Result<()> {
        let Self {
            netns,
            cgroup,
            user,
            group,
            transparent,
            command,
        } = self;
        let (program, arguments) = command.split_first().context("no program given")?;
        // Opened now: that user may not be able to reach the file by its path.
        let users = netns.as_deref().map(owner).filter(|users| users.exists());
        let user = user.or(users.is_some().then_some(0));
        let file = user.and_then(|_| File::open(program).ok());
        if let Some(cgroup) = cgroup {
            // "0" is the writer itself.
            fs::write(cgroup.join("cgroup.procs"), "0")
                .with_context(|| format!("cannot enter the cgroup {}", cgroup.display()))?;
        }
        if let Some(netns) = netns {
            enter(&netns, CloneFlags::CLONE_NEWNET)?;
        }
        if let Some(users) = users {
            enter(&users, CloneFlags::CLONE_NEWUSER)?;
        }
        if let Some(user) = user {
            set_keepcaps(transparent)?;
            setgroups(&[])?;
            setgid(Gid::from_raw(group.unwrap_or(user)))?;
            setuid(Uid::from_raw(user))?;
        }
        if transparent {
            keep(Capability::CAP_NET_ADMIN)?;
        }
        // The lab waits for its signals in a thread and blocks them; a blocked one stays blocked.
        SigSet::all().thread_unblock()?;
        // After setuid, which would clear it.
        set_pdeathsig(Signal::SIGTERM)?;
        let path = match &file {
            Some(file) => format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
            None => program.clone(),
        };
        let error = Command::new(path).arg0(program).args(arguments).exec();
        Err(anyhow!(error).context(format!("cannot run {}", Path::new(program).display())))
    }
}

/// Lets a capability survive the start of a program that has none of its own: capabilities(7).
fn keep(capability: Capability) -> Result<()> {
    for set in [CapSet::Inheritable, CapSet::Ambient] {
        caps::raise(None, set, capability).with_context(|| format!("cannot keep {capability}"))?;
    }
    Ok(())
}

fn enter(path: &Path, kind: CloneFlags) -> Result<()> {
    let namespace = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    setns(namespace, kind).with_context(|| format!("cannot enter {}", path.display()))
}
