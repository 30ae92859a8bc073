//! From a Pod's annotations to its settings. Pure, and closed: what is not understood refuses
//! the Pod, so that no annotation is silently without effect.

mod items;

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::Deserialize;

use super::{
    Annotations, Rules,
    acceleration::{self, Acceleration},
    aside::{Aside, Pattern},
    mesh::Mesh,
};
use crate::netns::{Source, Users};
use items::{is_transparent, items, networks, owner, ports, status_port};

/// Every port, or every network.
const ALL: &str = "*";

/// Items of one list: the kernel's tables are shared by all Pods.
pub(crate) const MAX_ITEMS: usize = sluice_abi::maps::MAX_NETWORKS / 64;

/// What is to be done with a Pod.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its traffic is intercepted.
    Mesh(Box<Settings>),
    /// It is left alone.
    LeaveAlone(&'static str),
}

/// Ports, as ranges from the lowest to the highest.
pub(crate) type Ports = BTreeSet<(u16, u16)>;

/// Which connections that enter a Pod are the proxy's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Inbound {
    /// All but those at these ports, which reach the application untouched.
    AllBut(Ports),
    /// Those at these ports and no others.
    Only(Ports),
}

/// How a Pod's traffic is intercepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Which mesh's sidecar the Pod carries.
    pub(crate) mesh: &'static Mesh,
    /// The proxy's user, as the Pod numbers it, until it is [`Settings::seen_outside`].
    pub(crate) uid: u32,
    /// The proxy's group, likewise.
    pub(crate) gid: u32,
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
    /// Interfaces whose traffic is left alone.
    pub(crate) excluded_interfaces: Box<[Pattern]>,
    /// What that means in the Pod as it is.
    pub(crate) aside: Aside,
    /// From where its routes lead to which networks, if it has several addresses to choose from.
    pub(crate) sources: Vec<Source>,
    /// The Pod asks for `TPROXY`.
    pub(crate) transparent: bool,
    /// What the Pod wishes to be accelerated, if it says so.
    pub(crate) acceleration: Option<Acceleration>,
}

/// The annotations cannot be followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The runtime did not hand them over.
    #[error("the runtime did not hand over the Pod's annotations")]
    NotHandedOver,
    /// An item of a list.
    #[error("annotation {key}: '{item}' is not {allowed}")]
    Item {
        /// The annotation.
        key: &'static str,
        /// The item.
        item: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// A list that is too long.
    #[error("annotation {key}: {count} items are too many, {MAX_ITEMS} can be listed")]
    TooMany {
        /// The annotation.
        key: &'static str,
        /// Its length.
        count: usize,
    },
    /// An annotation that would change interception in a way that is not built.
    #[error("annotation {key}: '{value}' is not supported, only '{allowed}' is")]
    Unsupported {
        /// The annotation.
        key: String,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The Pod has a user namespace in which the proxy cannot run.
    #[error("the proxy's user {uid} has no number outside the Pod's user namespace")]
    NoUser {
        /// As the Pod numbers it.
        uid: u32,
    },
    /// An annotation that nobody here knows, among those that are about traffic.
    #[error("annotation {key}: not known, and what it asks for would not be done")]
    NotKnown {
        /// The annotation.
        key: String,
    },
}

/// What becomes of a Pod of which nobody tells whether it carries a sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WhenUnknown {
    /// It does not start, until somebody tells.
    #[default]
    Refuse,
    /// It is meshed, with the mesh's defaults. If it has no sidecar, it cannot be reached.
    Intercept,
    /// It is left alone. If it has a sidecar, that sees nothing.
    Pass,
}

/// What the annotations of a Pod say at least that carries a sidecar.
pub(crate) fn injected(mesh: &Mesh) -> Annotations {
    [(mesh.injected.clone(), "true".to_owned())].into()
}

/// Decides what is to be done with a Pod. `None`: its annotations are not known.
pub(crate) fn decide(rules: &Rules, annotations: Option<&Annotations>) -> Result<Verdict, Error> {
    match (annotations, rules.when_unknown) {
        (Some(annotations), _) => of_known(rules.mesh, annotations),
        (None, WhenUnknown::Refuse) => Err(Error::NotHandedOver),
        (None, WhenUnknown::Intercept) => of_known(rules.mesh, &injected(rules.mesh)),
        (None, WhenUnknown::Pass) => Ok(Verdict::LeaveAlone("nobody tells its annotations")),
    }
}

fn of_known(mesh: &'static Mesh, annotations: &Annotations) -> Result<Verdict, Error> {
    let is_off = |(key, off): (&String, &String)| {
        (annotations.get(key)).is_some_and(|value| value.trim() == off)
    };
    if !annotations.contains_key(&mesh.injected) {
        return Ok(Verdict::LeaveAlone("no sidecar was injected"));
    }
    if mesh.switched_off.iter().any(is_off) {
        return Ok(Verdict::LeaveAlone(
            "an annotation switches the sidecar off",
        ));
    }
    for (key, value) in annotations {
        supported(mesh, key, value.trim())?;
    }
    let settings = Pod { mesh, annotations }.settings()?;
    Ok(Verdict::Mesh(Box::new(settings)))
}

