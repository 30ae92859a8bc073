//! Loads the eBPF object and attaches its programs to their hooks, from one table.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use aya::{
    Btf, EbpfLoader,
    maps::Map,
    programs::{Program, ProgramError, ProgramType},
    sys::{BpfHelper, is_helper_supported},
};
use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_GETSOCKOPT, BPF_CGROUP_INET_SOCK_CREATE, BPF_CGROUP_SETSOCKOPT,
    BPF_CGROUP_SOCK_OPS, BPF_SK_LOOKUP, BPF_SK_MSG_VERDICT,
};
use sluice_abi::{CredOffsets, maps};

use super::{
    Error, Options,
    blocked_signals::BlockedSignals,
    cgroup_prog::{self, ProgramInfo},
    decide_progs, hierarchy,
    kernel_offsets::{self, SPLICE_FN},
    link::{self, Link},
    loaded::Loaded,
    netns_prog::SK_LOOKUP_PROG,
    optional_maps,
    pinned_link::{attach_one, put, replace},
    pins::{self, Generation},
    reroute_prog,
};
use crate::shortage::is_io_shortage;

/// Constants of the object for optional kernel features.
const HAS_MPTCP: &str = "HAS_MPTCP";
const HAS_INGRESS_IFINDEX: &str = "HAS_INGRESS_IFINDEX";
const HAS_SET_RETVAL: &str = "HAS_SET_RETVAL";
/// Constant of the object with the cookie of the node's netns.
const NODE_NETNS: &str = "NODE_NETNS";
/// Constant of the object with the offsets of kernel structure members for acceleration.
const KERNEL_OFFSETS: &str = "KERNEL_OFFSETS";
/// Constant of the object with the offsets on the way to the credentials of a socket's creator.
const CRED_OFFSETS: &str = "CRED_OFFSETS";
/// Exists if the kernel is built with MPTCP. A kernel without MPTCP has the helper, but not its type.
const MPTCP: &str = "/proc/sys/net/mptcp";

/// Name of the program that receives every message of an accelerated socket.
pub(super) const SK_MSG_PROG: &str = "msg_verdict";

/// The program that denies raw sockets in meshed Pods. It costs every process of the node at each
/// `socket`, so it is attached only if the configuration demands it.
pub(super) const SOCK_CREATE_PROG: &str = "sock_create";

/// Name of the `fentry` program for `splice(2)`.
pub(super) const SPLICE_PROG: &str = "tcp_splice_read";

/// libbpf's number of attempts to load a program.
const LOAD_ATTEMPTS: u32 = 5;

/// Programs that are attached to the root cgroup only, with their hooks: their order among other
/// programs does not matter, and `sock_ops` must not run twice.
const HOOKS: [(&str, bpf_attach_type); 4] = [
    ("getsockopt", BPF_CGROUP_GETSOCKOPT),
    ("setsockopt", BPF_CGROUP_SETSOCKOPT),
    (SOCK_CREATE_PROG, BPF_CGROUP_INET_SOCK_CREATE),
    ("sock_ops", BPF_CGROUP_SOCK_OPS),
];

/// Optional kernel features that the programs use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    /// The helper `bpf_skc_to_mptcp_sock` exists (Linux 5.19).
    pub(crate) mptcp: bool,
    /// `sk_lookup` programs see the ingress interface (Linux 5.17).
    pub(crate) ingress: bool,
    /// The helper `bpf_set_retval` exists (Linux 5.18).
    pub(crate) set_retval: bool,
    /// An `fentry` program can detect `splice(2)`. Not probed without acceleration: the probe takes
    /// longer than all other steps.
    pub(crate) splice: Option<bool>,
    /// Where the credentials of a socket's creator are; all zero on a kernel without BTF.
    pub(crate) creds: CredOffsets,
}

/// The eBPF object, which the build script builds from `ebpf/programs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice.o"));

