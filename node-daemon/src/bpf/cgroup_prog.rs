//! cgroup programs without a link, and the kernel's information about every program at a cgroup.
//!
//! A program that was attached with `BPF_PROG_ATTACH` stays until it is detached or the cgroup is
//! removed. Every process that manages the cgroup can detach it. For a link the kernel returns `ENOENT`
//! to such a process (`find_detach_entry`), which makes agents fail that clear the root cgroup at their
//! start.
#![cfg_attr(not(test), expect(unsafe_code, reason = "system calls"))]

use std::{
    ffi::{CStr, c_char},
    fs::File,
    io,
    mem::zeroed,
    os::{
        fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    time::Duration,
};

use aya_obj::generated::{
    BPF_F_ALLOW_MULTI, BPF_F_BEFORE, BPF_F_QUERY_EFFECTIVE, BPF_F_REPLACE,
    bpf_attach_type::{
        self, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_INET4_POST_BIND,
        BPF_CGROUP_INET6_CONNECT, BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_INET6_POST_BIND,
        BPF_CGROUP_UDP4_RECVMSG, BPF_CGROUP_UDP4_SENDMSG, BPF_CGROUP_UDP6_RECVMSG,
        BPF_CGROUP_UDP6_SENDMSG,
    },
    bpf_attr, bpf_cmd, bpf_map_info, bpf_prog_info,
};
use nix::errno::Errno;

use crate::cgroup;

use super::syscall::{bpf, empty, length_of, number, terminated};

/// The kernel's limit for programs of one cgroup and hook (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;
/// Maximum number of maps of a program whose names are read.
const MAX_MAPS: usize = 64;

/// The child copy, the root copy, and their hook.
pub(super) const HOOKS: [(&str, &str, bpf_attach_type); 10] = [
    ("connect4", "root_connect4", BPF_CGROUP_INET4_CONNECT),
    ("connect6", "root_connect6", BPF_CGROUP_INET6_CONNECT),
    ("getpeername4", "getpeername4", BPF_CGROUP_INET4_GETPEERNAME),
    ("getpeername6", "getpeername6", BPF_CGROUP_INET6_GETPEERNAME),
    ("post_bind4", "root_post_bind4", BPF_CGROUP_INET4_POST_BIND),
    ("post_bind6", "root_post_bind6", BPF_CGROUP_INET6_POST_BIND),
    ("recvmsg4", "recvmsg4", BPF_CGROUP_UDP4_RECVMSG),
    ("recvmsg6", "recvmsg6", BPF_CGROUP_UDP6_RECVMSG),
    ("sendmsg4", "root_sendmsg4", BPF_CGROUP_UDP4_SENDMSG),
    ("sendmsg6", "root_sendmsg6", BPF_CGROUP_UDP6_SENDMSG),
];

/// The kernel's information about a loaded program. It does not change as long as the program exists.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProgramInfo {
    /// The program ID, as in `bpftool prog`. The kernel assigns each once between two boots, until the
    /// numbers wrap around.
    pub(super) id: u32,
    /// The type (`BPF_PROG_TYPE_*`).
    kind: u32,
    /// The kernel's hash of the instructions, without the IDs of maps.
    tag: [u8; 8],
    /// Its name, at most 15 bytes.
    pub(super) name: String,
    /// The UID that loaded it.
    pub(super) uid: u32,
    /// IDs of its maps.
    maps: Vec<u32>,
}

impl ProgramInfo {
    /// Reads the information from a program's descriptor.
    pub(super) fn of(program: BorrowedFd<'_>) -> io::Result<Self> {
        let mut maps = [0_u32; MAX_MAPS];
        // SAFETY: an integer structure, for which zero is a valid value.
        let mut info: bpf_prog_info = unsafe { zeroed() };
        info.nr_map_ids = length(maps.len());
        info.map_ids = maps.as_mut_ptr() as u64;
        read_info(program, &mut info)?;
        let count = maps.len().min(info.nr_map_ids as usize);
        Ok(Self {
            id: info.id,
            kind: info.type_,
            tag: info.tag,
            name: text(&info.name.map(byte)),
            uid: info.created_by_uid,
            maps: maps[..count].to_vec(),
        })
    }

    /// Whether the program uses a map with this name.
    pub(super) fn uses(&self, map: &str) -> bool {
        let name = |id: &u32| map_name(*id).is_ok_and(|name| name == map);
        self.maps.iter().any(name)
    }
}

/// The number of a program's runs while statistics were enabled, and their duration.
pub(super) fn runs(program: BorrowedFd<'_>) -> io::Result<(u64, Duration)> {
    // SAFETY: an integer structure, for which zero is a valid value.
    let mut info: bpf_prog_info = unsafe { zeroed() };
    read_info(program, &mut info)?;
    Ok((info.run_cnt, Duration::from_nanos(info.run_time_ns)))
}

