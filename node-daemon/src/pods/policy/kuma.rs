//! Kuma's Pods. Since 2.9 the injector merges its configuration, a `ConfigMap` and the Pod's
//! annotations, in this order, and states the result as YAML in one annotation: nothing else counts
//! then, as in Kuma's CNI plugin. Before 2.9, single annotations state it.

use serde::{Deserialize, de::IgnoredAny};

use super::{Error, Families, Inbound, PodPolicy, Ports, parse, subject::PodAnnotations};

const INJECTED: &str = "kuma.io/sidecar-injected";
const CONFIG: &str = "traffic.kuma.io/transparent-proxy-config";
const GATEWAY: &str = "kuma.io/gateway";
const TRANSPARENT: &str = "kuma.io/transparent-proxying";
const DNS: &str = "kuma.io/builtin-dns";
const DNS_PORT: &str = "kuma.io/builtin-dns-port";
const FAMILIES: &str = "kuma.io/transparent-proxying-ip-family-mode";
/// A port in the whole redirection.
const PORT: &str = "a port from 1 to 65535, as a number";

/// The whole redirection.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Config {
    #[serde(rename = "kumaDPUser")]
    user: Scalar,
    ip_family_mode: Option<String>,
    redirect: Redirect,
    ebpf: Ebpf,
    #[serde(rename = "cniMode")]
    _cni_mode: IgnoredAny,
    #[serde(rename = "dropInvalidPackets")]
    _drop_invalid_packets: IgnoredAny,
    #[serde(rename = "verbose")]
    _verbose: IgnoredAny,
    #[serde(rename = "dryRun")]
    _dry_run: IgnoredAny,
    #[serde(rename = "log")]
    _log: IgnoredAny,
    #[serde(rename = "wait")]
    _wait: IgnoredAny,
    #[serde(rename = "waitInterval")]
    _wait_interval: IgnoredAny,
    #[serde(rename = "retry")]
    _retry: IgnoredAny,
    #[serde(rename = "storeFirewalld")]
    _store_firewalld: IgnoredAny,
    #[serde(rename = "iptablesExecutables")]
    _executables: IgnoredAny,
    #[serde(rename = "comments")]
    _comments: IgnoredAny,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Redirect {
    inbound: Flow,
    outbound: Flow,
    dns: Dns,
    vnet: VirtualNetworks,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Flow {
    enabled: Option<bool>,
    port: Option<Scalar>,
    include_ports: Option<AddRule>,
    exclude_ports: Option<AddRule>,
    #[serde(rename = "excludePortsForUIDs")]
    exclude_ports_for_uids: Option<Vec<String>>,
    #[serde(rename = "excludePortsForIPs")]
    exclude_ports_for_ips: Option<Vec<String>>,
    #[serde(rename = "insertRedirectInsteadOfAppend")]
    _insert: IgnoredAny,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Dns {
    enabled: bool,
    port: Option<Scalar>,
    // A resolver reads its servers from the file: which of them gets a query makes no difference.
    #[serde(rename = "captureAll")]
    _capture_all: IgnoredAny,
    #[serde(rename = "skipConntrackZoneSplit")]
    _skip_zones: IgnoredAny,
    #[serde(rename = "resolvConfigPath")]
    _resolv_conf: IgnoredAny,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct VirtualNetworks {
    networks: Option<Vec<String>>,
}

/// The eBPF mode of Kuma 2.x.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Ebpf {
    enabled: bool,
}

/// A number, as such or as text.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Scalar {
    #[default]
    Nothing,
    Number(u32),
    Text(String),
}

/// Several numbers, or a comma-separated text.
#[derive(Deserialize)]
#[serde(untagged)]
enum AddRule {
    Several(Vec<Scalar>),
    One(Scalar),
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.trim().to_owned(),
        }
    }
}

