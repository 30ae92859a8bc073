//! What annotations say, item by item: each is understood, or named as the one that is not.

use ipnet::IpNet;

use super::{Error, MAX_ITEMS, Ports};

/// A list of ports and ranges. A blank value is an empty list.
pub(super) fn ports(key: &'static str, list: &str) -> Result<Ports, Error> {
    items(
        key,
        list,
        "a port from 1 to 65535 or a range like 8000-8999",
        range,
    )
}

/// A list of networks. A blank value is an empty list.
pub(super) fn networks(key: &'static str, list: &str) -> Result<Vec<IpNet>, Error> {
    let network = |item: &str| item.parse::<IpNet>().ok();
    items(key, list, "a network like 10.0.0.0/8 or fd00::/8", network)
}

pub(super) fn items<T, All: FromIterator<T>>(
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
    (0 < low && low <= high).then_some((low, high))
}

/// Digits only: `u16::from_str` would take a sign.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Zero switches Istio's health port off.
pub(super) fn status_port(key: &'static str, value: &str) -> Result<Option<u16>, Error> {
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

/// Both keep the client's address at the proxy here: no packet is rewritten.
pub(super) fn is_transparent(key: &'static str, mode: &str) -> Result<bool, Error> {
    match mode.trim() {
        "REDIRECT" => Ok(false),
        "TPROXY" => Ok(true),
        other => Err(Error::Item {
            key,
            item: other.to_owned(),
            allowed: "REDIRECT or TPROXY",
        }),
    }
}

/// A user or group. The last number means nobody.
pub(super) fn owner(key: &'static str, value: &str) -> Result<u32, Error> {
    let digits = value.trim().bytes().all(|byte| byte.is_ascii_digit());
    let id = value.trim().parse().ok();
    id.filter(|id| digits && *id != u32::MAX)
        .ok_or_else(|| Error::Item {
            key,
            item: value.trim().to_owned(),
            allowed: "a number from 0 to 4294967294",
        })
}
