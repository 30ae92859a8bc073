//! The ports of the proxy in `net.ipv4.ip_local_reserved_ports` of a netns, for both families.
//!
//! The kernel selects no reserved port for a socket that was not bound. Such a socket passes no hook of
//! `bind(2)`, so a process could get a port of the proxy by `listen(2)` or `sendto(2)` alone.

use std::{collections::BTreeSet, fs::File, io, os::unix::fs::FileExt as _};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use super::{Error, sysctl::Settings};

const SETTING: &str = "net/ipv4/ip_local_reserved_ports";
/// The kernel accepts at most this many bytes at once (`proc_do_large_bitmap`: one page without its end).
const LONGEST: usize = 4095;
/// The number of ports of a proxy.
const PORTS: usize = 3;

/// A set of the proxy's ports; zero is no port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ReservedPorts([u16; PORTS]);

impl ReservedPorts {
    /// No port.
    pub(crate) const NONE: Self = Self([0; PORTS]);

    /// The set of these ports.
    pub(crate) fn of(mut ports: [u16; PORTS]) -> Self {
        ports.sort_unstable();
        for index in 1..PORTS {
            if ports[..index].contains(&ports[index]) {
                ports[index] = 0;
            }
        }
        ports.sort_unstable();
        Self(ports)
    }

    /// Whether it is empty.
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde calls it with a reference"
    )]
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// The ports in either set; the own ones if there is no place for all.
    pub(crate) fn or(self, other: Self) -> Self {
        let all: BTreeSet<u16> = self.iter().chain(other.iter()).collect();
        if all.len() > PORTS {
            return self;
        }
        let mut ports = [0; PORTS];
        for (place, port) in ports.iter_mut().zip(all) {
            *place = port;
        }
        Self::of(ports)
    }

    /// The ports that are not in `other`.
    pub(crate) fn without(self, other: Self) -> Self {
        Self::of(
            self.0
                .map(|port| if other.0.contains(&port) { 0 } else { port }),
        )
    }

    fn iter(self) -> impl Iterator<Item = u16> {
        self.0.into_iter().filter(|port| *port != 0)
    }
}

/// The open list of one netns.
///
/// A lookup in `/proc/sys` compares the names of all namespaces, one after the other (`proc_sys_compare`), so
/// the file is opened once.
#[derive(Debug)]
pub(super) struct PortList(File);

impl PortList {
    /// That of the calling thread's netns. Every thread may use it.
    pub(super) fn here() -> Result<Self, Error> {
        let opened = Settings::open()?.open_file(SETTING, OFlag::O_RDWR);
        opened.map(Self).map_err(failed)
    }

    /// The subset of some ports that the namespace does not reserve.
    pub(super) fn unreserved(&self, ports: ReservedPorts) -> Result<ReservedPorts, Error> {
        let reserved = self.read()?;
        let free = |port| if reserved.contains(&port) { 0 } else { port };
        Ok(ReservedPorts::of(ports.0.map(free)))
    }

    /// Releases some ports and reserves others. All other ports stay.
    pub(super) fn change(&self, gone: ReservedPorts, new: ReservedPorts) -> Result<(), Error> {
        let before = self.read()?;
        let mut after = before.clone();
        after.retain(|port| !gone.0.contains(port));
        after.extend(new.iter());
        if after == before {
            return Ok(());
        }
        let text = format(&after) + "\n";
        let done = if text.len() > LONGEST {
            Err(io::Error::other(TOO_LONG))
        } else {
            self.0.write_all_at(text.as_bytes(), 0)
        };
        done.map_err(failed)
    }

    /// By one call: the kernel cuts the list at the end of the buffer, and returns nothing more.
    fn read(&self) -> Result<BTreeSet<u16>, Error> {
        let mut buffer = [0; LONGEST + 1];
        let length = self.0.read_at(&mut buffer, 0).map_err(failed)?;
        if length > LONGEST {
            return Err(failed(io::Error::other(TOO_LONG)));
        }
        let text = std::str::from_utf8(&buffer[..length]).unwrap_or("?");
        parse(text.trim_end()).ok_or_else(|| failed(io::Error::other("the list cannot be read")))
    }
}

const TOO_LONG: &str = "the list is longer than 4,095 bytes";

fn failed(source: io::Error) -> Error {
    Error::Setting {
        setting: SETTING,
        source,
    }
}

/// Reads `1,5-7`.
fn parse(text: &str) -> Option<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for range in text.split(',').filter(|range| !range.is_empty()) {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let (low, high): (u16, u16) = (low.parse().ok()?, high.parse().ok()?);
        if low > high {
            return None;
        }
        ports.extend(low..=high);
    }
    Some(ports)
}

/// Writes `1,5-7`.
fn format(ports: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, high)) if *high + 1 == *port => *high = *port,
            _ => ranges.push((*port, *port)),
        }
    }
    let range = |(low, high): &(u16, u16)| {
        if low == high {
            low.to_string()
        } else {
            format!("{low}-{high}")
        }
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_of_ports_is_read_and_written() {
        for text in ["", "80", "1,5-7,15001", "15001,15006,15053", "65534-65535"] {
            assert_eq!(format(&parse(text).unwrap()), text);
        }
        assert_eq!(format(&parse("7,5,6,5-6").unwrap()), "5-7");
        for text in ["1,x", "20000-200", "1-", "70000", "?"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn sets_of_ports_are_combined() {
        let all = ReservedPorts::of([15053, 15001, 15006]);
        assert_eq!(ReservedPorts::of([1, 1, 1]), ReservedPorts::of([0, 1, 0]));
        assert_eq!(all.without(all), ReservedPorts::NONE);
        let one = ReservedPorts::of([15006, 0, 0]);
        assert_eq!(all.without(one).or(one), all);
        assert_eq!(all.or(ReservedPorts::of([7, 0, 0])), all);
    }
}
