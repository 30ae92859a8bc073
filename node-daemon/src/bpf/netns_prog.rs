//! The entry program of each intercepted netns, which identifies the netns of a connection.
//!
//! The kernel reports a connection's addresses to `sk_lookup` programs, not its network namespace. An
//! address does not identify the Pod: link-local addresses are not unique, an interface may have
//! addresses that no CNI result listed, and a namespace may hold an address of another Pod. So each
//! Pod's namespace has its own program, a few instructions, with a map of its own that holds the
//! namespace's cookie. It writes the cookie to this CPU's slot of `lookup_netns` and continues with the
//! deciding program in `lookup_prog`. The kernel runs both with migration disabled
//! (`BPF_PROG_SK_LOOKUP_RUN_ARRAY`).
//!
//! Loading such a program takes a part of the time of an ADD. So one is loaded in advance, before the
//! cookie is known ([`NetnsProgram::prepare`]).
//!
//! At a takeover the new daemon replaces the program in `lookup_prog`, for all Pods at once.

use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};

use aya::maps::Map;
use aya_obj::generated::{bpf_attach_type::BPF_SK_LOOKUP, bpf_prog_type::BPF_PROG_TYPE_SK_LOOKUP};
use sluice_abi::maps;

use super::{
    Error,
    loaded::Loaded,
    raw_prog::{self, one},
};

/// Name of the program that decides about inbound connections of every meshed Pod.
pub(super) const SK_LOOKUP_PROG: &str = "inbound_lookup";

/// The index of the deciding program.
const DECIDING_INDEX: u32 = 0;

/// Loads entry programs.
pub(super) struct NetnsProgram {
    /// The two maps that all entry programs use.
    netns: OwnedFd,
    prog: OwnedFd,
    /// A program that was loaded in advance.
    prepared: Option<Unassigned>,
}

/// A loaded program that no namespace has.
struct Unassigned {
    program: OwnedFd,
    /// The map for its cookie.
    cookie: OwnedFd,
}

impl NetnsProgram {
    /// Opens the maps of the object, and installs the object's program as the deciding program of every
    /// Pod.
    pub(super) fn open(object: &Loaded) -> Result<Self, Error> {
        let (netns, prog) = (maps::LOOKUP_NETNS, maps::LOOKUP_PROG);
        let entry = Self {
            netns: descriptor(object, netns)?,
            prog: descriptor(object, prog)?,
            prepared: None,
        };
        raw_prog::set_program(
            entry.prog.as_fd(),
            DECIDING_INDEX,
            object.program(SK_LOOKUP_PROG)?,
        )
        .map_err(|source| Error::attach(SK_LOOKUP_PROG, source))?;
        Ok(entry)
    }

    /// Loads the program of the next network namespace, unless one is prepared.
    pub(super) fn prepare(&mut self) -> Result<(), Error> {
        if self.prepared.is_none() {
            self.prepared = Some(self.load()?);
        }
        Ok(())
    }

    /// Takes the prepared program or loads one, and writes the cookie into its map.
    pub(super) fn assign(&mut self, cookie: u64) -> Result<OwnedFd, Error> {
        let prepared = self.prepared.take();
        let next = prepared.map_or_else(|| self.load(), Ok)?;
        raw_prog::write_and_freeze(next.cookie.as_fd(), cookie)
            .map_err(|source| Error::attach(SK_LOOKUP_PROG, source))?;
        Ok(next.program)
    }

    fn load(&self) -> Result<Unassigned, Error> {
        let load = || {
            let cookie = raw_prog::create_value(c"sluice_entry")?;
            let Self { netns, prog, .. } = self;
            let code = code([netns, prog, &cookie].map(AsRawFd::as_raw_fd));
            let kind = BPF_PROG_TYPE_SK_LOOKUP;
            let program =
                raw_prog::load_program(kind, Some(BPF_SK_LOOKUP), c"sluice_entry", &code)?;
            Ok(Unassigned { program, cookie })
        };
        load().map_err(|source| Error::attach(SK_LOOKUP_PROG, source))
    }
}

pub(super) fn descriptor(object: &Loaded, name: &'static str) -> Result<OwnedFd, Error> {
    let Some(Map::PerCpuArray(map) | Map::ProgramArray(map)) = object.map(name) else {
        return Err(Error::Missing { name });
    };
    let fd = map.fd().as_fd().try_clone_to_owned();
    fd.map_err(|source| Error::attach(name, source))
}

/// The instructions. Without a slot for the CPU, or a program in `lookup_prog`, they drop the
/// connection.
fn code([netns, prog, cookie]: [i32; 3]) -> [u64; 19] {
    /// `BPF_PSEUDO_MAP_FD`.
    const MAP: u64 = 1;
    /// `BPF_PSEUDO_MAP_VALUE`: the address of the first value.
    const VALUE: u64 = 2;
    const LOOK_UP: i32 = 1;
    const TAIL_CALL: i32 = 12;
    [
        // r6 = ctx; r0 = lookup_netns[0]
        one(0xbf, 6, 1, 0, 0),
        one(0x62, 10, 0, -4, 0),
        one(0xbf, 2, 10, 0, 0),
        one(0x07, 2, 0, 0, -4),
        one(0x18, 1, MAP, 0, netns),
        0,
        one(0x85, 0, 0, 0, LOOK_UP),
        // if r0 == 0 return SK_DROP
        one(0x15, 0, 0, 10, 0),
        // *r0 = cookie
        one(0x18, 1, VALUE, 0, cookie),
        0,
        one(0x79, 1, 1, 0, 0),
        one(0x7b, 0, 1, 0, 0),
        // tail call (ctx, lookup_prog, 0)
        one(0xbf, 1, 6, 0, 0),
        one(0x18, 2, MAP, 0, prog),
        0,
        one(0xb7, 3, 0, 0, 0),
        one(0x85, 0, 0, 0, TAIL_CALL),
        // return SK_DROP
        one(0xb7, 0, 0, 0, 0),
        one(0x95, 0, 0, 0, 0),
    ]
}
