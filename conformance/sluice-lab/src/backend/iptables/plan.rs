//! From annotations to the plan of the rules, with Istio's defaults.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use crate::{
    mesh::NodeWide,
    pod_annotations::{self, PodAnnotations},
};

/// Never redirected inbound, for any annotations: status, health, metrics.
const ALWAYS_DIRECT: [&str; 3] = ["15020", "15021", "15090"];
/// Not redirected outbound by default.
const DIRECT_BY_DEFAULT: &str = "15020";

/// The input of the rules.
pub(super) struct Plan {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) dns: bool,
    pub(super) transparent: bool,
    pub(super) inbound: Inbound,
    pub(super) exclude_outbound_ports: Vec<Ports>,
    pub(super) include_outbound_ports: Vec<Ports>,
    pub(super) exclude_ranges: Vec<Range>,
    pub(super) include_ranges: Ranges,
    pub(super) exclude_interfaces: Vec<String>,
    pub(super) virtual_interfaces: Vec<String>,
    pub(super) node_wide: Option<NodeWide>,
}

/// Inbound ports that are redirected.
#[derive(Debug)]
pub(super) enum Inbound {
    /// All but these.
    Except(Vec<Ports>),
    /// These.
    Only(Vec<Ports>),
}

/// Outbound destinations that are redirected.
#[derive(Debug)]
pub(super) enum Ranges {
    /// All.
    Every,
    /// These.
    Only(Vec<Range>),
}

/// A port, or a range of them as iptables writes it.
#[derive(Debug)]
pub(super) struct Ports(pub(super) String);

/// A range of addresses.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) address: IpAddr,
    pub(super) prefix: u8,
}

impl Plan {
    /// Reads a Pod's annotations; fails with the name of a bad one and the bad item.
    pub(super) fn read(settings: &PodAnnotations) -> Result<Self> {
        let get = |key| settings.get(key).map(str::trim);
        let mode = get(pod_annotations::INTERCEPTION_MODE).unwrap_or("REDIRECT");
        ensure!(
            matches!(mode, "REDIRECT" | "TPROXY"),
            "{}: {mode:?} is neither REDIRECT nor TPROXY",
            pod_annotations::INTERCEPTION_MODE
        );
        let include_ranges = match get(pod_annotations::INCLUDE_OUTBOUND_RANGES).unwrap_or("*") {
            "*" => Ranges::Every,
            _ => Ranges::Only(ranges(settings, pod_annotations::INCLUDE_OUTBOUND_RANGES)?),
        };
        let mut exclude_outbound_ports = ports(settings, pod_annotations::EXCLUDE_OUTBOUND_PORTS)?;
        if get(pod_annotations::EXCLUDE_OUTBOUND_PORTS).is_none() {
            exclude_outbound_ports.push(Ports(DIRECT_BY_DEFAULT.to_owned()));
        }
        Ok(Self {
            uid: settings.uid,
            gid: settings.gid,
            dns: settings.dns,
            transparent: mode == "TPROXY",
            inbound: Inbound::read(settings)?,
            exclude_outbound_ports,
            include_outbound_ports: ports(settings, pod_annotations::INCLUDE_OUTBOUND_PORTS)?,
            exclude_ranges: ranges(settings, pod_annotations::EXCLUDE_OUTBOUND_RANGES)?,
            include_ranges,
            exclude_interfaces: interfaces(settings)?,
            virtual_interfaces: virtual_interfaces(settings)?,
            node_wide: settings.mesh.node_wide(),
        })
    }

    /// A range of loopback addresses is redirected.
    pub(super) fn takes_loopback(&self) -> bool {
        matches!(&self.include_ranges, Ranges::Only(ranges)
            if ranges.iter().any(|range| range.address.is_loopback()))
    }
}

impl Inbound {
    fn read(settings: &PodAnnotations) -> Result<Self> {
        let include = settings
            .get(pod_annotations::INCLUDE_INBOUND_PORTS)
            .unwrap_or("*");
        if include.trim() != "*" {
            return Ok(Self::Only(ports(
                settings,
                pod_annotations::INCLUDE_INBOUND_PORTS,
            )?));
        }
        let mut except = ports(settings, pod_annotations::EXCLUDE_INBOUND_PORTS)?;
        let status = ports(settings, pod_annotations::STATUS_PORT)?;
        except.extend(ALWAYS_DIRECT.map(|port| Ports(port.to_owned())));
        except.extend(status);
        Ok(Self::Except(except))
    }
}

/// The items of a list; blanks around them do not count.
fn items<'a>(settings: &'a PodAnnotations, key: &str) -> impl Iterator<Item = &'a str> {
    let list = settings.get(key).unwrap_or_default();
    list.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// Rules could leave `lo` out, and with it all that the proxy and its application say to each other.
fn interfaces(settings: &PodAnnotations) -> Result<Vec<String>> {
    let key = pod_annotations::EXCLUDE_INTERFACES;
    let all: Vec<_> = items(settings, key).map(str::to_owned).collect();
    ensure!(!all.iter().any(|one| one == "lo"), "{key}: lo is no choice");
    Ok(all)
}

/// With `TPROXY` the chain of inbound connections, in another table, would get the packets first.
fn virtual_interfaces(settings: &PodAnnotations) -> Result<Vec<String>> {
    let keys = [
        pod_annotations::REROUTE_INTERFACES,
        pod_annotations::KUBEVIRT_INTERFACES,
    ];
    let stated = keys.into_iter().find(|key| settings.get(key).is_some());
    let Some(key) = stated else {
        return Ok(Vec::new());
    };
    let all: Vec<_> = items(settings, key).map(str::to_owned).collect();
    let is_name = |one: &String| one != "lo" && !one.ends_with('+');
    ensure!(all.iter().all(is_name), "{key}: {all:?} are no names");
    ensure!(
        all.is_empty() || !settings.transparent(),
        "{key}: {} beside TPROXY",
        all.join(",")
    );
    Ok(all)
}

pub(super) fn ports(settings: &PodAnnotations, key: &str) -> Result<Vec<Ports>> {
    let parse = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last): (u16, u16) = (first.trim().parse()?, last.trim().parse()?);
        ensure!(first <= last, "the range is empty");
        Ok(Ports(if first == last {
            first.to_string()
        } else {
            format!("{first}:{last}")
        }))
    };
    items(settings, key)
        .map(|item| parse(item).with_context(|| format!("{key}: {item:?} is no port")))
        .collect()
}

pub(super) fn ranges(settings: &PodAnnotations, key: &str) -> Result<Vec<Range>> {
    let parse = |item: &str| {
        let (address, prefix) = item.split_once('/').context("no prefix length")?;
        let range = Range {
            address: address.parse()?,
            prefix: prefix.parse()?,
        };
        let bits = if range.address.is_ipv4() { 32 } else { 128 };
        ensure!(
            range.prefix <= bits,
            "the prefix is longer than the address"
        );
        Ok(range)
    };
    items(settings, key)
        .map(|item| parse(item).with_context(|| format!("{key}: {item:?} is no CIDR")))
        .collect()
}
