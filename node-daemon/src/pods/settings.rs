//! The values of settings, in annotations and in the configuration: parsers, their error, and the
//! settings of the whole node. Pure.

mod error;
mod node_wide;
pub(super) mod parse;

use std::collections::BTreeSet;

pub(crate) use error::Error;
pub(crate) use node_wide::{
    Families, FamilyChoice, InvalidValue, IstioValues, LinkerdValues, NodeValues, NodeWide,
    OwnerGroups,
};

/// The maximum number of items of one list: all Pods share the kernel's maps.
pub(crate) const MAX_ITEMS: usize = sluice_abi::maps::MAX_NETWORKS / 64;

/// Ports, as ranges from the lowest to the highest.
pub(crate) type Ports = BTreeSet<(u16, u16)>;
