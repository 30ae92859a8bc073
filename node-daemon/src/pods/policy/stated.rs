//! The interception settings that a Pod states: first single annotations, then the other output of
//! its mesh's injector.

use super::{
    Annotations, Error, Families, Inbound, Injector, Mesh, PodAnnotations, PodPolicy, UserSource,
    consul, istio, kuma, linkerd, parse, virtual_interfaces,
};
use crate::pods::{
    acceleration::{self, Acceleration},
    bypass::IfacePattern,
    mesh::single,
};

/// Every port, or every network.
const ALL: &str = "*";
/// The operator's annotations for the proxy's user and group.
const UID: &str = "sluice.io/proxy-uid";
const GID: &str = "sluice.io/proxy-gid";
/// The operator's annotation for the redirected families.
const FAMILIES: &str = "sluice.io/families";
/// The operator's annotation for connections before the proxy listens.
pub(super) const BEFORE_PROXY: &str = "sluice.io/before-proxy";

/// The settings of an intercepted Pod.
pub(super) fn policy(pod: &PodAnnotations<'_>) -> Result<PodPolicy, Error> {
    let mut policy = match pod.mesh.injector {
        Injector::Kuma if kuma::is_stated_whole(pod) => kuma::stated(pod)?,
        Injector::Istio => of_istio(pod)?,
        _ => by_annotations(pod)?,
    };
    match pod.mesh.injector {
        Injector::Kuma if !kuma::is_stated_whole(pod) => kuma::adjust(pod, &mut policy)?,
        Injector::Linkerd => linkerd::adjust(pod, &mut policy)?,
        Injector::Consul => consul::adjust(pod, &mut policy)?,
        Injector::Ambient => istio::adjust_ambient(pod, &mut policy),
        _ => {}
    }
    policy.acceleration = acceleration(pod.annotations)?;
    user(pod, &mut policy)?;
    overrides(pod, &mut policy)?;
    Ok(policy)
}

/// Applies the node's choice and the operator's annotations, which precede the mesh's.
fn overrides(pod: &PodAnnotations<'_>, policy: &mut PodPolicy) -> Result<(), Error> {
    let node = &pod.mesh.node;
    policy.families = node.families.or(policy.families);
    policy.families = match pod.annotation(FAMILIES) {
        None => policy.families,
        Some("both") => Families::Both,
        Some("ipv4") => Families::Ipv4,
        Some(other) => return Err(item(FAMILIES, other, "both or ipv4")),
    };
    policy.bypass_before_proxy = match pod.annotation(BEFORE_PROXY) {
        None | Some("refuse") => false,
        Some("bypass") => true,
        Some(other) => return Err(item(BEFORE_PROXY, other, "refuse or bypass")),
    };
    // The annotation of an ambient Pod precedes.
    if node.no_dns_capture && pod.mesh.injector != Injector::Ambient {
        policy.ports.dns = 0;
    }
    Ok(())
}

fn item(key: &'static str, item: &str, allowed: &'static str) -> Error {
    Error::Item {
        key,
        item: item.to_owned(),
        allowed,
    }
}

/// A Pod with an init container states its settings in that container's arguments.
fn of_istio(pod: &PodAnnotations<'_>) -> Result<PodPolicy, Error> {
    let mut policy = match istio::init_arguments(pod) {
        None => by_annotations(pod)?,
        Some(stated) => {
            supported_all(pod)?;
            let mut annotations = pod.annotations.clone();
            annotations.extend(stated);
            let pod = PodAnnotations {
                annotations: &annotations,
                ..*pod
            };
            PodPolicy {
                inbound: listed_inbound(&pod, super::Ports::new())?,
                ..by_annotations(&pod)?
            }
        }
    };
    let (outbound, inbound) = istio::init_ports(pod);
    policy.ports.outbound = outbound.unwrap_or(policy.ports.outbound);
    policy.ports.inbound = inbound.unwrap_or(policy.ports.inbound);
    policy.uid = istio::init_uid(pod).unwrap_or(policy.uid);
    policy.families = istio::families(pod);
    Ok(policy)
}

