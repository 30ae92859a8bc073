//! A connection tracking table at its limit.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use sluice_lab::Lab;
use sluice_testbed::process::output;

/// The limit of each namespace's entries (`Documentation/networking/nf_conntrack-sysctl.rst`).
const LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// A larger table would take a gigabyte of kernel memory.
const LARGEST: u32 = 1 << 20;
const PORTS: u32 = 1 << 15;
const FIRST_PORT: u32 = 1024;
const CONNTRACK: &str = "/usr/sbin/conntrack";
const PATIENCE: Duration = Duration::from_mins(1);

/// Fills a Pod's table with established connections between documentation addresses (RFC 5737), which the
/// kernel does not drop early.
pub(super) fn fill(lab: &Lab, pod: &str) -> Result<()> {
    let limit: u32 = fs::read_to_string(LIMIT).context(LIMIT)?.trim().parse()?;
    ensure!(limit <= LARGEST, "{LIMIT} is {limit}, more than {LARGEST}");
    let file = lab.file("conntrack");
    fs::write(&file, entries(limit))?;
    let place = lab.within(Some(&lab.pod(pod)?.netns));
    let mut command = place.command(Path::new(CONNTRACK))?;
    // Those that are there already leave no room for the last ones.
    let loaded = output(command.arg("--load-file").arg(&file), PATIENCE);
    let count = lab
        .pod(pod)?
        .netns
        .read("/proc/sys/net/netfilter/nf_conntrack_count")?;
    ensure!(
        count.trim() == limit.to_string(),
        "{count} entries: {loaded:?}"
    );
    Ok(())
}

fn entries(count: u32) -> String {
    let mut text = String::new();
    for number in 0..count {
        let (client, port) = (1 + number / PORTS, FIRST_PORT + number % PORTS);
        let written = writeln!(
            text,
            "-I -s 192.0.2.{client} -d 198.51.100.1 -p tcp --sport {port} --dport 80 --state ESTABLISHED \
             -t 600 -u ASSURED,SEEN_REPLY"
        );
        debug_assert!(written.is_ok(), "a string takes all");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_entries_are_the_same() {
        let text = entries(2 * PORTS);
        assert_eq!(
            text.lines().collect::<BTreeSet<_>>().len(),
            2 * PORTS as usize
        );
    }
}
