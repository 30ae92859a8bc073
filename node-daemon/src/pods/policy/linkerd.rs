//! Linkerd's settings beyond single annotations: Pods of its control plane, and init containers
//! whose arguments differ from the annotations.

use super::{Error, Families, Inbound, PodPolicy, parse, subject::PodAnnotations};

const COMPONENT: &str = "linkerd.io/control-plane-component";
const CREATED_BY: &str = "linkerd.io/created-by";
const INJECT: &str = "linkerd.io/inject";
const POLICY: &str = "config.linkerd.io/default-inbound-policy";
const INIT: &str = "linkerd-init";
const PROXY: &str = "linkerd-proxy";
const LISTENER: &str = "LINKERD2_PROXY_INBOUND_LISTEN_ADDR";
/// The ports of the API server, which the control plane reaches without its own proxy.
const API_SERVER: [u16; 2] = [443, 6443];

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
        policy.inbound = Inbound::Exclude(parse::ports("--inbound-ports-to-ignore", list)?);
    }
    policy.excluded_outbound = match value("--outbound-ports-to-ignore") {
        Some(list) => parse::ports("--outbound-ports-to-ignore", list)?,
        None => super::Ports::new(),
    };
    policy.excluded_sources = match value("--subnets-to-ignore") {
        Some(list) => parse::addresses("--subnets-to-ignore", list)?,
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
