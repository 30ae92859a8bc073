//! `sluiced detach`: removes the data path, without a daemon.

use std::io::Write as _;

use crate::{
    bpf::Pins,
    config::DetachArgs,
    pods::{self, PendingDels, Store},
};

/// Removes all state that daemons left, and prints it.
pub(crate) fn run(args: &DetachArgs) -> anyhow::Result<()> {
    let pins = Pins::open(&args.paths.bpffs)?;
    let (store, records) = Store::open(&args.paths.state)?;
    let pending_dels = PendingDels::beside(&args.socket);
    let removed = pods::detach(pins, &store, &records, &pending_dels)?;
    let mut out = std::io::stdout().lock();
    for path in &removed {
        writeln!(out, "removed {}", path.display())?;
    }
    writeln!(
        out,
        "{} pins and {} records of Pods removed: Pods bypass their sidecars now",
        removed.len(),
        records.len()
    )?;
    Ok(())
}