/// Loads every program. Reuses the maps that are pinned in `generation`; creates and pins the others.
///
/// Without offsets in `options` no socket is accelerated.
pub(super) fn load(
    generation: &Generation,
    features: Features,
    options: Options,
) -> Result<Loaded, Error> {
    let knows_mptcp = u32::from(features.mptcp);
    let knows_ingress = u32::from(features.ingress);
    let knows_set_retval = u32::from(features.set_retval);
    let kernel_offsets = options.kernel_offsets.unwrap_or_default();
    let node_netns = options.bypassing_node.unwrap_or_default();
    let mut loader = EbpfLoader::new();
    // The object needs no relocation against the kernel's types, which take 10 MiB as long as the loader
    // has them: more than all else in this process.
    loader.btf(None);
    loader
        .override_global(KERNEL_OFFSETS, &kernel_offsets, true)
        .override_global(CRED_OFFSETS, &features.creds, true)
        .override_global(HAS_MPTCP, &knows_mptcp, true)
        .override_global(HAS_INGRESS_IFINDEX, &knows_ingress, true)
        .override_global(HAS_SET_RETVAL, &knows_set_retval, true)
        .override_global(NODE_NETNS, &node_netns, true);
    optional_maps::prepare(&mut loader, generation, options)?;
    for name in maps::ALL {
        loader.map_pin_path(name, generation.map(name));
    }
    let mut object = loader.load(OBJECT).map_err(Error::Object)?;
    let _blocked = BlockedSignals::begin();
    for (name, program) in object.programs_mut() {
        if name != SPLICE_PROG || features.splice == Some(true) {
            load_retrying(program).map_err(|source| Error::program(name, source))?;
        }
    }
    Loaded::new(object, &program_names(features))
}

/// The names of the programs that are loaded on a kernel with these features.
pub(super) fn program_names(features: Features) -> Vec<&'static str> {
    let mut names: Vec<_> = HOOKS.iter().map(|(name, _)| *name).collect();
    names.extend([SK_LOOKUP_PROG, SK_MSG_PROG]);
    names.extend(reroute_prog::PROGRAMS);
    names.extend(decide_progs::names());
    names.extend(
        cgroup_prog::HOOKS
            .iter()
            .flat_map(|(child, root, _)| [*child, *root]),
    );
    if features.splice == Some(true) {
        names.push(SPLICE_PROG);
    }
    names.sort_unstable();
    names.dedup();
    names
}

impl Features {
    /// Every result that a probe could have, with or without acceleration. Without offsets: they are the
    /// same as long as the kernel runs.
    pub(super) fn possible(accel: bool) -> impl Iterator<Item = Self> {
        let splice: &[_] = if accel {
            &[Some(true), Some(false)]
        } else {
            &[None]
        };
        (splice.iter()).flat_map(|splice| {
            (0..16).map(|bits| Self {
                mptcp: bits & 1 != 0,
                ingress: bits & 2 != 0,
                set_retval: bits & 4 != 0,
                splice: *splice,
                creds: CredOffsets {
                    valid: bits >> 3,
                    ..CredOffsets::default()
                },
            })
        })
    }

    /// The key of probe results on one kernel.
    pub(super) fn found(self) -> ([bool; 4], Option<bool>) {
        let creds = self.creds.valid != 0;
        (
            [self.mptcp, self.ingress, self.set_retval, creds],
            self.splice,
        )
    }

    /// Probes the kernel. A failed probe counts as a missing feature.
    pub(super) fn probe(accel: bool) -> Self {
        let knows = |program, helper| is_helper_supported(program, helper).unwrap_or(false);
        let mptcp = BpfHelper::BPF_FUNC_skc_to_mptcp_sock;
        // `ingress_ifindex` is as old as this helper (Linux 5.17).
        let ingress = BpfHelper::BPF_FUNC_loop;
        Self {
            mptcp: Path::new(MPTCP).exists() && knows(ProgramType::CgroupSockAddr, mptcp),
            ingress: knows(ProgramType::SkLookup, ingress),
            set_retval: knows(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval),
            splice: accel.then(kernel_offsets::can_trace_splice),
            creds: kernel_offsets::of_creds().unwrap_or_default(),
        }
    }
}

