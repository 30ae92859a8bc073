//! `sluiced detach`: removes the data path, without a daemon.

use std::io::Write as _;

use crate::{
    bpf::Pins,
    config::Paths,
    pods::{self, Store},
};

/// Removes all state that daemons left, and prints it.
pub(crate) fn run(paths: &Paths) -> anyhow::Result<()> {
    let pins = Pins::open(&paths.bpffs)?;
    let (store, records) = Store::open(&paths.state)?;
    let removed = pods::detach(pins, &store, &records)?;
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
