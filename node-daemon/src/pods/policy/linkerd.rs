//! Linkerd's settings beyond single annotations: Pods of its control plane, and init containers
//! whose arguments differ from the annotations.

use super::{Error, Families, Inbound, PodPolicy, Ports, parse, subject::PodAnnotations};

const COMPONENT: &str = "linkerd.io/control-plane-component";
const CREATED_BY: &str = "linkerd.io/created-by";
const INJECT: &str = "linkerd.io/inject";
const POLICY: &str = "config.linkerd.io/default-inbound-policy";
const INIT: &str = "linkerd-init";
const PROXY: &str = "linkerd-proxy";
const LISTENER: &str = "LINKERD2_PROXY_INBOUND_LISTEN_ADDR";
/// The ports of the API server, which the control plane reaches without its own proxy.
const API_SERVER: [u16; 2] = [443, 6443];

/// Whether the spec is known and has the proxy: what its injector or an operator annotates later
/// changes nothing.
pub(super) fn has_proxy(pod: &PodAnnotations<'_>) -> bool {
    pod.container(PROXY).is_some()
}

/// A list of skipped ports. Linkerd's rules ignore an item with blanks around it, so such an item
/// skips nothing.
pub(super) fn ports(key: &'static str, list: &str) -> Result<Ports, Error> {
    let mut items = list
        .split(',')
        .filter(|item| !list.trim().is_empty() && !item.is_empty());
    match items.find(|item| item.trim() != *item) {
        None => parse::ports(key, list),
        Some(item) => Err(Error::Item {
            key,
            item: item.to_owned(),
            allowed: "a port or a range without blanks around it, which Linkerd ignores",
        }),
    }
}

/// Applies the settings of the init container, or of the CNI plugin.
pub(super) fn adjust(pod: &PodAnnotations<'_>, policy: &mut PodPolicy) -> Result<(), Error> {
    if is_control_plane(pod) {
        let ports = API_SERVER.map(|port| (port, port));
        policy.excluded_outbound.extend(ports);
    }
    policy.families = families(pod);
    let Some(init) = pod.container(INIT) else {
        return Ok(());
    };
    let value = |flag: &str| {
        let at = init.args.iter().position(|one| one == flag)?;
        init.args.get(at + 1).map(String::as_str)
    };
    let number = |flag| value(flag).and_then(parse::port);
    if let Some(port) = number("--incoming-proxy-port") {
        policy.ports.inbound = port;
    }
    if let Some(port) = number("--outgoing-proxy-port") {
        policy.ports.outbound = port;
    }
    if let Some(uid) = value("--proxy-uid") {
        policy.uid = parse::parse_id("--proxy-uid", uid)?;
    }
    if let Some(gid) = value("--proxy-gid") {
        policy.gid = parse::parse_id("--proxy-gid", gid)?;
    }
    if let Some(list) = value("--inbound-ports-to-ignore") {
        policy.inbound = Inbound::Exclude(ports("--inbound-ports-to-ignore", list)?);
    }
    policy.excluded_outbound = match value("--outbound-ports-to-ignore") {
        Some(list) => ports("--outbound-ports-to-ignore", list)?,
        None => Ports::new(),
    };
    policy.excluded_sources = match value("--subnets-to-ignore") {
        Some(list) => parse::networks("--subnets-to-ignore", list)?,
        None => Vec::new(),
    };
    Ok(())
}

/// A proxy without IPv6 listens for inbound connections on an IPv4 address, and its init container
/// writes no rules for IPv6.
fn families(pod: &PodAnnotations<'_>) -> Families {
    let env = pod.container(PROXY).map(|proxy| &proxy.env);
    let listener = env.and_then(|env| env.get(LISTENER));
    let init = pod.container(INIT).map(|init| &init.args);
    let is_off = |args: &Vec<String>| args.iter().any(|one| one == "--ipv6=false");
    match (listener, init) {
        (Some(at), _) if !at.starts_with('[') => Families::Ipv4,
        (_, Some(args)) if is_off(args) => Families::Ipv4,
        (None, None) => pod.mesh.families,
        _ => Families::Both,
    }
}

/// Without labels, annotations that only the chart writes identify the control plane's Pods: Helm
/// or the command line creates them, not the injector, and they accept connections without
/// identity.
fn is_control_plane(pod: &PodAnnotations<'_>) -> bool {
    if let Some(manifest) = pod.manifest {
        return (manifest.labels.get(COMPONENT)).is_some_and(|name| !name.is_empty());
    }
    let by_install = |by: &str| by.starts_with("linkerd/helm") || by.starts_with("linkerd/cli");
    pod.annotation(CREATED_BY).is_some_and(by_install)
        && pod.annotation(POLICY) == Some("all-unauthenticated")
        && pod.annotation(INJECT).is_none()
}
