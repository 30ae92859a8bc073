//! `sluiced check-kernel`: tests whether this kernel supports Sluice, by loading and attaching the programs.

use std::{io::Write, os::fd::AsFd as _, path::PathBuf};

use anyhow::Context as _;

use crate::{
    bpf::{self, Datapath, Options, Pins, PrivateBpffs, RawSockets},
    cgroup,
    config::CheckKernelArgs,
    kernel::{self, Release},
    netns,
    pods::{Acceleration, describe_features},
};

/// Loads and attaches every program, to the cgroup and to a temporary netns. The pins are in a
/// private bpffs that ends with this process, and so do the hooks.
pub(crate) fn run(args: CheckKernelArgs) -> anyhow::Result<()> {
    let CheckKernelArgs { cgroup, verbose } = args;
    let mut out = std::io::stdout().lock();
    let checked = check(&mut out, cgroup);
    let log = checked.as_ref().err().and_then(verifier_log);
    if let (Some(log), true) = (log, verbose) {
        writeln!(out, "{log}")?;
    }
    checked
}

fn check(out: &mut impl Write, cgroup: Option<PathBuf>) -> anyhow::Result<()> {
    let release = Release::running();
    writeln!(out, "kernel   {release}")?;
    let cgroup = cgroup::choose(cgroup)?;
    writeln!(out, "cgroup   {}", cgroup.display())?;
    let private = PrivateBpffs::mount().context("a BPF file system cannot be mounted")?;
    let options = Options {
        kernel_offsets: Acceleration::kernel_offsets(&release).ok(),
        raw_sockets: RawSockets::Deny,
        bypassing_node: None,
    };
    let mut datapath = kernel::open_datapath(Pins::open(&private.directory())?, &cgroup, options)?;
    print_features(out, &release, &datapath)?;
    writeln!(out, "\nPROGRAM                ATTACHES TO")?;
    for program in datapath.programs()? {
        writeln!(out, "{:<23}{}", program.name, program.attach_type)?;
    }
    let namespace = netns::new_netns()?;
    datapath.attach_sk_lookup(1, namespace.as_fd())?;
    writeln!(out, "\nkernel {release}: all programs load and attach")?;
    Ok(())
}

/// The same features as `sluiced status` has, as a table.
fn print_features(
    out: &mut impl Write,
    release: &Release,
    datapath: &Datapath,
) -> std::io::Result<()> {
    writeln!(out, "\nFEATURE                FOUND  IMPACT")?;
    writeln!(out, "socket diagnostics     yes")?;
    for feature in describe_features(release, datapath.features()) {
        let (found, impact) = if feature.found {
            ("yes", "")
        } else {
            ("no", &*feature.impact_if_missing)
        };
        let line = format!("{:<23}{found:<7}{impact}", feature.name);
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The verifier's log of the program that it rejected.
fn verifier_log(error: &anyhow::Error) -> Option<&str> {
    let mut causes = error.chain();
    causes.find_map(|cause| cause.downcast_ref::<bpf::Error>()?.verifier_log())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifier_log_is_no_part_of_the_message() {
        let error = bpf::Error::rejected_for_test("connect4", "0: R1=ctx\n1: unknown func");
        let error = anyhow::Error::new(error).context("the kernel is too old");
        assert_eq!(verifier_log(&error), Some("0: R1=ctx\n1: unknown func"));
        let message = format!("{error:#}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(
            message.contains("connect4") && message.contains("--verbose"),
            "{message}"
        );
    }
}
