//! What a Pod states about its interception: annotations one by one, then what its mesh's injector
//! states elsewhere.

use super::{
    Annotations, Error, Inbound, Injector, Mesh, PodAnnotations, Settings, UserSource, consul,
    istio, kuma, linkerd, parse, pod_policy::single,
};
use crate::pods::{
    acceleration::{self, Acceleration},
    aside::Pattern,
};

/// Every port, or every network.
const ALL: &str = "*";
/// The proxy's user and group, by the operator's word.
const UID: &str = "sluice.io/proxy-uid";
const GID: &str = "sluice.io/proxy-gid";

/// The settings of a Pod that is intercepted.
pub(super) fn settings(pod: &PodAnnotations<'_>) -> Result<Settings, Error> {
    let mut settings = match pod.mesh.injector {
        Injector::Kuma if kuma::is_stated_whole(pod) => kuma::stated(pod)?,
        Injector::Istio => of_istio(pod)?,
        _ => by_annotations(pod)?,
    };
    match pod.mesh.injector {
        Injector::Kuma if !kuma::is_stated_whole(pod) => kuma::adjust(pod, &mut settings)?,
        Injector::Linkerd => linkerd::adjust(pod, &mut settings)?,
        Injector::Consul => consul::adjust(pod, &mut settings)?,
        _ => {}
    }
    settings.acceleration = acceleration(pod.annotations)?;
    user(pod, &mut settings)?;
    settings.apply_families()?;
    Ok(settings)
}

/// With rules of its own, a Pod states in its init container's arguments what these do.
fn of_istio(pod: &PodAnnotations<'_>) -> Result<Settings, Error> {
    let mut settings = match istio::init_arguments(pod) {
        None => by_annotations(pod)?,
        Some(stated) => {
            supported_all(pod)?;
            let mut annotations = pod.annotations.clone();
            annotations.extend(stated);
            let pod = PodAnnotations {
                annotations: &annotations,
                ..*pod
            };
            Settings {
                inbound: listed_inbound(&pod, super::Ports::new())?,
                ..by_annotations(&pod)?
            }
        }
    };
    let (outbound, inbound) = istio::init_ports(pod);
    settings.ports.outbound = outbound.unwrap_or(settings.ports.outbound);
    settings.ports.inbound = inbound.unwrap_or(settings.ports.inbound);
    settings.uid = istio::init_uid(pod).unwrap_or(settings.uid);
    Ok(settings)
}

fn by_annotations(pod: &PodAnnotations<'_>) -> Result<Settings, Error> {
    supported_all(pod)?;
    let names = &pod.mesh.annotations;
    let mut settings = Settings {
        inbound: inbound(pod)?,
        ..Settings::of(pod.mesh)
    };
    // An explicit list, even an empty one, takes the default's place.
    if let Some((key, list)) = pod.said(names.exclude_outbound_ports.as_ref()) {
        settings.excluded_outbound = parse::ports(key, list)?;
    }
    if let Some((key, list)) = pod.said(names.include_outbound_ports.as_ref()) {
        settings.included_outbound = parse::ports(key, list)?;
    }
    if let Some((key, list)) = pod.chosen(names.include_networks.as_ref()) {
        settings.networks = Some(parse::networks(key, list)?);
    }
    if let Some((key, list)) = pod.said(names.exclude_networks.as_ref()) {
        settings.excluded_networks = if pod.mesh.injector == Injector::Kuma {
            parse::addresses(key, list)?
        } else {
            parse::networks(key, list)?
        };
    }
    if let Some((key, list)) = pod.said(names.exclude_sources.as_ref()) {
        settings.excluded_sources = parse::addresses(key, list)?;
    }
    if let Some((key, mode)) = pod.said(names.interception_mode.as_ref()) {
        settings.transparent = parse::is_transparent(key, mode)?;
    }
    if let Some((key, list)) = pod.said(names.exclude_interfaces.as_ref()) {
        settings.excluded_interfaces = parse::items(key, list, Pattern::ALLOWED, Pattern::parse)?;
    }
    if let Some((key, port)) = pod.said(names.inbound_port.as_ref()) {
        settings.ports.inbound = parse::a_port(key, port)?;
    }
    if let Some((key, port)) = pod.said(names.outbound_port.as_ref()) {
        settings.ports.outbound = parse::a_port(key, port)?;
    }
    Ok(settings)
}

