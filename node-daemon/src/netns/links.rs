//! Interfaces and addresses of the calling thread's netns, over rtnetlink.

use std::{ffi::CStr, fs::File, net::IpAddr, os::fd::AsRawFd as _};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use netlink_packet_core::{NlaBuffer, NlasIterator};
use nix::net::if_::if_nametoindex;
use rtnetlink::{
    Handle,
    packet_route::address::{AddressAttribute, AddressMessage},
};

use super::{
    Error,
    netlink::{Limit, PATIENCE, Request},
};

const LOOPBACK: &str = "lo";

/// The limit of interfaces, and of addresses of all of them.
const LINKS: Limit = Limit {
    what: "interfaces",
    most: 1024,
};
const ADDRESSES: Limit = Limit {
    what: "addresses",
    most: 4096,
};
/// `RTM_GETLINK`, `RTM_GETADDR`, `RTM_GETNSID` (`linux/rtnetlink.h`), and the headers of their
/// bodies: `struct ifinfomsg`, `struct ifaddrmsg`, `struct rtgenmsg`.
const GET_LINK: u16 = 18;
const LINK: usize = 16;
const GET_ADDRESS: u16 = 22;
const ADDRESS: usize = 8;
const GET_NSID: u16 = 90;
const GENERIC: usize = 4;
/// `IFLA_IFNAME`, `IFLA_LINKINFO`, `IFLA_LINK_NETNSID`, `IFLA_INFO_SLAVE_KIND` (`linux/if_link.h`).
const LINK_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const INFO_SLAVE_KIND: u16 = 4;
const LINK_NETNSID: u16 = 37;
/// `IFA_ADDRESS`, `IFA_LOCAL` (`linux/if_addr.h`).
const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
/// `IFA_F_DADFAILED`, a bit of the flags in `struct ifaddrmsg`.
const DUPLICATE: u8 = 0x08;
/// `NETNSA_NSID`, `NETNSA_FD` (`linux/net_namespace.h`).
const NSID_NSID: u16 = 1;
const NSID_FD: u16 = 3;

/// Types of links (`linux/if_arp.h`) and the lengths of their headers, in bytes: Ethernet (also bridges and
/// taps), and IP without a header (`tun`: `ARPHRD_NONE`, `ARPHRD_RAWIP`).
const LINK_HEADERS: [(u16, u8); 3] = [(1, 14), (0xfffe, 0), (519, 0)];

/// An interface at which the programs of virtual interfaces can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VirtualLink {
    /// Its index in this namespace.
    pub(crate) index: u32,
    /// Its name in this namespace.
    pub(crate) name: String,
    /// The length of the link's header, in bytes.
    pub(crate) header: u8,
}

/// An interface with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its name in this namespace.
    pub(crate) name: String,
    /// Its index in this namespace.
    pub(crate) index: u32,
    /// Its addresses of both families.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Every interface of the namespace (`rtnetlink(7)`).
pub(super) fn interfaces() -> Result<Vec<Interface>, Error> {
    let mut found = Vec::new();
    Request::rtnetlink(GET_LINK, &[0; LINK]).dump(LINKS, |body| {
        found.extend(link(body).map(|link| Interface {
            name: link.name,
            index: link.index,
            addresses: Vec::new(),
        }));
    })?;
    Request::rtnetlink(GET_ADDRESS, &[0; ADDRESS]).dump(ADDRESSES, |body| {
        if let Some((index, address)) = own_address(body)
            && let Some(owner) = found.iter_mut().find(|one| one.index == index)
        {
            owner.addresses.push(address);
        }
    })?;
    Ok(found)
}

/// The interfaces of the namespace from which IP packets can come: not the ports of a bridge, whose
/// packets come from the bridge, and no types of links with another header.
pub(super) fn all() -> Result<Vec<VirtualLink>, Error> {
    let mut found = Vec::new();
    Request::rtnetlink(GET_LINK, &[0; LINK])
        .dump(LINKS, |body| found.extend(virtual_link(body)))?;
    Ok(found)
}

fn virtual_link(body: &[u8]) -> Option<VirtualLink> {
    let kind = u16::from_ne_bytes(*body.get(2..)?.first_chunk()?);
    let (_, header) = LINK_HEADERS.iter().find(|(known, _)| *known == kind)?;
    let is_bridge_port = attributes(body, LINK).any(|one| {
        let mut inner = attributes(one.value(), 0);
        one.kind() == LINK_INFO
            && inner.any(|info| info.kind() == INFO_SLAVE_KIND && info.value() == b"bridge\0")
    });
    let Link { index, name, .. } = link(body)?;
    (!is_bridge_port).then_some(VirtualLink {
        index,
        name,
        header: *header,
    })
}

