//! From what is known of a Pod to its settings: the same decision at ADD, for Pods found running,
//! and for `sluiced decide`. Pure, and closed: what is not understood refuses the Pod, so that no
//! annotation is silently without effect.

mod consul;
mod error;
mod istio;
mod kuma;
mod linkerd;
mod osm;
mod parse;
mod pod_policy;
mod stated;
mod subject;

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Annotations, NodePolicy,
    acceleration::Acceleration,
    bypass::{Bypass, IfacePattern},
    mesh::{Injector, Mesh},
};
use crate::netns::SourceRoute;
pub(crate) use error::Error;
use subject::PodAnnotations;
pub(crate) use subject::Subject;

/// Items of one list: the kernel's tables are shared by all Pods.
pub(crate) const MAX_ITEMS: usize = sluice_abi::maps::MAX_NETWORKS / 64;

/// What is to be done with a Pod.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its traffic is intercepted.
    Intercept(Box<PodPolicy>),
    /// It is left alone.
    Bypass(&'static str),
}

/// Ports, as ranges from the lowest to the highest.
pub(crate) type Ports = BTreeSet<(u16, u16)>;

/// Which connections that enter a Pod are the proxy's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Inbound {
    /// All but those at these ports, which reach the application untouched.
    Exclude(Ports),
    /// Those at these ports and no others.
    Include(Ports),
}

/// Where a proxy listens in its Pod. A port that is zero is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxyPorts {
    /// For the application's connections.
    pub(crate) outbound: u16,
    /// For connections to the Pod.
    pub(crate) inbound: u16,
    /// For DNS queries.
    pub(crate) dns: u16,
}

/// What states a proxy's user and group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UserSource {
    /// The mesh's description.
    #[default]
    Mesh,
    /// An annotation, of the mesh or of Sluice.
    Annotation,
    /// The security context of the sidecar's container, or of the Pod.
    PodSpec,
}

/// How a Pod's traffic is intercepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodPolicy {
    /// Which mesh's sidecar the Pod carries.
    pub(crate) mesh: &'static Mesh,
    /// The proxy's user, as the Pod numbers it, until it is [`PodPolicy::map_to_host_ids`].
    pub(crate) uid: u32,
    /// The proxy's group, likewise.
    pub(crate) gid: u32,
    /// What stated the proxy's user.
    pub(crate) user_from: UserSource,
    /// Where the proxy listens.
    pub(crate) ports: ProxyPorts,
    /// Connections that enter the Pod.
    pub(crate) inbound: Inbound,
    /// Outbound ports that are left alone.
    pub(crate) excluded_outbound: Ports,
    /// Outbound ports that are the proxy's whatever the address.
    pub(crate) included_outbound: Ports,
    /// The networks to which connections are the proxy's, if not all are.
    pub(crate) networks: Option<Vec<IpNet>>,
    /// Networks that are left alone.
    pub(crate) excluded_networks: Vec<IpNet>,
    /// Networks from which connections enter the Pod past the proxy.
    pub(crate) excluded_sources: Vec<IpNet>,
    /// The mesh redirects IPv4 alone in this Pod: IPv6 goes past the proxy in both directions.
    pub(crate) ipv4_only: bool,
    /// Interfaces whose traffic is left alone.
    pub(crate) excluded_interfaces: Box<[IfacePattern]>,
    /// What that means in the Pod as it is.
    pub(crate) bypass: Bypass,
    /// From where its routes lead to which networks, if it has several addresses to choose from.
    pub(crate) sources: Vec<SourceRoute>,
    /// The Pod asks for `TPROXY`.
    pub(crate) tproxy: bool,
    /// What the Pod wishes to be accelerated, if it says so.
    pub(crate) acceleration: Option<Acceleration>,
}

/// What becomes of a Pod of which nobody tells whether it carries a sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MissingAnnotations {
    /// It does not start, until somebody tells.
    #[default]
    Deny,
    /// It is meshed, with the mesh's defaults. If it has no sidecar, it cannot be reached.
    Intercept,
    /// It is left alone. If it has a sidecar, that sees nothing.
    Bypass,
}

/// What the annotations of a Pod say at least that carries a sidecar.
pub(crate) fn minimal_annotations(mesh: &Mesh) -> Annotations {
    [(mesh.sidecar_annotation.clone(), "true".to_owned())].into()
}

/// Decides what is to be done with a Pod.
///
/// # Errors
///
/// If something that it states would change interception and cannot be followed.
pub(crate) fn decide<'a>(
    node_policy: &NodePolicy,
    pod: impl Into<Subject<'a>>,
) -> Result<Verdict, Error> {
    let Subject {
        annotations,
        manifest,
    } = pod.into();
    let mesh = node_policy.mesh;
    let of = |annotations| PodAnnotations {
        mesh,
        annotations,
        manifest,
    };
    match (annotations, node_policy.missing_annotations) {
        (Some(annotations), _) => from_annotations(&of(annotations)),
        (None, MissingAnnotations::Deny) => Err(Error::NotHandedOver),
        (None, MissingAnnotations::Intercept) => from_annotations(&of(&minimal_annotations(mesh))),
        (None, MissingAnnotations::Bypass) => Ok(Verdict::Bypass("annotations unavailable")),
    }
}

fn from_annotations(pod: &PodAnnotations<'_>) -> Result<Verdict, Error> {
    if pod.manifest.is_some_and(|manifest| manifest.host_network) {
        return Ok(Verdict::Bypass("it has the node's network namespace"));
    }
    let forced = pod.overruled()?;
    if forced == Some(false) {
        return Ok(Verdict::Bypass("sluice.io/intercept is false"));
    }
    if forced.is_none()
        && let Some(reason) = not_intercepted(pod)?
    {
        return Ok(Verdict::Bypass(reason));
    }
    stated::policy(pod).map(|policy| Verdict::Intercept(Box::new(policy)))
}

/// Why the mesh does not redirect a Pod's traffic, if it does not.
fn not_intercepted(pod: &PodAnnotations<'_>) -> Result<Option<&'static str>, Error> {
    let mesh = pod.mesh;
    if !pod.annotations.contains_key(&mesh.sidecar_annotation) {
        return Ok(Some("no sidecar annotation"));
    }
    let mut switches = mesh.opt_out.iter();
    let is_off = |key: &String| pod.label_or_annotation(key);
    if switches.any(|(key, off)| is_off(key).is_some_and(|value| off.has(value))) {
        return Ok(Some("interception disabled by annotation"));
    }
    if let Some(name) = &mesh.proxy_container
        && pod.lacks_container(name)
    {
        return Ok(Some("it has no container of the sidecar's name"));
    }
    Ok(match mesh.injector {
        Injector::Annotations | Injector::Linkerd => None,
        Injector::Istio => istio::not_intercepted(pod),
        Injector::Ambient => istio::not_ambient(pod),
        Injector::Kuma => kuma::not_intercepted(pod),
        Injector::Osm => osm::not_intercepted(pod)?,
        Injector::Consul => consul::not_intercepted(pod),
    })
}

#[cfg(test)]
mod tests;
