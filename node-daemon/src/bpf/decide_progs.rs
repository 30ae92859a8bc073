//! The programs that decide about `connect` and about DNS queries in `sendmsg`. The copies at both levels of
//! the cgroups continue with them: a copy of its own for each level would double the time of the verifier, and
//! the code.
//!
//! At a takeover the new daemon replaces the programs in these maps, for both levels at once.

use std::os::fd::AsFd as _;

use sluice_abi::maps;

use super::{Error, loaded::Loaded, netns_prog, raw_prog};

/// The programs, each with its map.
const PROGRAMS: [(&str, &str); 4] = [
    ("decide_connect4", maps::CONNECT4_PROG),
    ("decide_connect6", maps::CONNECT6_PROG),
    ("decide_sendmsg4", maps::SENDMSG4_PROG),
    ("decide_sendmsg6", maps::SENDMSG6_PROG),
];

/// The index of the program in its map.
const INDEX: u32 = 0;

/// The names of the programs.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PROGRAMS.into_iter().map(|(name, _)| name)
}

/// Stores the object's programs in their maps.
pub(super) fn install(object: &Loaded) -> Result<(), Error> {
    for (name, map) in PROGRAMS {
        let map = netns_prog::descriptor(object, map)?;
        raw_prog::set_program(map.as_fd(), INDEX, object.program(name)?)
            .map_err(|source| Error::attach(name, source))?;
    }
    Ok(())
}
