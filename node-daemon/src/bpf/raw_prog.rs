//! Programs that the daemon assembles from instructions, and the maps and program arrays that they use.
#![cfg_attr(not(test), expect(unsafe_code, reason = "system calls"))]

use std::{
    ffi::{CStr, c_char},
    io,
    os::fd::{BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{
    BPF_F_RDONLY_PROG, bpf_attach_type, bpf_cmd, bpf_map_type, bpf_prog_type,
};

use super::syscall::{bpf, empty, length_of, number};

/// Loads a program. `code` has the instructions as integers in the byte order of this machine
/// (RFC 9669).
pub(super) fn load_program(
    kind: bpf_prog_type,
    hook: Option<bpf_attach_type>,
    name: &CStr,
    code: &[u64],
) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.__bindgen_anon_3.prog_type = kind as u32;
    attr.__bindgen_anon_3.expected_attach_type = hook.map_or(0, |hook| hook as u32);
    attr.__bindgen_anon_3.insns = code.as_ptr() as u64;
    attr.__bindgen_anon_3.insn_cnt = u32::try_from(code.len()).map_err(io::Error::other)?;
    attr.__bindgen_anon_3.license = c"Dual MIT/GPL".as_ptr() as u64;
    // SAFETY: integer members of this command.
    let prog_name = unsafe { &mut attr.__bindgen_anon_3.prog_name };
    copy_name(name, prog_name);
    // SAFETY: the descriptor has no other owner.
    bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Creates an array of one value of eight bytes, which programs only read.
pub(super) fn create_value(name: &CStr) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.__bindgen_anon_1.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    attr.__bindgen_anon_1.key_size = length_of::<u32>();
    attr.__bindgen_anon_1.value_size = length_of::<u64>();
    attr.__bindgen_anon_1.max_entries = 1;
    attr.__bindgen_anon_1.map_flags = BPF_F_RDONLY_PROG;
    // SAFETY: integer members of this command.
    let map_name = unsafe { &mut attr.__bindgen_anon_1.map_name };
    copy_name(name, map_name);
    // SAFETY: the descriptor has no other owner.
    bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Writes the value of such an array, and freezes the map.
pub(super) fn write_and_freeze(map: BorrowedFd<'_>, value: u64) -> io::Result<()> {
    let first = 0_u32;
    let mut attr = empty();
    attr.__bindgen_anon_2.map_fd = number(map);
    attr.__bindgen_anon_2.key = (&raw const first) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = (&raw const value) as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr)?;
    let mut attr = empty();
    attr.__bindgen_anon_2.map_fd = number(map);
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr).map(drop)
}

/// Writes a program to a program array.
pub(super) fn set_program(
    array: BorrowedFd<'_>,
    index: u32,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    let value = number(program);
    let mut attr = empty();
    attr.__bindgen_anon_2.map_fd = number(array);
    attr.__bindgen_anon_2.key = (&raw const index) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = (&raw const value) as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

fn copy_name(name: &CStr, to: &mut [c_char]) {
    for (to, from) in to.iter_mut().zip(name.to_bytes_with_nul()) {
        *to = c_char::from_ne_bytes([*from]);
    }
}

/// One instruction (RFC 9669) as an integer on a little-endian machine: opcode, destination, source,
/// offset, immediate.
pub(super) fn one(operation: u64, to: u64, from: u64, offset: i16, immediate: i32) -> u64 {
    let (offset, immediate) = (offset.cast_unsigned(), immediate.cast_unsigned());
    operation | to << 8 | from << 12 | u64::from(offset) << 16 | u64::from(immediate) << 32
}
