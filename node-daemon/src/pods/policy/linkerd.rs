//! What differs between Linkerd's Pods beyond annotations of single settings: Pods of its control
//! plane, and Pods whose init container has other values than the annotations state.

use super::{Error, Inbound, PodPolicy, parse, subject::PodAnnotations};

const COMPONENT: &str = "linkerd.io/control-plane-component";
const CREATED_BY: &str = "linkerd.io/created-by";
const INJECT: &str = "linkerd.io/inject";
const POLICY: &str = "config.linkerd.io/default-inbound-policy";
const INIT: &str = "linkerd-init";
/// The API server's, which the control plane reaches without its own proxy.
const API_SERVER: [u16; 2] = [443, 6443];

/// Brings a Pod's settings to those of its init container, or of the CNI plugin.
pub(super) fn adjust(pod: &PodAnnotations<'_>, policy: &mut PodPolicy) -> Result<(), Error> {
    if is_control_plane(pod) {
        let ports = API_SERVER.map(|port| (port, port));
        policy.excluded_outbound.extend(ports);
    }
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
    if let Some(list) = value("--subnets-to-ignore") {
        policy.excluded_sources = parse::addresses("--subnets-to-ignore", list)?;
    }
    if init.args.iter().any(|one| one == "--ipv6=false") {
        policy.ipv4_only = true;
    }
    Ok(())
}

/// Without labels, what the chart writes into the Pods of the control plane alone: they are made by
/// Helm or the command line, not by the injector, and take connections without identity.
fn is_control_plane(pod: &PodAnnotations<'_>) -> bool {
    if let Some(manifest) = pod.manifest {
        return (manifest.labels.get(COMPONENT)).is_some_and(|name| !name.is_empty());
    }
    let by_install = |by: &str| by.starts_with("linkerd/helm") || by.starts_with("linkerd/cli");
    pod.annotation(CREATED_BY).is_some_and(by_install)
        && pod.annotation(POLICY) == Some("all-unauthenticated")
        && pod.annotation(INJECT).is_none()
}
