//! `sluiced check-kernel`: checks whether this kernel accepts the programs.

use std::{io::Write as _, os::fd::AsFd as _};

use anyhow::Context as _;
use nix::sys::utsname::uname;

use crate::{
    bpf::{self, Datapath, Features, Options, Pins, PrivateBpffs, RawSockets},
    cgroup,
    config::CheckKernelArgs,
    netns,
};

/// Loads and attaches every program, to the cgroup and to a temporary netns. The pins are in a
/// private bpffs that ends with this process, and so do the hooks.
pub(crate) fn run(args: CheckKernelArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let kernel = uname().context("uname")?;
    let release = kernel.release().to_string_lossy().into_owned();
    writeln!(out, "kernel release {release}")?;

    let cgroup = cgroup::choose(args.cgroup)?;
    writeln!(out, "cgroup {}", cgroup.display())?;
    let private = PrivateBpffs::mount().context("a BPF file system cannot be mounted")?;
    let pins = Pins::open(&private.directory())?;
    let kernel_offsets = bpf::kernel_offsets();
    match &kernel_offsets {
        Ok(_) => writeln!(out, "feature acceleration yes")?,
        Err(error) => writeln!(out, "feature acceleration no: {error}")?,
    }
    let options = Options {
        kernel_offsets: kernel_offsets.ok(),
        raw_sockets: RawSockets::Deny,
    };
    let mut datapath = Datapath::open(pins, &cgroup, options)?;
    let Features {
        mptcp,
        ingress,
        splice,
        creds,
    } = datapath.features();
    writeln!(out, "feature mptcp {}", yes(mptcp))?;
    writeln!(out, "feature excluded interfaces {}", yes(ingress))?;
    writeln!(
        out,
        "feature splice detection {}",
        yes(splice == Some(true))
    )?;
    writeln!(out, "feature socket creators {}", yes(creds.valid != 0))?;
    for program in datapath.programs()? {
        writeln!(out, "program {} loads", program.name)?;
    }
    writeln!(out, "the cgroup's programs attach")?;

    let namespace = netns::new_netns()?;
    datapath.attach_sk_lookup(1, namespace.as_fd())?;
    writeln!(out, "the inbound hook attaches to a network namespace")?;
    writeln!(
        out,
        "kernel {}: all programs load and attach",
        series(&release)
    )?;
    Ok(())
}

fn yes(found: bool) -> &'static str {
    if found { "yes" } else { "no" }
}

/// `6.1.0-18-amd64` → `6.1`.
fn series(release: &str) -> String {
    let numbers = release.split(|c: char| !c.is_ascii_digit());
    numbers.take(2).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_is_the_first_two_numbers() {
        assert_eq!(series("6.1.0-18-amd64"), "6.1");
        assert_eq!(series("6.18.44-fc"), "6.18");
    }
}
