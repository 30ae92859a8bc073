//! The sizes of the maps that only acceleration uses: the kernel allocates most of them whole, 8 MiB.

use std::path::Path;

use aya::{EbpfLoader, maps::MapInfo};
use sluice_abi::maps;

use super::{Error, pins, pins::Generation};

/// The maps.
const MAPS: [&str; 4] = [
    maps::SOCK_PAIR_MAP,
    maps::ACCEL_FLOWS,
    maps::CONN_RATE,
    maps::SPLICE_NETNS,
];
/// The number of entries without acceleration.
const UNUSED: u32 = 1;

/// Makes the loader create these maps with the size that the node needs. Pinned maps of acceleration
/// stay when it is switched off. Pinned maps without it are replaced when it is switched on: they are
/// empty. A daemon that dies in between leaves an incomplete generation, which its successor rebuilds.
pub(super) fn prepare(
    loader: &mut EbpfLoader<'_>,
    generation: &Generation,
    is_accelerated: bool,
) -> Result<(), Error> {
    for name in MAPS {
        let pin = generation.map(name);
        if !is_accelerated {
            loader.map_max_entries(name, UNUSED);
        } else if is_unused(&pin) {
            pins::remove(&pin, &mut Vec::new())?;
        }
    }
    Ok(())
}

/// Whether a map was created without acceleration.
fn is_unused(pin: &Path) -> bool {
    MapInfo::from_pin(pin).is_ok_and(|info| info.max_entries() == UNUSED)
}