/// IDs of the programs at a cgroup's hook, in the order in which they run. `effective`: including those
/// of its ancestors, as they run for a process of the cgroup.
pub(super) fn query(
    cgroup: BorrowedFd<'_>,
    hook: bpf_attach_type,
    effective: bool,
) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MAX_PROGRAMS * 8];
    let mut attr = empty();
    attr.query.__bindgen_anon_1.target_fd = number(cgroup);
    attr.query.attach_type = hook as u32;
    attr.query.query_flags = if effective { BPF_F_QUERY_EFFECTIVE } else { 0 };
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = length(ids.len());
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: an integer, which the kernel has written.
    ids.truncate(unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize);
    Ok(ids)
}

/// Attaches a program beside others, and before the existing ones if the kernel supports an order
/// (Linux 6.17). With `old`, replaces that program.
pub(super) fn attach(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    hook: bpf_attach_type,
    old: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let attach = |flags| {
        let mut attr = target(cgroup, program, hook);
        attr.__bindgen_anon_5.attach_flags = BPF_F_ALLOW_MULTI | flags;
        if let Some(old) = old {
            attr.__bindgen_anon_5.replace_bpf_fd = number(old);
        }
        bpf(bpf_cmd::BPF_PROG_ATTACH, &mut attr).map(drop)
    };
    if old.is_some() {
        return attach(BPF_F_REPLACE);
    }
    match attach(BPF_F_BEFORE) {
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => attach(0),
        other => other,
    }
}

/// Detaches a program. `false` if it is not attached there.
pub(super) fn detach(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    hook: bpf_attach_type,
) -> io::Result<bool> {
    let mut attr = target(cgroup, program, hook);
    match bpf(bpf_cmd::BPF_PROG_DETACH, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Detaches the programs whose pins are in `pins` from the root cgroup. The pins stay.
///
/// `root` is the path of the daemon that attached them. The hierarchy may be mounted elsewhere here, so
/// its root is a second candidate. Fails if neither is a cgroup: the programs would stay active.
pub(super) fn detach_pinned(pins: &Path, root: &Path) -> io::Result<()> {
    let candidates = [Some(root.to_owned()), cgroup::find().ok()];
    let mut cgroups: Vec<_> = (candidates.iter().flatten())
        .filter_map(|path| File::open(path).ok())
        .filter(cgroup::is_cgroup2)
        .filter_map(|directory| Some((directory.metadata().ok()?.ino(), directory)))
        .collect();
    cgroups.dedup_by_key(|(id, _)| *id);
    if cgroups.is_empty() {
        return Err(io::Error::other(format!(
            "programs are attached to the cgroup {}, which is not visible here, and no cgroup2 file \
             system is mounted. Mount it and repeat",
            root.display()
        )));
    }
    for (former, name, hook) in HOOKS {
        // A daemon with one program for both levels pinned the child's copy.
        for name in [former, name] {
            for (_, cgroup) in &cgroups {
                detach_pin(&pins.join(name), cgroup.as_fd(), hook)?;
            }
        }
    }
    Ok(())
}

/// Detaches the program that is pinned at `pin`, if there is one. The pin stays.
pub(super) fn detach_pin(
    pin: &Path,
    cgroup: BorrowedFd<'_>,
    hook: bpf_attach_type,
) -> io::Result<()> {
    if let Some(program) = pinned(pin)? {
        detach(cgroup, program.as_fd(), hook)?;
    }
    Ok(())
}

/// The program that is pinned at `path`; `None` if there is no file.
pub(super) fn pinned(path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = terminated(path)?;
    let mut attr = empty();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    match bpf(bpf_cmd::BPF_OBJ_GET, &mut attr) {
        Ok(fd) => Ok(Some(own(fd))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Pins a program, so that it outlives this process.
pub(super) fn pin(program: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = terminated(path)?;
    let mut attr = empty();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = number(program);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens a loaded program by its ID.
pub(super) fn by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    bpf(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr).map(own)
}

fn map_name(id: u32) -> io::Result<String> {
    let mut attr = empty();
    attr.__bindgen_anon_6.__bindgen_anon_1.map_id = id;
    let map = own(bpf(bpf_cmd::BPF_MAP_GET_FD_BY_ID, &mut attr)?);
    // SAFETY: an integer structure, for which zero is a valid value.
    let mut info: bpf_map_info = unsafe { zeroed() };
    read_info(map.as_fd(), &mut info)?;
    Ok(text(&info.name.map(byte)))
}

/// A character of C, which has a sign on x86 and none on ARM.
fn byte(character: c_char) -> u8 {
    let [byte] = character.to_ne_bytes();
    byte
}

fn read_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = empty();
    attr.info.bpf_fd = number(object);
    attr.info.info_len = length_of::<T>();
    attr.info.info = std::ptr::from_mut(info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

fn target(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>, hook: bpf_attach_type) -> bpf_attr {
    let mut attr = empty();
    attr.__bindgen_anon_5.__bindgen_anon_1.target_fd = number(cgroup);
    attr.__bindgen_anon_5.attach_bpf_fd = number(program);
    attr.__bindgen_anon_5.attach_type = hook as u32;
    attr
}

/// A zero-padded name as text.
fn text(name: &[u8]) -> String {
    let name = CStr::from_bytes_until_nul(name).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just created the descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