/// A pending signal makes the verifier return `EAGAIN`. `SIGSTOP` and the freezer of cgroups cannot be blocked.
fn load_retrying(program: &mut Program) -> Result<(), ProgramError> {
    let is_interrupted = |error: &ProgramError| {
        matches!(error, ProgramError::LoadError { io_error, .. }
            if io_error.kind() == io::ErrorKind::WouldBlock)
    };
    for _ in 1..LOAD_ATTEMPTS {
        match load_one(program) {
            Err(error) if is_interrupted(&error) => {}
            other => return other,
        }
    }
    load_one(program)
}

fn load_one(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::SkMsg(program) => program.load(),
        Program::FEntry(program) => program.load(SPLICE_FN, &Btf::from_sys_fs()?),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// The optional hooks that are enabled.
#[derive(Clone, Copy, Debug)]
pub(super) struct EnabledHooks {
    /// Raw sockets are denied in meshed Pods.
    pub(super) sock_create: bool,
    /// Acceleration is enabled, and `splice(2)` of applications can be detected.
    pub(super) splice: bool,
}

impl EnabledHooks {
    pub(super) fn has(self, program: &str) -> bool {
        match program {
            SOCK_CREATE_PROG => self.sock_create,
            SPLICE_PROG => self.splice,
            _ => true,
        }
    }
}

/// The programs at the cgroup, with their hooks.
fn hooks(enabled_hooks: EnabledHooks) -> impl Iterator<Item = (&'static str, bpf_attach_type)> {
    HOOKS
        .into_iter()
        .filter(move |(name, _)| enabled_hooks.has(name))
}

/// Attaches this object's programs to every cgroup hook: pinned links get the new program, missing
/// links are created. Links of disabled programs are removed.
pub(super) fn attach(
    object: &Loaded,
    generation: &Generation,
    cgroup: &Path,
    enabled_hooks: EnabledHooks,
) -> Result<(), Error> {
    // The order matters: the programs at the cgroups continue with these.
    decide_progs::install(object)?;
    // Without this program, no socket may be in the map.
    attach_sk_msg(object)?;
    if enabled_hooks.has(SPLICE_PROG) {
        attach_splice_read(object, &generation.hook(SPLICE_PROG))?;
    }
    let (directory, id) = open(cgroup)?;
    for (name, hook) in hooks(enabled_hooks) {
        let program = object.program(name)?;
        let pin = generation.hook(name);
        let there = |link: &Link| link.cgroup().is_ok_and(|attached| attached == id);
        if !replace(program, &pin, there).map_err(|source| Error::attach(name, source))? {
            attach_one(program, directory.as_fd(), hook, &pin)
                .map_err(|source| Error::attach(name, source))?;
        }
    }
    hierarchy::attach(object, generation, cgroup)?;
    let spliced = enabled_hooks.has(SPLICE_PROG).then_some(SPLICE_PROG);
    let offsets: Vec<_> = (hooks(enabled_hooks).map(|(name, _)| name))
        .chain(spliced)
        .map(|name| generation.hook(name))
        .collect();
    for stale in generation
        .hooks()?
        .iter()
        .filter(|pin| !offsets.contains(pin))
    {
        pins::remove(stale, &mut Vec::new())?;
    }
    Ok(())
}

/// Attaches the `splice(2)` program, unless it is attached: the kernel does not accept it twice, and
/// such a link cannot be updated.
fn attach_splice_read(object: &Loaded, pin: &Path) -> Result<(), Error> {
    let program = object.program(SPLICE_PROG)?;
    let attach = || {
        let own = ProgramInfo::of(program)?.id;
        let there = Link::open(pin).and_then(|link| link.program());
        if there.is_ok_and(|there| there == own) {
            return Ok(());
        }
        put(&Link::attach_tracing(program)?, pin)
    };
    attach().map_err(|source| Error::attach(SPLICE_PROG, source))
}

/// Attaches the `sk_msg` program to the sockhash.
fn attach_sk_msg(object: &Loaded) -> Result<(), Error> {
    let name = maps::SOCK_PAIR_MAP;
    let Some(Map::SockHash(map)) = object.map(name) else {
        return Err(Error::Missing { name });
    };
    link::attach_to_map(
        object.program(SK_MSG_PROG)?,
        map.fd().as_fd(),
        BPF_SK_MSG_VERDICT,
    )
    .map_err(|source| Error::attach(SK_MSG_PROG, source))
}

/// Names of the programs that are no longer attached to the root cgroup.
pub(super) fn missing(
    object: &Loaded,
    generation: &Generation,
    cgroup: &Path,
    enabled_hooks: EnabledHooks,
) -> Result<Vec<&'static str>, Error> {
    let (_, id) = open(cgroup)?;
    let link = |name: &str| Link::open(&generation.hook(name));
    let attached = |name: &str| link(name).and_then(|link| link.cgroup());
    let is_there = |name: &str| attached(name).is_ok_and(|attached| attached == id);
    let names = hooks(enabled_hooks).map(|(name, _)| name);
    let mut missing: Vec<_> = names.filter(|name| !is_there(name)).collect();
    missing.extend(hierarchy::missing(object, cgroup)?);
    missing.extend(
        (enabled_hooks.has(SPLICE_PROG) && link(SPLICE_PROG).is_err()).then_some(SPLICE_PROG),
    );
    Ok(missing)
}