impl Scalar {
    /// A port. Kuma does not take it as text.
    fn port(&self) -> Result<u16, Error> {
        let port = match self {
            Self::Number(number) => u16::try_from(*number).ok().filter(|port| *port != 0),
            Self::Nothing | Self::Text(_) => None,
        };
        port.ok_or_else(|| Error::Item {
            key: CONFIG,
            item: self.text(),
            allowed: PORT,
        })
    }
}

impl AddRule {
    /// Single ports: Kuma rejects ranges and zero, and passes over empty items.
    fn ports(list: Option<&Self>) -> Result<Ports, Error> {
        let text = match list {
            None => String::new(),
            Some(Self::One(one)) => one.text(),
            Some(Self::Several(several)) => {
                let texts: Vec<_> = several.iter().map(Scalar::text).collect();
                texts.join(",")
            }
        };
        let text = parse::without_empty_items(&text);
        let single = |item: &str| parse::port(item).filter(|port| *port != 0);
        let ports: Ports = parse::items(CONFIG, &text, PORT, |item| {
            single(item).map(|port| (port, port))
        })?;
        Ok(ports)
    }
}

/// Why a Pod is not intercepted, if so.
pub(super) fn not_intercepted(pod: &PodAnnotations<'_>) -> Option<&'static str> {
    if pod.annotations.get(INJECTED).map(String::as_str) != Some("true") {
        return Some("kuma.io/sidecar-injected is not true");
    }
    let is_off = |value: &str| ["disabled", "false"].contains(&value);
    let by_annotations = pod.annotation(CONFIG).is_none();
    (by_annotations && pod.annotation(TRANSPARENT).is_some_and(is_off))
        .then_some("Kuma's transparent proxy is off")
}

/// Whether one annotation states everything.
pub(super) fn is_stated_whole(pod: &PodAnnotations<'_>) -> bool {
    pod.annotation(CONFIG).is_some_and(|text| !text.is_empty())
}

/// The settings in that annotation.
pub(super) fn stated(pod: &PodAnnotations<'_>) -> Result<PodPolicy, Error> {
    let mut policy = PodPolicy::of(pod.mesh);
    let text = pod.annotation(CONFIG).unwrap_or_default();
    let config: Config = serde_saphyr::from_str(text).map_err(|error| Error::Malformed {
        key: CONFIG,
        problem: error
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
    })?;
    refuse_unsupported(&config)?;
    let Redirect {
        inbound,
        outbound,
        dns,
        ..
    } = &config.redirect;
    if !config.user.text().is_empty() {
        policy.uid = parse::parse_id(CONFIG, &config.user.text())?;
    }
    for (stated, is_used, port) in [
        (&inbound.port, true, &mut policy.ports.inbound),
        (&outbound.port, true, &mut policy.ports.outbound),
        (&dns.port, dns.enabled, &mut policy.ports.dns),
    ] {
        *port = match stated {
            _ if !is_used => 0,
            None => *port,
            Some(stated) => stated.port()?,
        };
    }
    policy.inbound = of_inbound(inbound)?;
    policy.excluded_sources = networks(inbound)?;
    of_outbound(outbound, &mut policy)?;
    policy.families = families(config.ip_family_mode.as_deref().unwrap_or_default())?;
    Ok(policy)
}

/// Kuma accepts the modes in any case of letters, and then compares the text with `ipv4`: in capital
/// letters both families are redirected.
fn families(mode: &str) -> Result<Families, Error> {
    match (mode, &*mode.to_ascii_lowercase()) {
        ("ipv4", _) => Ok(Families::Ipv4),
        (_, "" | "dualstack" | "ipv4") => Ok(Families::Both),
        _ => Err(unsupported(
            "ipFamilyMode",
            mode.to_owned(),
            "dualstack or ipv4",
        )),
    }
}

fn of_inbound(flow: &Flow) -> Result<Inbound, Error> {
    let included = AddRule::ports(flow.include_ports.as_ref())?;
    if flow.enabled == Some(false) {
        Ok(Inbound::Include(Ports::new()))
    } else if included.is_empty() {
        AddRule::ports(flow.exclude_ports.as_ref()).map(Inbound::Exclude)
    } else {
        Ok(Inbound::Include(included))
    }
}

fn of_outbound(flow: &Flow, policy: &mut PodPolicy) -> Result<(), Error> {
    policy.excluded_networks = networks(flow)?;
    let included = AddRule::ports(flow.include_ports.as_ref())?;
    policy.excluded_outbound = Ports::new();
    if flow.enabled == Some(false) {
        policy.networks = Some(Vec::new());
    } else if included.is_empty() {
        policy.excluded_outbound = AddRule::ports(flow.exclude_ports.as_ref())?;
    } else {
        policy.networks = Some(Vec::new());
        policy.included_outbound = included;
    }
    Ok(())
}

fn networks(flow: &Flow) -> Result<Vec<ipnet::IpNet>, Error> {
    let list = flow.exclude_ports_for_ips.as_deref().unwrap_or_default();
    if list.iter().any(String::is_empty) {
        return Err(Error::Item {
            key: CONFIG,
            item: String::new(),
            allowed: "an address or a network",
        });
    }
    parse::addresses(CONFIG, &parse::without_empty_items(&list.join(",")))
}

fn refuse_unsupported(config: &Config) -> Result<(), Error> {
    let Redirect {
        inbound,
        outbound,
        vnet,
        ..
    } = &config.redirect;
    for (field, list) in [
        (
            "redirect.inbound.excludePortsForUIDs",
            &inbound.exclude_ports_for_uids,
        ),
        (
            "redirect.outbound.excludePortsForUIDs",
            &outbound.exclude_ports_for_uids,
        ),
        ("redirect.vnet.networks", &vnet.networks),
    ] {
        let list = list.as_deref().unwrap_or_default();
        if !list.is_empty() {
            return Err(unsupported(field, list.join(","), "an empty list"));
        }
    }
    if config.ebpf.enabled {
        return Err(unsupported("ebpf.enabled", "true".to_owned(), "false"));
    }
    Ok(())
}

fn unsupported(field: &str, value: String, allowed: &'static str) -> Error {
    Error::Unsupported {
        key: format!("{CONFIG}, {field}"),
        value,
        allowed,
    }
}

/// Applies the rules of Kuma 2.7 and 2.8 to the settings of single annotations.
pub(super) fn adjust(pod: &PodAnnotations<'_>, policy: &mut PodPolicy) -> Result<(), Error> {
    if is_on(pod, GATEWAY)? {
        policy.inbound = Inbound::Include(Ports::new());
    }
    // An injector that redirects also states DNS capture, unless the proxy answers no queries.
    if [TRANSPARENT, DNS]
        .iter()
        .any(|key| pod.annotation(key).is_some())
    {
        policy.ports.dns = match (is_on(pod, DNS)?, pod.annotation(DNS_PORT)) {
            (false, _) => 0,
            (true, None) => pod.mesh.dns_port,
            (true, Some(port)) => parse::port_or_none(DNS_PORT, port)?.unwrap_or(0),
        };
    }
    match pod.annotation(FAMILIES) {
        None | Some("" | "dualstack") => {}
        Some("ipv4") => policy.families = Families::Ipv4,
        Some(other) => {
            return Err(Error::Item {
                key: FAMILIES,
                item: other.to_owned(),
                allowed: "dualstack or ipv4",
            });
        }
    }
    Ok(())
}

fn is_on(pod: &PodAnnotations<'_>, key: &'static str) -> Result<bool, Error> {
    match pod.annotation(key) {
        Some("enabled" | "true" | "yes") => Ok(true),
        None | Some("disabled" | "false" | "no" | "builtin") => Ok(false),
        Some(other) => Err(Error::Item {
            key,
            item: other.to_owned(),
            allowed: "enabled or disabled",
        }),
    }
}
