//! Parsers of annotation values. An error names the item that is not supported.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Error, MAX_ITEMS, Ports};

/// A list of ports and ranges. A blank value is an empty list.
pub(in crate::pods) fn ports(key: &'static str, list: &str) -> Result<Ports, Error> {
    let ports: Ports = items(
        key,
        list,
        "a port from 1 to 65535 or a range like 8000-8999",
        range,
    )?;
    // Rules may name port 0; no traffic matches it.
    let real = (ports.into_iter()).filter(|(_, high)| *high > 0);
    Ok(real.map(|(low, high)| (low.max(1), high)).collect())
}

/// A list without the items that are empty.
pub(in crate::pods) fn without_empty_items(list: &str) -> String {
    let items = list.split(',').map(str::trim);
    let items: Vec<_> = items.filter(|item| !item.is_empty()).collect();
    items.join(",")
}

/// A list of networks. A blank value is an empty list.
pub(in crate::pods) fn networks(key: &'static str, list: &str) -> Result<Vec<IpNet>, Error> {
    items(key, list, NETWORK, |item| {
        item.parse().ok().filter(is_of_its_family)
    })
}

/// A list of networks and of single addresses. A blank value is an empty list.
pub(in crate::pods) fn addresses(key: &'static str, list: &str) -> Result<Vec<IpNet>, Error> {
    let single = |item: &str| item.parse::<IpAddr>().ok().map(IpNet::from);
    let either = |item: &str| item.parse().ok().or_else(|| single(item));
    items(key, list, NETWORK, |item| {
        either(item).filter(is_of_its_family)
    })
}

const NETWORK: &str = "a network like 10.0.0.0/8 or fd00::/8 (IPv4 is written as IPv4)";

/// Not an IPv4-mapped IPv6 network: no packet has such an address, so rules for it match nothing.
fn is_of_its_family(network: &IpNet) -> bool {
    match network {
        IpNet::V4(_) => true,
        IpNet::V6(v6) => v6.prefix_len() < 96 || v6.addr().to_ipv4_mapped().is_none(),
    }
}

pub(in crate::pods) fn items<T, All: FromIterator<T>>(
    key: &'static str,
    list: &str,
    allowed: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<All, Error> {
    let texts: Vec<_> = match list.trim() {
        "" => Vec::new(),
        list => list.split(',').map(str::trim).collect(),
    };
    if texts.len() > MAX_ITEMS {
        let count = texts.len();
        return Err(Error::TooMany { key, count });
    }
    let item = |text: &str| {
        read(text).ok_or_else(|| Error::Item {
            key,
            item: text.to_owned(),
            allowed,
        })
    };
    texts.into_iter().map(item).collect()
}

/// `8080` or `8000-8999`.
fn range(item: &str) -> Option<(u16, u16)> {
    let (low, high) = match item.split_once('-') {
        Some((low, high)) => (port(low.trim_end())?, port(high.trim_start())?),
        None => (port(item)?, port(item)?),
    };
    (low <= high).then_some((low, high))
}

/// Digits only: `u16::from_str` would accept a sign.
pub(in crate::pods) fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Zero means none.
pub(in crate::pods) fn port_or_none(key: &'static str, value: &str) -> Result<Option<u16>, Error> {
    match port(value.trim()) {
        Some(0) => Ok(None),
        Some(port) => Ok(Some(port)),
        None => Err(Error::Item {
            key,
            item: value.trim().to_owned(),
            allowed: "a port, or 0",
        }),
    }
}

/// One port.
pub(in crate::pods) fn a_port(key: &'static str, value: &str) -> Result<u16, Error> {
    port_or_none(key, value)?.ok_or_else(|| Error::Item {
        key,
        item: value.trim().to_owned(),
        allowed: "a port from 1 to 65535",
    })
}

/// Both modes keep the client's address at the proxy here: no packet is rewritten.
pub(in crate::pods) fn is_tproxy(key: &'static str, mode: &str) -> Result<bool, Error> {
    match mode.trim() {
        "TPROXY" => Ok(true),
        // `NONE` occurs here only if the operator overrides it.
        "REDIRECT" | "NONE" => Ok(false),
        other => Err(Error::Item {
            key,
            item: other.to_owned(),
            allowed: "REDIRECT, TPROXY or NONE",
        }),
    }
}

/// A user or group. The highest number means none.
pub(in crate::pods) fn parse_id(key: &'static str, value: &str) -> Result<u32, Error> {
    let digits = value.trim().bytes().all(|byte| byte.is_ascii_digit());
    let id = value.trim().parse().ok();
    id.filter(|id| digits && *id != u32::MAX)
        .ok_or_else(|| Error::Item {
            key,
            item: value.trim().to_owned(),
            allowed: "a number from 0 to 4294967294",
        })
}
