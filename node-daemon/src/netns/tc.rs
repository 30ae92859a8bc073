//! `tc` filters with BPF programs on interfaces of the calling thread's netns, in the queueing discipline
//! `clsact`. The kernel removes both with the interface.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use super::{
    Error,
    links::attributes,
    netlink::{Limit, Request},
};

/// Messages of `linux/rtnetlink.h`, and the size of `struct tcmsg`.
const NEW_QDISC: u16 = 36;
const DEL_QDISC: u16 = 37;
const NEW_FILTER: u16 = 44;
const DEL_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;
const HEADER: usize = 20;
/// `TCA_KIND`, `TCA_OPTIONS`; `TCA_BPF_FD`, `TCA_BPF_NAME`, `TCA_BPF_FLAGS` (`linux/pkt_cls.h`).
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
/// `TCA_BPF_FLAG_ACT_DIRECT`: the program's result is the action.
const ACT_DIRECT: u32 = 1;
/// `TC_H_CLSACT`, and the handle of that discipline.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// The filter runs first, and no other program uses this handle.
const PREFERENCE: u32 = 1;
const HANDLE: u32 = 0x51ce;
/// `ETH_P_ALL`, in network byte order.
const ALL_PROTOCOLS: u32 = 3_u16.to_be() as u32;
/// The limit of filters on one hook of an interface.
const FILTERS: Limit = Limit {
    what: "tc filters",
    most: 1024,
};

/// A hook of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// For packets that arrive.
    In,
    /// For packets that leave.
    Out,
}

impl Hook {
    /// Both.
    pub(super) const BOTH: [Self; 2] = [Self::In, Self::Out];

    /// `TC_H_MIN_INGRESS`, `TC_H_MIN_EGRESS`.
    fn parent(self) -> u32 {
        match self {
            Self::In => 0xffff_fff2,
            Self::Out => 0xffff_fff3,
        }
    }
}

/// Attaches a program, in place of Sluice's earlier one. `label` is the filter's name, which
/// [`label`] returns.
pub(super) fn attach(
    interface: u32,
    hook: Hook,
    label: &str,
    program: BorrowedFd<'_>,
) -> Result<(), Error> {
    let discipline = [
        message(interface, CLSACT_HANDLE, CLSACT, 0),
        attribute(KIND, b"clsact\0"),
    ]
    .concat();
    let added = Request::rtnetlink(NEW_QDISC, &discipline).act_with(NLM_F_CREATE | NLM_F_EXCL);
    unless(added, &[libc::EEXIST])?;
    let options = [
        attribute(BPF_FD, &program.as_raw_fd().to_ne_bytes()),
        attribute(BPF_NAME, &[label.as_bytes(), b"\0"].concat()),
        attribute(BPF_FLAGS, &ACT_DIRECT.to_ne_bytes()),
    ]
    .concat();
    let filter = [
        filter_message(interface, hook),
        attribute(KIND, b"bpf\0"),
        attribute(OPTIONS, &options),
    ]
    .concat();
    Request::rtnetlink(NEW_FILTER, &filter).act_with(NLM_F_CREATE | NLM_F_REPLACE)
}

/// Detaches Sluice's programs, and removes a discipline without filters. An interface that is gone is
/// no error.
pub(super) fn detach(interface: u32) -> Result<(), Error> {
    let mut others = 0;
    for hook in Hook::BOTH {
        if label(interface, hook)?.is_some() {
            let filter = [filter_message(interface, hook), attribute(KIND, b"bpf\0")].concat();
            let removed = Request::rtnetlink(DEL_FILTER, &filter).act();
            unless(removed, &[libc::ENOENT, libc::ENODEV])?;
        }
        others += labels(interface, hook)?.len();
    }
    if others == 0 {
        let discipline = message(interface, CLSACT_HANDLE, CLSACT, 0);
        let removed = Request::rtnetlink(DEL_QDISC, &discipline).act();
        unless(removed, &[libc::ENOENT, libc::ENODEV, libc::EINVAL])?;
    }
    Ok(())
}

/// The label of Sluice's filter, if it is attached.
pub(super) fn label(interface: u32, hook: Hook) -> Result<Option<String>, Error> {
    let all = labels(interface, hook)?;
    let own = all.into_iter().find(|(handle, _)| *handle == HANDLE);
    Ok(own.map(|(_, label)| label))
}

/// Handles and names of the filters.
fn labels(interface: u32, hook: Hook) -> Result<Vec<(u32, String)>, Error> {
    let mut found = Vec::new();
    let body = message(interface, 0, hook.parent(), 0);
    let dumped =
        Request::rtnetlink(GET_FILTER, &body).dump(FILTERS, |body| found.extend(filter(body)));
    // The discipline, or the interface, is not there.
    unless(dumped, &[libc::EINVAL, libc::ENODEV, libc::ENOENT])?;
    Ok(found)
}

/// Handle and name of an `RTM_NEWTFILTER` with a filter: the kernel reports the lists of filters, too,
/// with the handle 0.
fn filter(body: &[u8]) -> Option<(u32, String)> {
    let handle = u32::from_ne_bytes(*body.get(8..)?.first_chunk()?);
    let options = attributes(body, HEADER).find(|one| one.kind() == OPTIONS);
    let name = options.and_then(|options| {
        let name = attributes(options.value(), 0).find(|one| one.kind() == BPF_NAME)?;
        let text = String::from_utf8_lossy(name.value()).into_owned();
        Some(text.trim_end_matches('\0').to_owned())
    });
    (handle != 0).then(|| (handle, name.unwrap_or_default()))
}

/// Ignores some errors of the kernel.
fn unless(done: Result<(), Error>, expected: &[i32]) -> Result<(), Error> {
    match done {
        Err(Error::Io { source, .. })
            if source
                .raw_os_error()
                .is_some_and(|code| expected.contains(&code)) =>
        {
            Ok(())
        }
        done => done,
    }
}

fn filter_message(interface: u32, hook: Hook) -> Vec<u8> {
    let info = PREFERENCE << 16 | ALL_PROTOCOLS;
    message(interface, HANDLE, hook.parent(), info)
}

/// `struct tcmsg`.
fn message(interface: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let words = [0, interface, handle, parent, info];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// An attribute, padded to four bytes (`netlink(7)`).
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn filter_accepts_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _any = filter(&bytes);
        }
    }
}
