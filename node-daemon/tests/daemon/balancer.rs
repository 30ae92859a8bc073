//! Other owners of programs at a cgroup: a load balancer, which replaces a Service's address by that of a
//! backend, and an agent that clears the cgroup.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use aya_obj::generated::{
    BPF_F_ALLOW_MULTI, BPF_F_BEFORE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type,
};

/// The Service, which no interface has, and the balancer's backend.
const SERVICE: [u8; 4] = [10, 96, 0, 10];
const BACKEND: [u8; 4] = [10, 1, 0, 99];
const SERVICE_PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;
const CONNECT4: bpf_attach_type = bpf_attach_type::BPF_CGROUP_INET4_CONNECT;

/// A `connect4` program at a cgroup, without a link, as load balancers attach theirs.
pub(crate) struct Balancer {
    program: OwnedFd,
    cgroup: File,
}

impl Balancer {
    pub(crate) fn attach(cgroup: &Path) -> Self {
        Self::attach_with(cgroup, BPF_F_ALLOW_MULTI)
    }

    /// Before the programs that the cgroup has (Linux 6.17).
    pub(crate) fn attach_first(cgroup: &Path) -> Self {
        Self::attach_with(cgroup, BPF_F_ALLOW_MULTI | BPF_F_BEFORE)
    }

    /// Alone at its hook.
    pub(crate) fn attach_exclusively(cgroup: &Path) -> Self {
        Self::attach_with(cgroup, 0)
    }

    fn attach_with(cgroup: &Path, flags: u32) -> Self {
        let balancer = Self {
            program: load(),
            cgroup: File::open(cgroup).unwrap(),
        };
        balancer.run(bpf_cmd::BPF_PROG_ATTACH, flags).unwrap();
        balancer
    }

    fn run(&self, command: bpf_cmd, flags: u32) -> io::Result<()> {
        let Self { program, cgroup } = self;
        attachment(command, cgroup, CONNECT4, program, flags)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _gone = self.run(bpf_cmd::BPF_PROG_DETACH, 0);
    }
}

/// Detaches every socket address program from a cgroup, as an agent does that clears the root.
/// Returns their number.
pub(crate) fn clear(cgroup: &Path) -> usize {
    use bpf_attach_type::*;
    const HOOKS: [bpf_attach_type; 10] = [
        BPF_CGROUP_INET4_CONNECT,
        BPF_CGROUP_INET6_CONNECT,
        BPF_CGROUP_INET4_GETPEERNAME,
        BPF_CGROUP_INET6_GETPEERNAME,
        BPF_CGROUP_INET4_POST_BIND,
        BPF_CGROUP_INET6_POST_BIND,
        BPF_CGROUP_UDP4_RECVMSG,
        BPF_CGROUP_UDP6_RECVMSG,
        BPF_CGROUP_UDP4_SENDMSG,
        BPF_CGROUP_UDP6_SENDMSG,
    ];
    let cgroup = File::open(cgroup).unwrap();
    let clear = |hook: bpf_attach_type| {
        let mut ids = [0_u32; 64];
        let mut attr: bpf_attr = empty();
        attr.query.__bindgen_anon_1.target_fd = number(&cgroup);
        attr.query.attach_type = hook as u32;
        attr.query.prog_ids = ids.as_mut_ptr() as u64;
        attr.query.__bindgen_anon_2.prog_cnt = 64;
        bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr).unwrap();
        // SAFETY: a number, which the kernel has written.
        let count = unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize;
        for id in &ids[..count] {
            let mut attr: bpf_attr = empty();
            attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = *id;
            let program = bpf(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr).unwrap();
            attachment(bpf_cmd::BPF_PROG_DETACH, &cgroup, hook, &own(program), 0)
                .expect("no link holds it");
        }
        count
    };
    HOOKS.into_iter().map(clear).sum()
}

/// `if user_ip4 == SERVICE && user_port == SERVICE_PORT { user_ip4 = BACKEND; user_port = … } 1`,
/// in instructions of RFC 9669.
fn load() -> OwnedFd {
    const IP: i16 = 4;
    const PORT: i16 = 24;
    let word = |address| i32::from_ne_bytes(address);
    let port = |port: u16| i32::from(port.to_be());
    let code = [
        code(0x61, 0x12, IP, 0),
        code(0x56, 0x02, 6, word(SERVICE)),
        code(0x61, 0x13, PORT, 0),
        code(0x56, 0x03, 4, port(SERVICE_PORT)),
        code(0xb4, 0x04, 0, word(BACKEND)),
        code(0x63, 0x41, IP, 0),
        code(0xb4, 0x04, 0, port(BACKEND_PORT)),
        code(0x63, 0x41, PORT, 0),
        code(0xb7, 0x00, 0, 1),
        code(0x95, 0x00, 0, 0),
    ];
    let mut attr: bpf_attr = empty();
    attr.__bindgen_anon_3.prog_type = bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32;
    attr.__bindgen_anon_3.expected_attach_type = CONNECT4 as u32;
    attr.__bindgen_anon_3.insns = code.as_ptr() as u64;
    attr.__bindgen_anon_3.insn_cnt = u32::try_from(code.len()).unwrap();
    attr.__bindgen_anon_3.license = c"GPL".as_ptr() as u64;
    // SAFETY: plain numbers of this command.
    let name = unsafe { &mut attr.__bindgen_anon_3.prog_name };
    for (to, from) in name.iter_mut().zip(b"balance_connect") {
        *to = from.cast_signed();
    }
    let fd = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).expect("the verifier takes the balancer");
    own(fd)
}

/// Attaches a program to a hook of a cgroup, or detaches it.
fn attachment(
    command: bpf_cmd,
    cgroup: &File,
    hook: bpf_attach_type,
    program: &OwnedFd,
    flags: u32,
) -> io::Result<()> {
    let mut attr: bpf_attr = empty();
    attr.__bindgen_anon_5.__bindgen_anon_1.target_fd = number(cgroup);
    attr.__bindgen_anon_5.attach_bpf_fd = number(program);
    attr.__bindgen_anon_5.attach_type = hook as u32;
    attr.__bindgen_anon_5.attach_flags = flags;
    bpf(command, &mut attr).map(drop)
}

fn empty() -> bpf_attr {
    // SAFETY: plain numbers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just created the descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// One instruction. `registers`: the source in the high four bits, the destination in the low ones.
fn code(opcode: u8, registers: u8, offset: i16, immediate: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = immediate.to_le_bytes();
    u64::from_le_bytes([opcode, registers, low, high, a, b, c, d])
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    let length = size_of::<bpf_attr>();
    // SAFETY: `attr` and everything that its pointers refer to live across the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command as u32, &raw mut *attr, length) };
    match i32::try_from(done) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

fn number(fd: &impl std::os::fd::AsFd) -> u32 {
    fd.as_fd().as_raw_fd().unsigned_abs()
}
