//! The offsets of kernel structure members in this kernel: for acceleration, and for the owner of a
//! socket.

use std::{fs, io};

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};
use sluice_abi::{CredOffsets, KernelOffsets};

use super::{btf::Btf, link};

/// The kernel function that `splice(2)` calls to read from a TCP socket.
pub(super) const SPLICE_FN: &str = "tcp_splice_read";

/// The kernel's own BTF.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The reason why an offset is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The kernel has no BTF.
    #[error("the kernel has no BTF ({VMLINUX}: {source}); is it built with CONFIG_DEBUG_INFO_BTF?")]
    Absent {
        /// The kernel's error.
        source: io::Error,
    },
    /// The BTF is truncated, or its format is newer than this daemon.
    #[error("the BTF of this kernel ({VMLINUX}) cannot be parsed")]
    Strange,
    /// The kernel does not let programs read its memory.
    #[error(
        "the kernel does not let programs read its memory (bpf_probe_read_kernel): 'confidentiality' in \
         /sys/kernel/security/lockdown forbids it"
    )]
    Forbidden,
    /// The kernel lacks a function or member.
    #[error("this kernel has no '{what}'")]
    Missing {
        /// A function, or a structure and its member.
        what: String,
    },
}

/// Reads the offsets of the running kernel for acceleration.
pub(crate) fn of_this_kernel() -> Result<KernelOffsets, Error> {
    with_btf(read)
}

/// Reads the offsets of the running kernel on the way from a socket to its creator's credentials.
pub(super) fn of_creds() -> Result<CredOffsets, Error> {
    with_btf(|btf| {
        Ok(CredOffsets {
            valid: 1,
            sk_socket: offset(btf, "sock", "sk_socket")?,
            file: offset(btf, "socket", "file")?,
            f_cred: offset(btf, "file", "f_cred")?,
            fsuid: offset(btf, "cred", "fsuid")?,
            fsgid: offset(btf, "cred", "fsgid")?,
        })
    })
}

fn with_btf<T>(read: impl FnOnce(&Btf<'_>) -> Result<T, Error>) -> Result<T, Error> {
    let bytes = fs::read(VMLINUX).map_err(|source| Error::Absent { source })?;
    // An error of the probe itself says nothing about the helper.
    if let Ok(false) =
        is_helper_supported(ProgramType::SockOps, BpfHelper::BPF_FUNC_probe_read_kernel)
    {
        return Err(Error::Forbidden);
    }
    read(&Btf::parse(&bytes).ok_or(Error::Strange)?)
}

fn offset(btf: &Btf<'_>, structure: &str, member: &str) -> Result<u32, Error> {
    let found = btf.offset(structure, member);
    found.ok_or_else(|| missing(&format!("{structure}.{member}")))
}

/// Whether an `fentry` program can detect `splice(2)`. Some kernels are built without support, some
/// machines forbid it.
pub(super) fn can_trace_splice() -> bool {
    let bytes = fs::read(VMLINUX).unwrap_or_default();
    let function = Btf::parse(&bytes).and_then(|btf| btf.function(SPLICE_FN));
    function.is_some_and(|function| link::probe_fentry(function).is_ok())
}

fn read(btf: &Btf<'_>) -> Result<KernelOffsets, Error> {
    let offset = |structure: &str, member: &str| offset(btf, structure, member);
    let zero_copy = "SOCK_ZEROCOPY";
    let zero_copy = btf
        .enumerator("sock_flags", zero_copy)
        .ok_or_else(|| missing(zero_copy))?;
    Ok(KernelOffsets {
        valid: 1,
        write_seq: offset("tcp_sock", "write_seq")?,
        copied_seq: offset("tcp_sock", "copied_seq")?,
        data_segs_out: offset("tcp_sock", "data_segs_out")?,
        skc_flags: offset("sock_common", "skc_flags")?,
        zero_copy,
        sk_socket: offset("sock", "sk_socket")?,
        sk_user_data: offset("sock", "sk_user_data")?,
        sk: offset("socket", "sk")?,
        file: offset("socket", "file")?,
        f_flags: offset("file", "f_flags")?,
        ingress_msg: offset("sk_psock", "ingress_msg")?,
        refcnt: offset("sk_psock", "refcnt")?,
        pad: 0,
    })
}

fn missing(what: &str) -> Error {
    Error::Missing {
        what: what.to_owned(),
    }
}