/// Opens a cgroup, and returns its ID as links report it.
fn open(cgroup: &Path) -> Result<(File, u64), Error> {
    let wrap = |source| Error::cgroup(cgroup, source);
    let directory = File::open(cgroup).map_err(wrap)?;
    let id = directory.metadata().map_err(wrap)?.ino();
    Ok((directory, id))
}

/// Attaches a Pod's entry program to its network namespace, and replaces an existing one.
pub(super) fn attach_sk_lookup(
    entry: BorrowedFd<'_>,
    netns: BorrowedFd<'_>,
    pin: &Path,
) -> Result<(), Error> {
    attach_one(entry, netns, BPF_SK_LOOKUP, pin)
        .map_err(|source| Error::attach(SK_LOOKUP_PROG, source))
}

/// Whether a Pod's inbound hook is attached. A hook that cannot be opened for lack of resources is.
pub(super) fn has_sk_lookup(pin: &Path) -> bool {
    let found = Link::open(pin).and_then(|link| link.netns_exists());
    found.unwrap_or_else(|error| is_io_shortage(&error))
}

#[cfg(test)]
mod tests {
    use aya_obj::{
        Object,
        generated::{BPF_CALL, BPF_JMP, BPF_PSEUDO_CALL},
    };

    use super::*;

    #[test]
    fn every_program_of_the_object_has_a_hook() {
        let object = Object::parse(OBJECT).unwrap();
        let mut programs: Vec<_> = object.programs.keys().map(String::as_str).collect();
        programs.sort_unstable();
        let hooked = program_names(Features {
            mptcp: true,
            ingress: true,
            set_retval: true,
            splice: Some(true),
            creds: CredOffsets::default(),
        });
        assert_eq!(programs, hooked);
    }

    /// Before Linux 6.2 the verifier treats every scalar of a program with BPF-to-BPF calls as precise, and
    /// explores too many paths.
    #[test]
    fn no_program_of_the_object_has_a_bpf_to_bpf_call() {
        let object = Object::parse(OBJECT).unwrap();
        let calling: Vec<_> = object
            .programs
            .iter()
            .filter(|(_, program)| {
                let function = &object.functions[&program.function_key()];
                let mut instructions = function.instructions.iter();
                instructions.any(|one| {
                    u32::from(one.code) == BPF_JMP | BPF_CALL
                        && u32::from(one.src_reg()) == BPF_PSEUDO_CALL
                })
            })
            .map(|(name, _)| name)
            .collect();
        assert!(calling.is_empty(), "{calling:?}");
    }

    #[test]
    fn every_map_of_the_object_outlives_the_daemon() {
        let object = Object::parse(OBJECT).unwrap();
        let mut made: Vec<_> = object.maps.keys().map(String::as_str).collect();
        made.retain(|name| !name.starts_with('.'));
        made.sort_unstable();
        let mut pinned = maps::ALL;
        pinned.sort_unstable();
        assert_eq!(made, pinned);
    }
}