/// With a list of the ports that are the proxy's, the list of those that are not has no effect.
fn inbound(pod: &PodAnnotations<'_>) -> Result<Inbound, Error> {
    let Mesh {
        annotations: names,
        never_inbound,
        excluded_inbound,
        reserved_ports,
        ..
    } = pod.mesh;
    let mut except = single(never_inbound);
    if pod.said(names.exclude_inbound_ports.as_ref()).is_none() {
        except.extend(single(excluded_inbound));
    }
    if let Some((key, port)) = pod.said(names.status_port.as_ref()) {
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

/// By the Pod's own lists, beside ports that are excluded in any case.
fn listed_inbound(pod: &PodAnnotations<'_>, mut except: super::Ports) -> Result<Inbound, Error> {
    let names = &pod.mesh.annotations;
    if let Some((key, list)) = pod.said(names.exclude_inbound_ports.as_ref()) {
        except.extend(parse::ports(key, list)?);
    }
    match pod.chosen(names.include_inbound_ports.as_ref()) {
        Some((key, list)) => parse::ports(key, list).map(Inbound::Only),
        None => Ok(Inbound::AllBut(except)),
    }
}

/// The proxy's user and group. The operator's word counts most, then the Pod's spec, in which the
/// user is a fact, then what the mesh says of it.
fn user(pod: &PodAnnotations<'_>, settings: &mut Settings) -> Result<(), Error> {
    let Mesh {
        annotations: names,
        proxy_container,
        ..
    } = pod.mesh;
    if let Some((key, id)) = pod.said(names.proxy_uid.as_ref())
        && !kuma::is_stated_whole(pod)
    {
        settings.uid = parse::owner(key, id)?;
        settings.user_from = UserSource::Annotation;
    }
    if let Some((key, id)) = pod.said(names.proxy_gid.as_ref()) {
        settings.gid = parse::owner(key, id)?;
    }
    let container = (proxy_container.as_ref()).and_then(|name| pod.container(name));
    // Root cannot be told from the Pod's other processes: rules do not try either.
    let known = |id: Option<u32>| id.filter(|id| *id != 0);
    if let Some(uid) = container.and_then(|proxy| known(proxy.uid)) {
        settings.uid = uid;
        settings.user_from = UserSource::PodSpec;
    }
    // A mesh without a group tells its proxy by the user alone.
    if settings.gid != u32::MAX
        && let Some(gid) = container.and_then(|proxy| known(proxy.gid))
    {
        settings.gid = gid;
    }
    if let Some(uid) = pod.own_id(UID)? {
        settings.uid = uid;
        settings.user_from = UserSource::Annotation;
    }
    if let Some(gid) = pod.own_id(GID)? {
        settings.gid = gid;
    }
    Ok(())
}

impl<'a> PodAnnotations<'a> {
    /// An annotation that the mesh has and the Pod uses.
    fn said(&self, name: Option<&'static String>) -> Option<(&'static str, &'a str)> {
        let name: &'static str = name?;
        self.annotations.get(name).map(|value| (name, &**value))
    }

    /// Likewise, unless it means everything.
    fn chosen(&self, name: Option<&'static String>) -> Option<(&'static str, &'a str)> {
        self.said(name).filter(|(_, list)| list.trim() != ALL)
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

/// Refuses what would change interception and cannot be followed.
fn supported_all(pod: &PodAnnotations<'_>) -> Result<(), Error> {
    (pod.annotations.iter()).try_for_each(|(key, value)| supported(pod.mesh, key, value.trim()))
}

fn supported(mesh: &'static Mesh, key: &str, value: &str) -> Result<(), Error> {
    if let Some(allowed) = mesh.only.get(key) {
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
    let is_closed = (mesh.closed.iter()).any(|beginning| key.starts_with(&**beginning));
    let is_known = *key == mesh.injected
        || mesh.annotations.has(key)
        || mesh.ignored.iter().any(|ignored| ignored == key);
    if is_closed && !is_known {
        return Err(Error::NotKnown {
            key: key.to_owned(),
        });
    }
    Ok(())
}
