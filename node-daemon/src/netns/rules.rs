//! Detection of NAT rules on a netns's own connections, which most likely come from a sidecar's
//! init container.

use std::fs;

use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{
    Error,
    netlink::{Limit, Request},
};

/// The legacy iptables tables of this namespace.
const LEGACY: &str = "/proc/thread-self/net/ip_tables_names";

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN`, of the kernel's `linux/netfilter` headers.
const GET_CHAIN: u16 = 10 << 8 | 4;
/// `NFTA_CHAIN_HOOK`, which nests `NFTA_HOOK_HOOKNUM`.
const HOOK: u16 = 4;
const HOOK_NUMBER: u16 = 1;
/// `NFTA_CHAIN_USE`: the number of rules in the chain and of jumps to it.
const USE: u16 = 6;
/// `NFTA_CHAIN_TYPE`.
const TYPE: u16 = 7;
/// `NF_INET_LOCAL_OUT`.
const LOCAL_OUT: u32 = 3;
/// `struct nfgenmsg`.
const GENERIC: usize = 4;
/// The limit of chains.
const CHAINS: Limit = Limit {
    what: "chains of nftables",
    most: 65_536,
};

/// Whether this thread's namespace has rules in a NAT chain for local output.
pub(super) fn rewrites_own_connections() -> Result<bool, Error> {
    let legacy = fs::read_to_string(LEGACY).unwrap_or_default();
    if legacy.lines().any(|table| table == "nat") {
        return Ok(true);
    }
    // A dump of all chains of all families (`NFPROTO_UNSPEC`).
    let request = Request {
        family: "NETLINK_NETFILTER",
        protocol: NETLINK_NETFILTER,
        kind: GET_CHAIN,
        body: &[0; GENERIC],
    };
    let mut found = false;
    let done = request.dump(CHAINS, |body| {
        found |= is_own_nat(body.get(GENERIC..).unwrap_or_default());
    });
    match done {
        Err(Error::Io { source, .. }) if is_absent(source.raw_os_error()) => Ok(false),
        done => done.map(|()| found),
    }
}

/// A kernel without `nf_tables` has no such rules, and returns `EINVAL` or `EOPNOTSUPP`.
fn is_absent(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::EINVAL | libc::EOPNOTSUPP))
}

/// Whether a chain is a non-empty NAT chain of local output.
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
    let _complete = super::netlink::walk(datagram, &mut |body| {
        let _either = is_own_nat(body.get(GENERIC..).unwrap_or_default());
        true
    });
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, process::Stdio};

    use proptest::prelude::*;

    use super::*;
    use crate::netns;

    fn rewrites(rules: &str) -> bool {
        let namespace = netns::new_netns().expect("this test must run as root");
        let rules = rules.to_owned();
        netns::enter::run_in(std::os::fd::AsFd::as_fd(&namespace), move || {
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
    fn redirect_rules_of_sidecars_are_recognised() {
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
        fn no_attributes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _either = is_own_nat(&bytes);
        }
    }
}
