//! Whether a network namespace rewrites the destinations of its own connections: the sidecar rules
//! of an init container, most likely.

use std::{fs, io};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NlaBuffer, NlasIterator};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::Error;

/// Tables of the old iptables that this namespace uses.
const LEGACY: &str = "/proc/thread-self/net/ip_tables_names";

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN`, of the kernel's `linux/netfilter` headers.
const GET_CHAIN: u16 = 10 << 8 | 4;
/// `NFTA_CHAIN_HOOK`, which nests `NFTA_HOOK_HOOKNUM`.
const HOOK: u16 = 4;
const HOOK_NUMBER: u16 = 1;
/// `NFTA_CHAIN_USE`: rules in the chain, and jumps to it.
const USE: u16 = 6;
/// `NFTA_CHAIN_TYPE`.
const TYPE: u16 = 7;
/// `NF_INET_LOCAL_OUT`.
const LOCAL_OUT: u32 = 3;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADER: usize = 16;
const GENERIC: usize = 4;
/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Whether this thread's namespace has rules in a NAT chain for its own connections.
pub(super) fn rewrites_own_connections() -> Result<bool, Error> {
    let legacy = fs::read_to_string(LEGACY).unwrap_or_default();
    if legacy.lines().any(|table| table == "nat") {
        return Ok(true);
    }
    dump().map_err(|source| Error::Io {
        what: "NETLINK_NETFILTER",
        source,
    })
}

fn dump() -> io::Result<bool> {
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.send_to(&request(), &SocketAddr::new(0, 0), 0)?;
    let mut found = false;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if !take(&datagram, &mut found)? {
            return Ok(found);
        }
    }
}

/// A dump of every chain, of every family (`NFPROTO_UNSPEC`).
fn request() -> [u8; HEADER + GENERIC] {
    let mut request = [0; HEADER + GENERIC];
    request[..4].copy_from_slice(&20_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&GET_CHAIN.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request
}

/// Looks through the messages of one datagram. `false` after the last.
fn take(mut datagram: &[u8], found: &mut bool) -> io::Result<bool> {
    while let Some((head, _)) = datagram.split_first_chunk::<HEADER>() {
        let [a, b, c, d, kind, kind_high, ..] = *head;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let body = datagram.get(HEADER..length).unwrap_or_default();
        match u16::from_ne_bytes([kind, kind_high]) {
            DONE => return Ok(false),
            // A kernel without nf_tables has no such rules.
            ERROR => return refusal(body).map(|()| false),
            _ => *found |= is_own_nat(body.get(GENERIC..).unwrap_or_default()),
        }
        datagram = datagram
            .get(length.next_multiple_of(4).max(HEADER)..)
            .unwrap_or_default();
    }
    Ok(true)
}

/// The error of an `NLMSG_ERROR`. A kernel without `nf_tables` says `EINVAL` or `EOPNOTSUPP`.
fn refusal(body: &[u8]) -> io::Result<()> {
    let code = body
        .first_chunk()
        .map_or(0, |code| i32::from_ne_bytes(*code));
    match -code {
        0 | libc::EINVAL | libc::EOPNOTSUPP => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Whether a chain's attributes say: NAT, of local output, and not empty.
fn is_own_nat(attributes: &[u8]) -> bool {
    let (mut nat, mut output, mut used) = (false, false, false);
    for attribute in NlasIterator::new(attributes).flatten() {
        let value = attribute.value();
        match attribute.kind() {
            TYPE => nat = value.strip_suffix(&[0]).unwrap_or(value) == b"nat",
            USE => used = number(value).is_some_and(|count| count > 0),
            HOOK => output = hook(value) == Some(LOCAL_OUT),
            _ => {}
        }
    }
    nat && output && used
}

fn hook(nested: &[u8]) -> Option<u32> {
    let mut attributes = NlasIterator::new(nested).flatten();
    let number_of = |one: NlaBuffer<&[u8]>| number(one.value());
    attributes
        .find(|one| one.kind() == HOOK_NUMBER)
        .and_then(number_of)
}

/// Numbers of `nf_tables` are in network byte order.
fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// One reply of `NETLINK_NETFILTER`.
#[cfg(fuzzing)]
pub(super) fn fuzz(datagram: &[u8]) {
    let _complete = take(datagram, &mut false);
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, process::Stdio};

    use proptest::prelude::*;

    use super::*;
    use crate::netns;

    fn rewrites(rules: &str) -> bool {
        let namespace = netns::fresh().expect("this test must run as root");
        let rules = rules.to_owned();
        netns::enter::run(std::os::fd::AsFd::as_fd(&namespace), move || {
            let mut restore = std::process::Command::new("iptables-restore")
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = restore.stdin.take().unwrap();
            stdin.write_all(rules.as_bytes()).unwrap();
            drop(stdin);
            assert!(restore.wait().unwrap().success());
            rewrites_own_connections().unwrap()
        })
        .unwrap()
    }

    #[test]
    fn a_sidecars_rules_are_seen_and_others_are_not() {
        let sidecar = "*nat\n:ISTIO_OUTPUT - [0:0]\n-A OUTPUT -j ISTIO_OUTPUT\n\
                       -A ISTIO_OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n";
        assert!(rewrites(sidecar));
        assert!(!rewrites(
            "*nat\n-A PREROUTING -p tcp --dport 1 -j REDIRECT --to-ports 2\nCOMMIT\n"
        ));
        assert!(!rewrites(
            "*filter\n-A OUTPUT -p tcp --dport 25 -j DROP\nCOMMIT\n"
        ));
        assert!(!rewrites("*filter\nCOMMIT\n"));
    }

    proptest! {
        #[test]
        fn no_datagram_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _either = take(&bytes, &mut false);
        }
    }
}
