//! From a Pod's annotations to its settings. Pure, and closed: what is not understood refuses
//! the Pod, so that no annotation is silently without effect.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{
    acceleration::{self, Acceleration},
    mesh::Mesh,
};
use crate::netns::Users;

/// Every port, or every network.
const ALL: &str = "*";

/// Items of one list: the kernel's tables are shared by all Pods.
pub(crate) const MAX_ITEMS: usize = sluice_abi::maps::MAX_NETWORKS / 64;

/// What is to be done with a Pod.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its traffic is intercepted.
    Mesh(Settings),
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

/// What the annotations of a Pod say at least that carries a sidecar.
pub(crate) fn injected(mesh: &Mesh) -> BTreeMap<String, String> {
    [(mesh.injected.clone(), "true".to_owned())].into()
}

/// Decides what is to be done with a Pod on a node of this mesh.
pub(crate) fn decide(
    mesh: &'static Mesh,
    annotations: Option<&BTreeMap<String, String>>,
) -> Result<Verdict, Error> {
    let annotations = annotations.ok_or(Error::NotHandedOver)?;
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
    Pod { mesh, annotations }.settings().map(Verdict::Mesh)
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
    annotations: &'a BTreeMap<String, String>,
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

fn acceleration(annotations: &BTreeMap<String, String>) -> Result<Option<Acceleration>, Error> {
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
    if is_closed && !mesh.annotations.has(key) {
        return Err(Error::NotKnown {
            key: key.to_owned(),
        });
    }
    Ok(())
}

/// A list of ports and ranges. A blank value is an empty list.
fn ports(key: &'static str, list: &str) -> Result<Ports, Error> {
    items(
        key,
        list,
        "a port from 1 to 65535 or a range like 8000-8999",
        range,
    )
}

/// A list of networks. A blank value is an empty list.
fn networks(key: &'static str, list: &str) -> Result<Vec<IpNet>, Error> {
    let network = |item: &str| item.parse::<IpNet>().ok();
    items(key, list, "a network like 10.0.0.0/8 or fd00::/8", network)
}

fn items<T, All: FromIterator<T>>(
    key: &'static str,
    list: &str,
    allowed: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<All, Error> {
    let texts: Vec<_> = match list.trim() {
        "" => Vec::new(),
        list => list.split(',').map(str::trim).collect(),
    };
    if texts.len() > MAX_ITEMS {
        let count = texts.len();
        return Err(Error::TooMany { key, count });
    }
    let item = |text: &str| {
        read(text).ok_or_else(|| Error::Item {
            key,
            item: text.to_owned(),
            allowed,
        })
    };
    texts.into_iter().map(item).collect()
}

/// `8080` or `8000-8999`.
fn range(item: &str) -> Option<(u16, u16)> {
    let (low, high) = match item.split_once('-') {
        Some((low, high)) => (port(low.trim_end())?, port(high.trim_start())?),
        None => (port(item)?, port(item)?),
    };
    (0 < low && low <= high).then_some((low, high))
}

/// Digits only: `u16::from_str` would take a sign.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Zero switches Istio's health port off.
fn status_port(key: &'static str, value: &str) -> Result<Option<u16>, Error> {
    match port(value.trim()) {
        Some(0) => Ok(None),
        Some(port) => Ok(Some(port)),
        None => Err(Error::Item {
            key,
            item: value.trim().to_owned(),
            allowed: "a port, or 0",
        }),
    }
}

/// A user or group. The last number means nobody.
fn owner(key: &'static str, value: &str) -> Result<u32, Error> {
    let digits = value.trim().bytes().all(|byte| byte.is_ascii_digit());
    let id = value.trim().parse().ok();
    id.filter(|id| digits && *id != u32::MAX)
        .ok_or_else(|| Error::Item {
            key,
            item: value.trim().to_owned(),
            allowed: "a number from 0 to 4294967294",
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXCLUDE_INBOUND: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
    const EXCLUDE_OUTBOUND: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
    const INCLUDE_INBOUND: &str = "traffic.sidecar.istio.io/includeInboundPorts";
    const INCLUDE_OUTBOUND: &str = "traffic.sidecar.istio.io/includeOutboundPorts";
    const INCLUDE_NETWORKS: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";
    const EXCLUDE_NETWORKS: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
    const STATUS_PORT: &str = "status.sidecar.istio.io/port";

    fn with(pairs: &[(&str, &str)]) -> Result<Verdict, Error> {
        within("istio", pairs)
    }

    fn within(mesh: &str, pairs: &[(&str, &str)]) -> Result<Verdict, Error> {
        let mesh = Mesh::preset(mesh);
        let mut annotations = injected(mesh);
        annotations
            .extend((pairs.iter()).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        decide(mesh, Some(&annotations))
    }

    fn meshed(pairs: &[(&str, &str)]) -> Settings {
        meshed_by("istio", pairs)
    }

    fn meshed_by(mesh: &str, pairs: &[(&str, &str)]) -> Settings {
        match within(mesh, pairs) {
            Ok(Verdict::Mesh(settings)) => settings,
            other => panic!("{other:?}"),
        }
    }

    fn except(ports: &[(u16, u16)]) -> Inbound {
        Inbound::AllBut(ports.iter().copied().collect())
    }

    #[test]
    fn without_annotations_the_pod_waits() {
        assert_eq!(
            decide(Mesh::preset("istio"), None),
            Err(Error::NotHandedOver)
        );
    }

    #[test]
    fn a_pod_without_a_sidecar_is_left_alone_whatever_else_it_says() {
        let annotations = BTreeMap::from([(EXCLUDE_INBOUND.to_owned(), "nonsense".to_owned())]);
        let verdict = decide(Mesh::preset("istio"), Some(&annotations));
        assert_eq!(verdict, Ok(Verdict::LeaveAlone("no sidecar was injected")));
    }

    #[test]
    fn the_proxys_own_ports_are_always_excluded() {
        let settings = meshed(&[]);
        let own = [(15020, 15020), (15021, 15021), (15090, 15090)];
        assert_eq!(settings.inbound, except(&own));
        assert_eq!(settings.excluded_outbound, single(&[15020]));
    }

    #[test]
    fn lists_may_hold_blanks_and_ranges() {
        let settings = meshed(&[
            (EXCLUDE_INBOUND, " 80, 443 ,8000-8002"),
            (STATUS_PORT, "15999"),
        ]);
        let mut expected = single(&[80, 443, 15020, 15021, 15090, 15999]);
        expected.insert((8000, 8002));
        assert_eq!(settings.inbound, Inbound::AllBut(expected));
    }

    #[test]
    fn an_explicit_outbound_list_replaces_the_default() {
        let settings = meshed(&[(EXCLUDE_OUTBOUND, "3306")]);
        assert_eq!(settings.excluded_outbound, single(&[3306]));
        let settings = meshed(&[(EXCLUDE_OUTBOUND, " ")]);
        assert_eq!(settings.excluded_outbound, Ports::new());
    }

    #[test]
    fn a_bad_item_is_named_with_its_annotation() {
        for bad in [
            "http", "0", "65536", "+80", "-1", "9-8", "1-", "*", "80;81", "",
        ] {
            let list = format!("80,{bad}");
            match with(&[(EXCLUDE_INBOUND, &list)]) {
                Err(Error::Item { key, item, .. }) => {
                    assert_eq!((key, &*item), (EXCLUDE_INBOUND, bad));
                }
                other => panic!("{bad}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_pod_cannot_take_the_whole_table() {
        let list = vec!["10.0.0.0/8"; MAX_ITEMS + 1].join(",");
        let refused = with(&[(EXCLUDE_NETWORKS, &list)]);
        assert!(matches!(refused, Err(Error::TooMany { .. })));
        assert_eq!(
            meshed(&[(EXCLUDE_OUTBOUND, "1-65535")])
                .excluded_outbound
                .len(),
            1
        );
    }

    #[test]
    fn a_list_of_inbound_ports_includes_only_these_and_the_empty_one_none() {
        for (list, expected) in [("80, 9000-9001", &[(80, 80), (9000, 9001)][..]), (" ", &[])] {
            let settings = meshed(&[(INCLUDE_INBOUND, list), (EXCLUDE_INBOUND, "80")]);
            assert_eq!(
                settings.inbound,
                Inbound::Only(expected.iter().copied().collect())
            );
        }
    }

    #[test]
    fn networks_of_both_families_may_be_listed_together() {
        let text = "10.1.2.3/8, fd00::/16 ,127.0.0.0/8";
        let list: Vec<IpNet> = text
            .split(',')
            .map(|one| one.trim().parse().unwrap())
            .collect();
        let settings = meshed(&[(INCLUDE_NETWORKS, text), (EXCLUDE_NETWORKS, text)]);
        assert_eq!(settings.networks.as_ref(), Some(&list));
        assert_eq!(settings.excluded_networks, list);
        assert_eq!(meshed(&[(INCLUDE_NETWORKS, "")]).networks, Some(Vec::new()));
        for bad in ["10.0.0.0", "10.0.0.0/33", "*", "host/8", "10.0.0.0/8,*"] {
            let refused = with(&[(EXCLUDE_NETWORKS, bad)]);
            assert!(matches!(refused, Err(Error::Item { .. })), "{bad}");
        }
    }

    #[test]
    fn a_pod_may_choose_its_acceleration() {
        let settings = meshed(&[(acceleration::ANNOTATION, "off")]);
        assert_eq!(settings.acceleration, Some(Acceleration::Off));
        let refused = with(&[(acceleration::ANNOTATION, "fast")]).unwrap_err();
        assert!(
            refused.to_string().contains("off, proxies or all"),
            "{refused}"
        );
    }

    #[test]
    fn what_is_not_built_refuses_the_pod() {
        for (key, value) in [
            ("sidecar.istio.io/interceptionMode", "TPROXY"),
            ("traffic.sidecar.istio.io/excludeInterfaces", "net1"),
            ("traffic.sidecar.istio.io/kubevirtInterfaces", "net1"),
            ("traffic.sidecar.istio.io/fromTheFuture", "1"),
            ("istio.io/reroute-virtual-interfaces", "net1"),
        ] {
            let refused = with(&[(key, value)]);
            let is_named = matches!(
                refused,
                Err(Error::Unsupported { .. } | Error::NotKnown { .. })
            );
            assert!(is_named, "{key}");
        }
    }

    #[test]
    fn a_switched_off_sidecar_is_left_alone() {
        for (mesh, key, value) in [
            ("istio", "sidecar.istio.io/inject", " false "),
            ("linkerd", "linkerd.io/inject", "disabled"),
            ("kuma", "kuma.io/sidecar-injected", "false"),
            ("osm", "openservicemesh.io/sidecar-injection", "disabled"),
        ] {
            let verdict = within(mesh, &[(key, value)]);
            assert!(matches!(verdict, Ok(Verdict::LeaveAlone(_))), "{mesh}");
        }
    }

    #[test]
    fn every_mesh_has_its_own_words() {
        for (mesh, key) in [
            ("linkerd", "config.linkerd.io/skip-outbound-ports"),
            ("kuma", "traffic.kuma.io/exclude-outbound-ports"),
            ("osm", "openservicemesh.io/outbound-port-exclusion-list"),
        ] {
            let settings = meshed_by(mesh, &[(key, "25,8000-8001"), (EXCLUDE_OUTBOUND, "!")]);
            assert_eq!(settings.excluded_outbound, [(25, 25), (8000, 8001)].into());
        }
        let refused = within(
            "kuma",
            &[("traffic.kuma.io/exclude-outbound-ips", "10.0.0.1")],
        );
        assert!(matches!(refused, Err(Error::NotKnown { .. })));
    }

    #[test]
    fn the_pod_may_name_the_proxys_user_and_group() {
        const UID: &str = "config.linkerd.io/proxy-uid";
        let settings = meshed_by(
            "linkerd",
            &[(UID, "77"), ("config.linkerd.io/proxy-gid", "0")],
        );
        assert_eq!((settings.uid, settings.gid), (77, 0));
        for bad in ["", "+1", "root", "4294967295", "4294967296"] {
            let refused = within("linkerd", &[(UID, bad)]);
            assert!(matches!(refused, Err(Error::Item { .. })), "{bad}");
        }
    }

    #[test]
    fn defaults_may_be_spelled_out() {
        let spelled = meshed(&[
            ("sidecar.istio.io/interceptionMode", "REDIRECT"),
            ("traffic.sidecar.istio.io/includeInboundPorts", "*"),
            ("traffic.sidecar.istio.io/includeOutboundIPRanges", " * "),
            ("traffic.sidecar.istio.io/excludeOutboundIPRanges", ""),
            (EXCLUDE_INBOUND, ""),
            (STATUS_PORT, "0"),
        ]);
        assert_eq!(spelled, meshed(&[]));
    }

    proptest! {
        #[test]
        fn no_value_makes_the_parsers_panic(value in "[0-9, *-]{0,40}|.*") {
            for key in [
                EXCLUDE_INBOUND, INCLUDE_INBOUND, EXCLUDE_OUTBOUND, INCLUDE_OUTBOUND,
                EXCLUDE_NETWORKS, INCLUDE_NETWORKS, STATUS_PORT,
            ] {
                drop(with(&[(key, &value)]));
            }
        }

        #[test]
        fn ports_that_are_printed_are_read_back(list in prop::collection::btree_set(1_u16.., 1..40)) {
            let text: Vec<_> = list.iter().map(u16::to_string).collect();
            let ranges = list.into_iter().map(|port| (port, port)).collect();
            prop_assert_eq!(ports(EXCLUDE_OUTBOUND, &text.join(" , ")), Ok(ranges));
        }
    }
}