/// Indices of the interfaces with a peer in one of the host's network namespaces: the peer of a
/// veth, the parent of a macvlan. Creating such an interface needs `CAP_NET_ADMIN` there.
pub(super) fn uplinks(hosts: &[File]) -> Result<Vec<u32>, Error> {
    let mut links = Vec::new();
    Request::rtnetlink(GET_LINK, &[0; LINK]).dump(LINKS, |body| {
        links.extend(link(body).and_then(|link| Some((link.index, link.peer?))));
    })?;
    // The dump made the kernel assign ids to the peers' namespaces.
    let mut numbers = Vec::new();
    for host in hosts {
        let fd = host.as_raw_fd().to_ne_bytes();
        let attribute = [8_u16.to_ne_bytes(), NSID_FD.to_ne_bytes()].concat();
        let body = [&[0; GENERIC][..], &attribute, &fd].concat();
        Request::rtnetlink(GET_NSID, &body).ask(|body| numbers.extend(nsid(body)))?;
    }
    links.retain(|(_, peer)| numbers.contains(peer));
    Ok(links.into_iter().map(|(index, _)| index).collect())
}

/// The relevant fields of an `RTM_NEWLINK`.
struct Link {
    index: u32,
    name: String,
    /// The id of its peer's namespace, if that is another namespace.
    peer: Option<i32>,
}

fn link(body: &[u8]) -> Option<Link> {
    let index = number(body.get(4..8)?)?;
    let (mut name, mut peer) = (None, None);
    for attribute in attributes(body, LINK) {
        match attribute.kind() {
            LINK_NAME => {
                let text = CStr::from_bytes_until_nul(attribute.value()).ok()?;
                name = Some(text.to_string_lossy().into_owned());
            }
            LINK_NETNSID => peer = number(attribute.value()).map(u32::cast_signed),
            _ => {}
        }
    }
    Some(Link {
        index,
        name: name?,
        peer,
    })
}

/// The interface and address of an `RTM_NEWADDR`. On a point-to-point link `IFA_ADDRESS` is the
/// peer's address, and `IFA_LOCAL` the interface's own. An address that another host has
/// (`IFA_F_DADFAILED`) is not the interface's.
fn own_address(body: &[u8]) -> Option<(u32, IpAddr)> {
    if body.get(2)? & DUPLICATE != 0 {
        return None;
    }
    let index = number(body.get(4..8)?)?;
    let mut address = None;
    for attribute in attributes(body, ADDRESS) {
        let found = ip(attribute.value());
        match attribute.kind() {
            ADDRESS_LOCAL => return Some((index, found?)),
            ADDRESS_ADDRESS => address = found,
            _ => {}
        }
    }
    Some((index, address?))
}

/// The id in an `RTM_NEWNSID`; negative if there is none.
fn nsid(body: &[u8]) -> Option<i32> {
    let mut all = attributes(body, GENERIC);
    let found = all.find(|one| one.kind() == NSID_NSID)?;
    let number = number(found.value())?.cast_signed();
    (number >= 0).then_some(number)
}

pub(super) fn attributes(body: &[u8], header: usize) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(body.get(header..).unwrap_or_default()).flatten()
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// Adds an address to the loopback interface. `false` if it exists already.
pub(super) fn add_to_loopback(address: IpAddr) -> Result<bool, Error> {
    with_handle(async |handle| {
        let index = loopback()?;
        if find(&handle, index, address).await?.is_some() {
            return Ok(false);
        }
        let host_prefix = if address.is_ipv4() { 32 } else { 128 };
        handle
            .address()
            .add(index, address, host_prefix)
            .execute()
            .await
            .map_err(|source| failed("add an address to lo", source))?;
        Ok(true)
    })
}

/// Removes an address from the loopback interface, if it exists.
pub(super) fn remove_from_loopback(address: IpAddr) -> Result<(), Error> {
    with_handle(async |handle| {
        let Some(message) = find(&handle, loopback()?, address).await? else {
            return Ok(());
        };
        handle
            .address()
            .del(message)
            .execute()
            .await
            .map_err(|source| failed("remove an address from lo", source))
    })
}

pub(super) fn loopback() -> Result<u32, Error> {
    if_nametoindex(LOOPBACK).map_err(|source| Error::Call {
        call: "if_nametoindex(lo)",
        source,
    })
}

async fn find(
    handle: &Handle,
    index: u32,
    address: IpAddr,
) -> Result<Option<AddressMessage>, Error> {
    let all = list(handle).await?;
    Ok(all
        .into_iter()
        .find(|one| one.header.index == index && address_of(one) == Some(address)))
}