impl Settings {
    /// Those of a Pod that says nothing.
    pub(crate) fn of(mesh: &'static Mesh) -> Self {
        let mut inbound = single(&mesh.never_inbound);
        inbound.extend(single(&mesh.excluded_inbound));
        Self {
            mesh,
            uid: mesh.uid,
            gid: mesh.gid,
            inbound: Inbound::AllBut(inbound),
            excluded_outbound: single(&mesh.excluded_outbound),
            included_outbound: Ports::new(),
            networks: None,
            excluded_networks: Vec::new(),
            excluded_interfaces: Box::default(),
            aside: Aside {
                networks: mesh.left_alone.clone(),
                ..Aside::default()
            },
            sources: Vec::new(),
            transparent: false,
            acceleration: None,
        }
    }
}

impl Settings {
    /// With the proxy's user and group as the initial user namespace numbers them. A group that
    /// has no number there belongs to nobody.
    pub(crate) fn seen_outside(self, users: &Users) -> Result<Self, Error> {
        let uid = users
            .user(self.uid)
            .ok_or(Error::NoUser { uid: self.uid })?;
        let gid = users.group(self.gid).unwrap_or(u32::MAX);
        Ok(Self { uid, gid, ..self })
    }
}

fn single(ports: &[u16]) -> Ports {
    ports.iter().map(|port| (*port, *port)).collect()
}

/// A Pod that carries a mesh's sidecar, and what it says.
struct Pod<'a> {
    mesh: &'static Mesh,
    annotations: &'a Annotations,
}

impl Pod<'_> {
    fn settings(&self) -> Result<Settings, Error> {
        let names = &self.mesh.annotations;
        let mut settings = Settings {
            inbound: self.inbound()?,
            acceleration: acceleration(self.annotations)?,
            ..Settings::of(self.mesh)
        };
        // An explicit list, even an empty one, takes the default's place.
        if let Some((key, list)) = self.said(names.exclude_outbound_ports.as_ref()) {
            settings.excluded_outbound = ports(key, list)?;
        }
        if let Some((key, list)) = self.said(names.include_outbound_ports.as_ref()) {
            settings.included_outbound = ports(key, list)?;
        }
        if let Some((key, list)) = self.chosen(names.include_networks.as_ref()) {
            settings.networks = Some(networks(key, list)?);
        }
        if let Some((key, list)) = self.said(names.exclude_networks.as_ref()) {
            settings.excluded_networks = networks(key, list)?;
        }
        if let Some((key, mode)) = self.said(names.interception_mode.as_ref()) {
            settings.transparent = is_transparent(key, mode)?;
        }
        if let Some((key, list)) = self.said(names.exclude_interfaces.as_ref()) {
            settings.excluded_interfaces = items(key, list, Pattern::ALLOWED, Pattern::parse)?;
        }
        if let Some((key, id)) = self.said(names.proxy_uid.as_ref()) {
            settings.uid = owner(key, id)?;
        }
        if let Some((key, id)) = self.said(names.proxy_gid.as_ref()) {
            settings.gid = owner(key, id)?;
        }
        Ok(settings)
    }

    /// With a list of the ports that are the proxy's, the list of those that are not has no effect.
    fn inbound(&self) -> Result<Inbound, Error> {
        let Mesh {
            annotations: names,
            never_inbound,
            excluded_inbound,
            ..
        } = self.mesh;
        let mut except = single(never_inbound);
        match self.said(names.exclude_inbound_ports.as_ref()) {
            Some((key, list)) => except.extend(ports(key, list)?),
            None => except.extend(single(excluded_inbound)),
        }
        if let Some((key, port)) = self.said(names.status_port.as_ref()) {
            except.extend(status_port(key, port)?.map(|port| (port, port)));
        }
        match self.chosen(names.include_inbound_ports.as_ref()) {
            Some((key, list)) => ports(key, list).map(Inbound::Only),
            None => Ok(Inbound::AllBut(except)),
        }
    }

    /// An annotation that the mesh has and the Pod uses.
    fn said(&self, name: Option<&'static String>) -> Option<(&'static str, &str)> {
        let name: &'static str = name?;
        self.annotations.get(name).map(|value| (name, &**value))
    }

    /// Likewise, unless it means everything.
    fn chosen(&self, name: Option<&'static String>) -> Option<(&'static str, &str)> {
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
    let is_known = *key == mesh.injected || mesh.annotations.has(key);
    if is_closed && !is_known {
        return Err(Error::NotKnown {
            key: key.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