fn by_annotations(pod: &PodAnnotations<'_>) -> Result<PodPolicy, Error> {
    supported_all(pod)?;
    let names = &pod.mesh.annotations;
    let mut policy = PodPolicy {
        inbound: inbound(pod)?,
        ..PodPolicy::of(pod.mesh)
    };
    // An explicit list, even an empty one, replaces the default.
    if let Some((key, list)) = pod.named_annotation(names.exclude_outbound_ports.as_ref()) {
        policy.excluded_outbound = ports(pod, key, list)?;
    }
    if let Some((key, list)) = pod.named_annotation(names.include_outbound_ports.as_ref()) {
        policy.included_outbound = parse::ports(key, list)?;
    }
    if let Some((key, list)) = pod.annotation_unless_star(names.include_networks.as_ref()) {
        policy.networks = Some(parse::networks(key, list)?);
    }
    if let Some((key, list)) = pod.named_annotation(names.exclude_networks.as_ref()) {
        policy.excluded_networks = networks(pod, key, list)?;
    }
    if let Some((key, list)) = pod.named_annotation(names.exclude_sources.as_ref()) {
        policy.excluded_sources = networks(pod, key, list)?;
    }
    if let Some((key, mode)) = pod.named_annotation(names.interception_mode.as_ref()) {
        policy.tproxy = parse::is_tproxy(key, mode)?;
    }
    if let Some((key, list)) = pod.named_annotation(names.exclude_interfaces.as_ref()) {
        policy.excluded_interfaces =
            parse::items(key, list, IfacePattern::ALLOWED, IfacePattern::parse)?;
    }
    virtual_interfaces::adjust(pod, &mut policy)?;
    if let Some((key, port)) = pod.named_annotation(names.inbound_port.as_ref()) {
        policy.ports.inbound = parse::a_port(key, port)?;
    }
    if let Some((key, port)) = pod.named_annotation(names.outbound_port.as_ref()) {
        policy.ports.outbound = parse::a_port(key, port)?;
    }
    Ok(policy)
}

/// A list of excluded ports, as the mesh reads it.
fn ports(pod: &PodAnnotations<'_>, key: &'static str, list: &str) -> Result<super::Ports, Error> {
    match pod.mesh.injector {
        Injector::Kuma => parse::ports(key, &parse::without_empty_items(list)),
        Injector::Linkerd => linkerd::ports(key, list),
        _ => parse::ports(key, list),
    }
}

/// A list of excluded networks, as the mesh reads it: Kuma also takes addresses.
fn networks(
    pod: &PodAnnotations<'_>,
    key: &'static str,
    list: &str,
) -> Result<Vec<ipnet::IpNet>, Error> {
    if pod.mesh.injector == Injector::Kuma {
        parse::addresses(key, &parse::without_empty_items(list))
    } else {
        parse::networks(key, list)
    }
}

/// A list of included ports overrides the list of excluded ones.
fn inbound(pod: &PodAnnotations<'_>) -> Result<Inbound, Error> {
    let Mesh {
        annotations: names,
        reserved_inbound_ports,
        reserved_ports,
        ..
    } = pod.mesh;
    let mut except = single(reserved_inbound_ports);
    if pod
        .named_annotation(names.exclude_inbound_ports.as_ref())
        .is_none()
    {
        except.extend(pod.mesh.skip_inbound());
    }
    if let Some((key, port)) = pod.named_annotation(names.status_port.as_ref()) {
        except.extend(parse::port_or_none(key, port)?.map(|port| (port, port)));
    }
    for (key, default) in reserved_ports {
        let port = match pod.annotation(key) {
            Some(port) => parse::port_or_none(key, port)?,
            None => (*default != 0).then_some(*default),
        };
        except.extend(port.map(|port| (port, port)));
    }
    listed_inbound(pod, except)
}

