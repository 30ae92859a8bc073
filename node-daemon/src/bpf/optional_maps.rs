//! The sizes of the maps that only acceleration or only ambient mode uses: the kernel allocates most of
//! them whole, 9 MiB and 1 MiB.

use std::path::Path;

use aya::{EbpfLoader, maps::MapInfo};
use sluice_abi::maps;

use super::{Error, Options, pins, pins::Generation};

/// The maps of acceleration.
const ACCELERATION: &[&str] = &[
    maps::SOCK_PAIR_MAP,
    maps::ACCEL_CONNS,
    maps::ACCEL_FLOWS,
    maps::CONN_RATE,
    maps::SPLICE_NETNS,
];
/// The maps of a mesh whose Pods do not intercept connections of the node.
const BYPASSING_NODE: &[&str] = &[maps::NODE_CONNS];
/// The number of entries of a map that no feature uses.
const UNUSED: u32 = 1;

/// Makes the loader create these maps with the size that the node needs. Pinned maps of a feature stay
/// when it is switched off. Pinned maps without it are replaced when it is switched on: they are empty.
/// A daemon that dies in between leaves an incomplete generation, which its successor rebuilds.
pub(super) fn prepare(
    loader: &mut EbpfLoader<'_>,
    generation: &Generation,
    options: Options,
) -> Result<(), Error> {
    let features = [
        (ACCELERATION, options.kernel_offsets.is_some()),
        (BYPASSING_NODE, options.bypassing_node.is_some()),
    ];
    for (names, is_used) in features {
        for name in names {
            let pin = generation.map(name);
            if !is_used {
                loader.map_max_entries(name, UNUSED);
            } else if is_unused(&pin) {
                pins::remove(&pin, &mut Vec::new())?;
            }
        }
    }
    Ok(())
}

/// Whether a map was created without its feature.
fn is_unused(pin: &Path) -> bool {
    MapInfo::from_pin(pin).is_ok_and(|info| info.max_entries() == UNUSED)
}
