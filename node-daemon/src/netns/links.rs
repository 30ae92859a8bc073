//! Interfaces and addresses of the calling thread's network namespace.

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};
use rtnetlink::{
    Handle,
    packet_route::address::{AddressAttribute, AddressMessage},
};

use super::Error;

const LOOPBACK: &str = "lo";

/// An interface with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its name in this namespace.
    pub(crate) name: String,
    /// Its index in this namespace.
    pub(crate) index: u32,
    /// Its addresses, of both families.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Every interface of the namespace (`getifaddrs(3)`).
pub(super) fn interfaces() -> Result<Vec<Interface>, Error> {
    let all = getifaddrs().map_err(|source| Error::Call {
        call: "getifaddrs",
        source,
    })?;
    let mut found: Vec<Interface> = Vec::new();
    for one in all {
        // An IPv4 address comes under its label, such as eth0:1.
        let name = one.interface_name.split(':').next().unwrap_or_default();
        let Some(address) = one.address else {
            continue;
        };
        if let Some(link) = address.as_link_addr() {
            found.push(Interface {
                name: name.to_owned(),
                index: u32::try_from(link.ifindex()).unwrap_or_default(),
                addresses: Vec::new(),
            });
        } else if let Some(owner) = found.iter_mut().find(|owner| owner.name == name) {
            // Links come before addresses.
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            let v6 = address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
            owner.addresses.extend(v4.or(v6));
        }
    }
    Ok(found)
}

/// Gives an address to the loopback interface. `false` if it is there already.
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

/// Takes an address from the loopback interface, if it is there.
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
    handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|source| failed("list the addresses", source))
}

/// On a point-to-point link `IFA_ADDRESS` is the peer's address, and `IFA_LOCAL` our own.
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

/// Runs `work` with a netlink socket of this thread's network namespace.
pub(super) fn with_handle<T>(
    work: impl AsyncFnOnce(Handle) -> Result<T, Error>,
) -> Result<T, Error> {
    let io = |source| Error::Io {
        what: "a netlink socket",
        source,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(io)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(io)?;
        let driver = tokio::spawn(connection);
        let done = work(handle).await;
        driver.abort();
        done
    })
}

pub(super) fn failed(operation: &'static str, source: rtnetlink::Error) -> Error {
    Error::Netlink { operation, source }
}
