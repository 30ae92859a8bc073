//! From a Pod's annotations and manifest to its settings: the same decision at ADD, for running
//! Pods, and in `sluiced decide`. Pure, and strict: a setting that is not understood rejects the
//! Pod, so no annotation is silently ignored.

mod consul;
mod istio;
mod kuma;
mod linkerd;
mod osm;
mod pod_policy;
mod resolved;
mod stated;
mod subject;
mod virtual_interfaces;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sluice_api::INTERCEPT;

use super::{
    Annotations, NodePolicy,
    acceleration::Acceleration,
    bypass::IfacePattern,
    mesh::{Injector, Mesh, Selection},
    settings::{Error, Families, OwnerGroups, Ports, parse},
};
pub(crate) use resolved::{NetnsFacts, Parsed, ResolvedPolicy, RouteFacts};
use subject::PodAnnotations;
pub(crate) use subject::Subject;

/// The decision on a Pod.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its traffic is intercepted.
    Intercept(Box<PodPolicy>),
    /// It is not intercepted, for this reason.
    Bypass(&'static str),
}

/// The inbound connections that are intercepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Inbound {
    /// All except those to these ports, which reach the application unchanged.
    Exclude(Ports),
    /// Only those to these ports.
    Include(Ports),
}

/// The ports on which a proxy listens in its Pod. Zero means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxyPorts {
    /// For connections of the application.
    pub(crate) outbound: u16,
    /// For connections to the Pod.
    pub(crate) inbound: u16,
    /// For DNS queries.
    pub(crate) dns: u16,
}

/// The source of the proxy's user and group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UserSource {
    /// The mesh's description.
    #[default]
    Mesh,
    /// An annotation of the mesh or of Sluice.
    Annotation,
    /// The security context of the sidecar's container, or of the Pod.
    PodSpec,
}

/// The interception settings of a Pod: [`Parsed`], or resolved against its netns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodPolicy<S = Parsed> {
    /// The mesh of the Pod's sidecar.
    pub(crate) mesh: &'static Mesh,
    /// The proxy's user, in the user namespace of the state.
    pub(crate) uid: u32,
    /// The proxy's group, likewise.
    pub(crate) gid: u32,
    /// The user of a container that validates the redirection before the proxy starts, likewise; zero if
    /// there is none.
    pub(crate) validator_uid: u32,
    /// The source of the proxy's user.
    pub(crate) user_from: UserSource,
    /// The proxy's ports.
    pub(crate) ports: ProxyPorts,
    /// The intercepted inbound connections.
    pub(crate) inbound: Inbound,
    /// Excluded outbound ports.
    pub(crate) excluded_outbound: Ports,
    /// Outbound ports that are intercepted regardless of the address.
    pub(crate) included_outbound: Ports,
    /// The destination networks that are intercepted, if not all are.
    pub(crate) networks: Option<Vec<IpNet>>,
    /// Excluded destination networks.
    pub(crate) excluded_networks: Vec<IpNet>,
    /// Source networks whose inbound connections bypass the proxy.
    pub(crate) excluded_sources: Vec<IpNet>,
    /// The redirected families.
    pub(crate) families: Families,
    /// The redirected groups, likewise.
    pub(crate) owner_groups: OwnerGroups,
    /// Outbound connections bypass the proxy until it listens for the first time.
    pub(crate) bypass_before_proxy: bool,
    /// Excluded interfaces.
    pub(crate) excluded_interfaces: Box<[IfacePattern]>,
    /// Names of virtual interfaces, whose connections the proxy gets.
    pub(crate) virtual_interfaces: Box<[String]>,
    /// The Pod requests `TPROXY`.
    pub(crate) tproxy: bool,
    /// The Pod's acceleration annotation, if any.
    pub(crate) acceleration: Option<Acceleration>,
    /// Parsed or resolved, with the settings that only a netns gives.
    pub(crate) state: S,
}

/// The policy for a Pod whose annotations are unavailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MissingAnnotations {
    /// The ADD fails until the annotations are available.
    #[default]
    Deny,
    /// The Pod is intercepted, with the mesh's defaults. Without a sidecar it is unreachable.
    Intercept,
    /// The Pod is not intercepted. If it has a sidecar, its traffic bypasses it.
    Bypass,
}

/// The minimal annotations of a Pod with a sidecar.
pub(crate) fn minimal_annotations(mesh: &Mesh) -> Annotations {
    [(mesh.sidecar_annotation.clone(), "true".to_owned())].into()
}

/// Decides on a Pod.
///
/// # Errors
///
/// If the Pod states something that would change interception and is not supported.
pub(crate) fn decide<'a>(
    node_policy: &NodePolicy,
    pod: impl Into<Subject<'a>>,
) -> Result<Verdict, Error> {
    let Subject {
        namespace,
        annotations,
        manifest,
    } = pod.into();
    let mesh = node_policy.mesh;
    let excluded = &mesh.node.excluded_namespaces;
    let is_forced = annotations.is_some_and(|all| all.contains_key(INTERCEPT));
    if !is_forced && namespace.is_some_and(|name| excluded.iter().any(|one| one == name)) {
        return Ok(Verdict::Bypass("its Kubernetes namespace is excluded"));
    }
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

/// Whether an injector left its mark on the Pod.
fn is_marked(pod: &PodAnnotations<'_>) -> bool {
    pod.annotations.contains_key(&pod.mesh.sidecar_annotation)
        || match pod.mesh.injector {
            Injector::Osm => osm::is_injected(pod),
            Injector::Consul => consul::is_injected(pod),
            _ => false,
        }
}

/// Why the mesh does not redirect a Pod's traffic, if so.
fn not_intercepted(pod: &PodAnnotations<'_>) -> Result<Option<&'static str>, Error> {
    let mesh = pod.mesh;
    if let Selection::Labels {
        excluded_namespaces,
    } = &mesh.selection
    {
        return istio::not_selected_by_label(pod, excluded_namespaces);
    }
    if !is_marked(pod) {
        return Ok(Some("no sidecar annotation"));
    }
    // Linkerd's CNI plugin looks for the proxy's container alone.
    let is_decided = mesh.injector == Injector::Linkerd && linkerd::has_proxy(pod);
    let mut switches = mesh.opt_out.iter();
    let is_off = |key: &String| pod.label_or_annotation(key);
    if !is_decided && switches.any(|(key, off)| is_off(key).is_some_and(|value| off.has(value))) {
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