async fn list(handle: &Handle) -> Result<Vec<AddressMessage>, Error> {
    let answers = handle.address().get().execute();
    collect(answers, ADDRESSES, "list the addresses").await
}

/// The items of a dump, up to a limit.
pub(super) async fn collect<T>(
    answers: impl Stream<Item = Result<T, rtnetlink::Error>>,
    limit: Limit,
    operation: &'static str,
) -> Result<Vec<T>, Error> {
    let bounded = answers.take(limit.most + 1).try_collect();
    let found: Vec<T> = bounded.await.map_err(|source| failed(operation, source))?;
    limit.check(found.len())?;
    Ok(found)
}

/// On a point-to-point link `IFA_ADDRESS` is the peer's address, and `IFA_LOCAL` the interface's
/// own.
fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(own) => return Some(*own),
            AddressAttribute::Address(either) => address = Some(*either),
            _ => {}
        }
    }
    address
}

/// Runs `work` with a netlink socket of this thread's netns.
pub(super) fn with_handle<T>(
    work: impl AsyncFnOnce(Handle) -> Result<T, Error>,
) -> Result<T, Error> {
    let io = |source| Error::Io {
        what: "a netlink socket",
        source,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(io)?;
        let driver = tokio::spawn(connection);
        let done = tokio::time::timeout(PATIENCE, work(handle)).await;
        driver.abort();
        done.map_err(|late| io(late.into()))?
    })
}

pub(super) fn failed(operation: &'static str, source: rtnetlink::Error) -> Error {
    Error::Netlink { operation, source }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        os::fd::AsFd as _,
        process::{Command, Stdio},
    };

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn address_of_another_host_is_not_an_own_one() {
        let body = |flags: u8| {
            let header = [10, 64, flags, 0, 7, 0, 0, 0];
            let attribute = [20, 0, 1, 0];
            let address = std::net::Ipv6Addr::LOCALHOST.octets();
            [&header[..], &attribute, &address].concat()
        };
        let expected = (7, IpAddr::from(std::net::Ipv6Addr::LOCALHOST));
        assert_eq!(own_address(&body(0x80)), Some(expected));
        assert_eq!(own_address(&body(0x80 | DUPLICATE)), None);
    }

    #[test]
    fn interfaces_with_too_many_addresses_are_refused() {
        let namespace = crate::netns::new_netns().expect("this test must run as root");
        let count = |addresses: usize| {
            let lines = (0..addresses)
                .map(|n| format!("address add 10.1.{}.{}/32 dev lo", n / 256, n % 256));
            let lines = lines.collect::<Vec<_>>().join("\n");
            crate::netns::enter::run_in(namespace.as_fd(), move || {
                let mut ip = Command::new("ip")
                    .args(["-batch", "-"])
                    .stdin(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut stdin = ip.stdin.take().unwrap();
                stdin.write_all(lines.as_bytes()).unwrap();
                drop(stdin);
                assert!(ip.wait().unwrap().success());
                interfaces().map(|all| all[0].addresses.len())
            })
            .unwrap()
        };
        assert_eq!(count(ADDRESSES.most).unwrap(), ADDRESSES.most);
        crate::netns::enter::run_in(namespace.as_fd(), || {
            add_to_loopback("10.2.0.1".parse().unwrap())
        })
        .unwrap()
        .unwrap();
        let refused = count(0);
        assert!(
            matches!(refused, Err(Error::TooMany { limit: 4096, .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn uplinks_are_interfaces_whose_other_end_is_the_hosts() {
        let [host, pod, other] = [(); 3].map(|()| crate::netns::new_netns().expect("root"));
        let this = std::process::id();
        let path = |file: &File| format!("/proc/{this}/fd/{}", file.as_raw_fd());
        let run = |netns: &File, words: &str| {
            let done = Command::new("nsenter")
                .arg(format!("--net={}", path(netns)))
                .arg("ip")
                .args(words.split(' '))
                .status();
            assert!(done.unwrap().success(), "{words}");
        };
        for (name, end) in [("eth0", &host), ("eth1", &other), ("eth2", &pod)] {
            let peer = format!(
                "link add {name} type veth peer name p{name} netns {}",
                path(end)
            );
            run(&pod, &peer);
        }
        let hosts = vec![host.try_clone().unwrap()];
        let found = crate::netns::enter::run_in(pod.as_fd(), move || {
            let index = if_nametoindex("eth0").unwrap();
            (uplinks(&hosts).unwrap(), index)
        });
        let (found, eth0) = found.unwrap();
        assert_eq!(found, [eth0]);
    }

    proptest! {
        #[test]
        fn parsers_accept_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _any = (link(&bytes), virtual_link(&bytes), own_address(&bytes), nsid(&bytes));
        }
    }
}