/// The Pod's own lists. `except`: ports that are excluded in any case.
fn listed_inbound(pod: &PodAnnotations<'_>, mut except: super::Ports) -> Result<Inbound, Error> {
    let names = &pod.mesh.annotations;
    if let Some((key, list)) = pod.named_annotation(names.exclude_inbound_ports.as_ref()) {
        except.extend(ports(pod, key, list)?);
    }
    match pod.annotation_unless_star(names.include_inbound_ports.as_ref()) {
        Some((key, list)) => parse::ports(key, list).map(Inbound::Include),
        None => Ok(Inbound::Exclude(except)),
    }
}

/// The proxy's user and group. Precedence: the operator's annotation, the Pod's spec, which is
/// authoritative for the user, the mesh's description.
fn user(pod: &PodAnnotations<'_>, policy: &mut PodPolicy) -> Result<(), Error> {
    let Mesh {
        annotations: names,
        proxy_container,
        ..
    } = pod.mesh;
    if let Some((key, id)) = pod.named_annotation(names.proxy_uid.as_ref())
        && !kuma::is_stated_whole(pod)
    {
        policy.uid = parse::parse_id(key, id)?;
        policy.user_from = UserSource::Annotation;
    }
    if let Some((key, id)) = pod.named_annotation(names.proxy_gid.as_ref()) {
        policy.gid = parse::parse_id(key, id)?;
    }
    let container = (proxy_container.as_ref()).and_then(|name| pod.container(name));
    // Root does not distinguish the proxy from the Pod's other processes: iptables rules cannot
    // either.
    let known = |id: Option<u32>| id.filter(|id| *id != 0);
    if let Some(uid) = container.and_then(|proxy| known(proxy.uid)) {
        policy.uid = uid;
        policy.user_from = UserSource::PodSpec;
    }
    // A mesh without a group identifies its proxy by the user alone.
    if policy.gid != u32::MAX
        && let Some(gid) = container.and_then(|proxy| known(proxy.gid))
    {
        policy.gid = gid;
    }
    if let Some(uid) = pod.own_id(UID)? {
        policy.uid = uid;
        policy.user_from = UserSource::Annotation;
    }
    if let Some(gid) = pod.own_id(GID)? {
        policy.gid = gid;
    }
    Ok(())
}

impl<'a> PodAnnotations<'a> {
    /// An annotation that the mesh defines and the Pod has.
    pub(super) fn named_annotation(
        &self,
        name: Option<&'static String>,
    ) -> Option<(&'static str, &'a str)> {
        let name: &'static str = name?;
        self.annotations.get(name).map(|value| (name, &**value))
    }

    /// Likewise, unless its value is `*`.
    fn annotation_unless_star(
        &self,
        name: Option<&'static String>,
    ) -> Option<(&'static str, &'a str)> {
        self.named_annotation(name)
            .filter(|(_, list)| list.trim() != ALL)
    }
}

fn acceleration(annotations: &Annotations) -> Result<Option<Acceleration>, Error> {
    let Some(text) = annotations.get(acceleration::ANNOTATION) else {
        return Ok(None);
    };
    let wish = Acceleration::parse(text).ok_or_else(|| Error::Item {
        key: acceleration::ANNOTATION,
        item: text.clone(),
        allowed: Acceleration::CHOICES,
    })?;
    Ok(Some(wish))
}

/// Rejects settings that would change interception and are not supported.
fn supported_all(pod: &PodAnnotations<'_>) -> Result<(), Error> {
    (pod.annotations.iter()).try_for_each(|(key, value)| supported(pod.mesh, key, value.trim()))
}

fn supported(mesh: &'static Mesh, key: &str, value: &str) -> Result<(), Error> {
    if let Some(allowed) = mesh.required_values.get(key) {
        return if value == allowed {
            Ok(())
        } else {
            Err(Error::Unsupported {
                key: key.to_owned(),
                value: value.to_owned(),
                allowed,
            })
        };
    }
    let is_closed = (mesh.strict_prefixes.iter()).any(|prefix| key.starts_with(&**prefix));
    let is_known = *key == mesh.sidecar_annotation
        || mesh.annotations.has(key)
        || mesh.ignored.iter().any(|ignored| ignored == key);
    if is_closed && !is_known {
        return Err(Error::NotKnown {
            key: key.to_owned(),
        });
    }
    Ok(())
}
