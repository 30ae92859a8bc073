//! Links: a link attaches a program as long as a descriptor or a pin holds it.
//!
//! aya creates links, but cannot replace the program of a cgroup or netns link, so this module makes the
//! system calls.
#![cfg_attr(not(test), expect(unsafe_code, reason = "system calls"))]

use std::{
    io,
    mem::zeroed,
    os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    path::Path,
};

use aya_obj::generated::{BPF_F_BEFORE, bpf_attach_type, bpf_cmd, bpf_link_info, bpf_prog_type};
use nix::errno::Errno;

use super::syscall::{bpf, empty, length_of, number, terminated};

/// A link of a program to a hook.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    /// Attaches a program. A link permits other programs beside it (`BPF_F_ALLOW_MULTI` is implied,
    /// `cgroup_bpf_link_attach`). At a cgroup it runs before the existing programs, if the kernel
    /// supports an order (Linux 6.17).
    pub(super) fn attach(
        program: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        hook: bpf_attach_type,
    ) -> io::Result<Self> {
        let create = |flags| {
            let mut attr = empty();
            attr.link_create.__bindgen_anon_1.prog_fd = number(program);
            attr.link_create.__bindgen_anon_2.target_fd = number(target);
            attr.link_create.attach_type = hook as u32;
            attr.link_create.flags = flags;
            bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr).map(Self::own)
        };
        match create(BPF_F_BEFORE) {
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => create(0),
            other => other,
        }
    }

    /// Attaches a tracing program to the kernel function for which it was loaded.
    pub(super) fn attach_tracing(program: BorrowedFd<'_>) -> io::Result<Self> {
        let mut attr = empty();
        attr.raw_tracepoint.prog_fd = number(program);
        bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr).map(Self::own)
    }

    /// Opens the link that is pinned at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = terminated(path)?;
        let mut attr = empty();
        attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
        bpf(bpf_cmd::BPF_OBJ_GET, &mut attr).map(Self::own)
    }

    /// Pins the link, so that it outlives this process.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        let path = terminated(path)?;
        let mut attr = empty();
        attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
        attr.__bindgen_anon_4.bpf_fd = number(self.0.as_fd());
        bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
    }

    /// Replaces the program atomically, between two calls of the hook. Fails with `ENOLINK` if the
    /// link's target was removed.
    pub(super) fn replace(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attr = empty();
        attr.link_update.link_fd = number(self.0.as_fd());
        attr.link_update.__bindgen_anon_1.new_prog_fd = number(program);
        bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
    }

    /// The program's ID.
    pub(super) fn program(&self) -> io::Result<u32> {
        self.info().map(|info| info.prog_id)
    }

    /// ID of the link's cgroup: its inode number.
    pub(super) fn cgroup(&self) -> io::Result<u64> {
        // SAFETY: the kernel fills this member for links of cgroup programs; for other links it is an
        // arbitrary integer, which matches no cgroup of ours.
        self.info()
            .map(|info| unsafe { info.__bindgen_anon_1.cgroup.cgroup_id })
    }

    /// Whether the link's network namespace still exists.
    pub(super) fn netns_exists(&self) -> io::Result<bool> {
        // SAFETY: as for `cgroup`. The kernel writes 0 once the namespace is removed
        // (`bpf_netns_link_fill_info`).
        self.info()
            .map(|info| unsafe { info.__bindgen_anon_1.netns.netns_ino } != 0)
    }

    fn info(&self) -> io::Result<bpf_link_info> {
        // SAFETY: an integer structure, for which zero is a valid value.
        let mut info: bpf_link_info = unsafe { zeroed() };
        let mut attr = empty();
        attr.info.bpf_fd = number(self.0.as_fd());
        attr.info.info_len = length_of::<bpf_link_info>();
        attr.info.info = (&raw mut info) as u64;
        bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(|_| info)
    }

    /// Owns a descriptor that the kernel has just created.
    fn own(fd: RawFd) -> Self {
        // SAFETY: the descriptor has no other owner.
        Self(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// Attaches a program to a sockmap, in place of the previous one: it applies to every socket that is
/// added from now on. It stays as long as the map. (Links of this kind exist since Linux 6.10.)
pub(super) fn attach_to_map(
    program: BorrowedFd<'_>,
    map: BorrowedFd<'_>,
    hook: bpf_attach_type,
) -> io::Result<()> {
    let mut attr = empty();
    attr.__bindgen_anon_5.__bindgen_anon_1.target_fd = number(map);
    attr.__bindgen_anon_5.attach_bpf_fd = number(program);
    attr.__bindgen_anon_5.attach_type = hook as u32;
    bpf(bpf_cmd::BPF_PROG_ATTACH, &mut attr).map(drop)
}

/// Attaches an empty program to a kernel function, by its BTF ID, and detaches it again.
pub(super) fn probe_fentry(function: u32) -> io::Result<()> {
    // `r0 = 0; exit` (RFC 9669).
    const CODE: [u64; 2] = [0xb7, 0x95];
    let mut attr = empty();
    attr.__bindgen_anon_3.prog_type = bpf_prog_type::BPF_PROG_TYPE_TRACING as u32;
    attr.__bindgen_anon_3.expected_attach_type = bpf_attach_type::BPF_TRACE_FENTRY as u32;
    attr.__bindgen_anon_3.attach_btf_id = function;
    attr.__bindgen_anon_3.insns = CODE.as_ptr() as u64;
    attr.__bindgen_anon_3.insn_cnt = 2;
    attr.__bindgen_anon_3.license = c"GPL".as_ptr() as u64;
    // SAFETY: the descriptor has no other owner.
    let program = unsafe { OwnedFd::from_raw_fd(bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)?) };
    Link::attach_tracing(program.as_fd()).map(drop)
}
