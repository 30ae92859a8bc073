//! The entry programs of virtual interfaces, at `tc`: each passes its Pod's cookie and the length of its
//! link's header in the packet's control buffer, and continues with the program of its direction in
//! `reroute_progs`. The kernel reports neither to `tc` programs (before Linux 6.15).
//!
//! At a takeover the new daemon replaces the programs in `reroute_progs`, for all interfaces at once.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use aya_obj::generated::bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS;
use sluice_abi::maps;

use super::{
    Error,
    loaded::Loaded,
    netns_prog,
    raw_prog::{self, one},
};

/// The programs for both directions, in the order of their slots.
pub(super) const PROGRAMS: [&str; 2] = ["reroute_in", "reroute_out"];

/// Offset of the control buffer in `struct __sk_buff`.
const CONTROL: i16 = 48;

/// The map of the deciding programs.
pub(super) struct RerouteProgram(OwnedFd);

impl RerouteProgram {
    /// Opens the map of the object, and installs the object's programs.
    pub(super) fn open(object: &Loaded) -> Result<Self, Error> {
        let map = netns_prog::descriptor(object, maps::REROUTE_PROGS)?;
        for (slot, name) in (0..).zip(PROGRAMS) {
            raw_prog::set_program(map.as_fd(), slot, object.program(name)?)
                .map_err(|source| Error::attach(name, source))?;
        }
        Ok(Self(map))
    }

    /// Loads the programs of an interface of the Pod with this cookie, for both directions.
    /// `link_header`: the length of the link's header, in bytes.
    pub(super) fn load(&self, cookie: u64, link_header: u8) -> Result<[OwnedFd; 2], Error> {
        let map = self.0.as_raw_fd();
        let load = |slot: u8| {
            let code = code(cookie, link_header, map, slot);
            raw_prog::load_program(BPF_PROG_TYPE_SCHED_CLS, None, c"sluice_reroute", &code)
                .map_err(|source| Error::attach(PROGRAMS[usize::from(slot)], source))
        };
        Ok([load(0)?, load(1)?])
    }
}

/// The instructions. Without a program in `reroute_progs`, they drop the packet.
fn code(cookie: u64, link_header: u8, map: i32, slot: u8) -> [u64; 12] {
    /// `BPF_PSEUDO_MAP_FD`.
    const MAP: u64 = 1;
    const TAIL_CALL: i32 = 12;
    /// `TC_ACT_SHOT`.
    const DROP: i32 = 2;
    #[expect(clippy::cast_possible_truncation, reason = "two halves")]
    let [low, high] = [cookie as u32, (cookie >> 32) as u32].map(u32::cast_signed);
    [
        // cb = [cookie (low), cookie (high), link_header]
        one(0xb4, 2, 0, 0, low),
        one(0x63, 1, 2, CONTROL, 0),
        one(0xb4, 2, 0, 0, high),
        one(0x63, 1, 2, CONTROL + 4, 0),
        one(0xb4, 2, 0, 0, link_header.into()),
        one(0x63, 1, 2, CONTROL + 8, 0),
        // tail call (ctx, reroute_progs, slot)
        one(0x18, 2, MAP, 0, map),
        0,
        one(0xb7, 3, 0, 0, slot.into()),
        one(0x85, 0, 0, 0, TAIL_CALL),
        // return TC_ACT_SHOT
        one(0xb7, 0, 0, 0, DROP),
        one(0x95, 0, 0, 0, 0),
    ]
}
