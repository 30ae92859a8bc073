//! Tests of supported and unsupported annotations.

mod pod_policy;

use proptest::prelude::*;
use sluice_api::Manifest;

use super::{parse::ports, *};
use crate::pods::{
    Meshes, acceleration,
    mesh::single,
    settings::{FamilyChoice, MAX_ITEMS, NodeValues},
};

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
    let annotations = annotated(mesh, pairs);
    decide(
        &node_policy(mesh, MissingAnnotations::Deny),
        Some(&annotations),
    )
}

/// The minimal annotations of a meshed Pod, and others.
fn annotated(mesh: &Mesh, pairs: &[(&str, &str)]) -> Annotations {
    let mut annotations = minimal_annotations(mesh);
    annotations.extend((pairs.iter()).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    annotations
}

fn intercepted(verdict: Result<Verdict, Error>) -> PodPolicy {
    match verdict {
        Ok(Verdict::Intercept(policy)) => *policy,
        other => panic!("{other:?}"),
    }
}

fn node_policy(mesh: &'static Mesh, missing_annotations: MissingAnnotations) -> NodePolicy {
    NodePolicy {
        mesh,
        missing_annotations,
        acceleration: Acceleration::Off,
    }
}

fn meshed(pairs: &[(&str, &str)]) -> PodPolicy {
    meshed_by("istio", pairs)
}

fn meshed_by(mesh: &str, pairs: &[(&str, &str)]) -> PodPolicy {
    intercepted(within(mesh, pairs))
}

fn except(ports: &[(u16, u16)]) -> Inbound {
    Inbound::Exclude(ports.iter().copied().collect())
}

#[test]
fn missing_annotations_follow_the_policy() {
    let istio = Mesh::preset("istio");
    let decided = |missing_annotations| {
        decide(
            &node_policy(istio, missing_annotations),
            None::<&Annotations>,
        )
    };
    let reason = "annotations unavailable";
    assert_eq!(decided(MissingAnnotations::Deny), Err(Error::NotHandedOver));
    assert_eq!(decided(MissingAnnotations::Intercept), with(&[]));
    assert_eq!(
        decided(MissingAnnotations::Bypass),
        Ok(Verdict::Bypass(reason))
    );
}

#[test]
fn pods_without_sidecar_annotation_are_bypassed() {
    let annotations = Annotations::from([(EXCLUDE_INBOUND.to_owned(), "nonsense".to_owned())]);
    let verdict = decide(
        &node_policy(Mesh::preset("istio"), MissingAnnotations::Intercept),
        Some(&annotations),
    );
    assert_eq!(verdict, Ok(Verdict::Bypass("no sidecar annotation")));
}

#[test]
fn the_proxys_own_ports_are_always_excluded() {
    let policy = meshed(&[]);
    let own = [(15020, 15020), (15021, 15021), (15090, 15090)];
    assert_eq!(policy.inbound, except(&own));
    assert_eq!(policy.excluded_outbound, single(&[15020]));
}

#[test]
fn lists_may_hold_blanks_and_ranges() {
    let policy = meshed(&[
        (EXCLUDE_INBOUND, " 80, 443 ,8000-8002"),
        (STATUS_PORT, "15999"),
    ]);
    let mut expected = single(&[80, 443, 15020, 15021, 15090, 15999]);
    expected.insert((8000, 8002));
    assert_eq!(policy.inbound, Inbound::Exclude(expected));
}

#[test]
fn an_explicit_outbound_list_replaces_the_default() {
    let policy = meshed(&[(EXCLUDE_OUTBOUND, "3306")]);
    assert_eq!(policy.excluded_outbound, single(&[3306]));
    let policy = meshed(&[(EXCLUDE_OUTBOUND, " ")]);
    assert_eq!(policy.excluded_outbound, Ports::new());
}

#[test]
fn a_bad_item_is_named_with_its_annotation() {
    for bad in ["http", "65536", "+80", "-1", "9-8", "1-", "*", "80;81", ""] {
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
fn inbound_port_list_is_exclusive_even_if_empty() {
    for (list, expected) in [("80, 9000-9001", &[(80, 80), (9000, 9001)][..]), (" ", &[])] {
        let policy = meshed(&[(INCLUDE_INBOUND, list), (EXCLUDE_INBOUND, "80")]);
        assert_eq!(
            policy.inbound,
            Inbound::Include(expected.iter().copied().collect())
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
    let policy = meshed(&[(INCLUDE_NETWORKS, text), (EXCLUDE_NETWORKS, text)]);
    assert_eq!(policy.networks.as_ref(), Some(&list));
    assert_eq!(policy.excluded_networks, list);
    assert_eq!(meshed(&[(INCLUDE_NETWORKS, "")]).networks, Some(Vec::new()));
    for bad in ["10.0.0.0", "10.0.0.0/33", "*", "host/8", "10.0.0.0/8,*"] {
        let refused = with(&[(EXCLUDE_NETWORKS, bad)]);
        assert!(matches!(refused, Err(Error::Item { .. })), "{bad}");
    }
}

#[test]
fn unknown_interception_modes_are_rejected() {
    const MODE: &str = "sidecar.istio.io/interceptionMode";
    assert!(meshed(&[(MODE, " TPROXY ")]).tproxy);
    assert!(!meshed(&[(MODE, "REDIRECT")]).tproxy);
    assert!(matches!(with(&[(MODE, "NONE")]), Ok(Verdict::Bypass(_))));
    let refused = with(&[(MODE, "DIVERT")]).unwrap_err().to_string();
    assert!(
        refused.contains(MODE) && refused.contains("REDIRECT, TPROXY or NONE"),
        "{refused}"
    );
}

#[test]
fn a_proxy_may_run_as_another_user_and_group() {
    let policy = meshed(&[
        ("sluice.io/proxy-uid", " 2102 "),
        ("sluice.io/proxy-gid", "7"),
    ]);
    assert_eq!((policy.uid, policy.gid), (2102, 7));
}

#[test]
fn a_pod_may_choose_its_acceleration() {
    let policy = meshed(&[(acceleration::ANNOTATION, "off")]);
    assert_eq!(policy.acceleration, Some(Acceleration::Off));
    let refused = with(&[(acceleration::ANNOTATION, "fast")]).unwrap_err();
    assert!(
        refused.to_string().contains("off, proxies or all"),
        "{refused}"
    );
}

#[test]
fn interfaces_are_excluded_by_name_or_by_its_beginning() {
    let key = "traffic.sidecar.istio.io/excludeInterfaces";
    let excluded = meshed(&[(key, "net1, eth+")]).excluded_interfaces;
    let expected = ["net1", "eth+"].map(|item| IfacePattern::parse(item).unwrap());
    assert_eq!(*excluded, expected);
    let refused = with(&[(key, "net1,lo")]).unwrap_err().to_string();
    assert!(
        refused.contains(key) && refused.contains("'lo'"),
        "{refused}"
    );
}

#[test]
fn virtual_interfaces_are_whole_names() {
    let current = "istio.io/reroute-virtual-interfaces";
    let earlier = "traffic.sidecar.istio.io/kubevirtInterfaces";
    let names = |annotations: &[(&str, &str)]| meshed(annotations).virtual_interfaces;
    assert_eq!(*names(&[(earlier, "tap0, docker0")]), ["tap0", "docker0"]);
    assert_eq!(
        *names(&[(earlier, "tap0"), (current, "k6t-eth0")]),
        ["k6t-eth0"]
    );
    assert!(names(&[(earlier, "tap0"), (current, "")]).is_empty());
    let many = (0..33)
        .map(|n| format!("tap{n}"))
        .collect::<Vec<_>>()
        .join(",");
    for wrong in ["lo", "tap+", "a/b", "a name", &many] {
        let refused = with(&[(current, wrong)]).unwrap_err().to_string();
        assert!(refused.contains(current), "{refused}");
    }
    let mode = ("sidecar.istio.io/interceptionMode", "TPROXY");
    let refused = with(&[(current, "tap0"), mode]).unwrap_err().to_string();
    assert!(refused.contains("TPROXY"), "{refused}");
    assert!(names(&[(current, ""), mode]).is_empty());
}

#[test]
fn unsupported_annotations_reject_the_pod() {
    for (mesh, key, value) in [
        ("istio", "traffic.sidecar.istio.io/fromTheFuture", "1"),
        ("ambient", "istio.io/reroute-virtual-interfaces", "net1"),
    ] {
        let refused = within(mesh, &[(key, value)]);
        let is_named = matches!(
            refused,
            Err(Error::Unsupported { .. } | Error::NotKnown { .. })
        );
        assert!(is_named, "{key}");
    }
}

#[test]
fn opt_out_annotations_bypass_the_pod() {
    for (mesh, key, value) in [
        ("istio", "sidecar.istio.io/inject", "false"),
        ("linkerd", "linkerd.io/inject", "disabled"),
        ("kuma", "kuma.io/sidecar-injected", "false"),
        ("osm", "openservicemesh.io/sidecar-injection", "disabled"),
    ] {
        let verdict = within(mesh, &[(key, value)]);
        assert!(matches!(verdict, Ok(Verdict::Bypass(_))), "{mesh}");
    }
}

#[test]
fn every_mesh_has_its_own_annotations() {
    for (mesh, key) in [
        ("linkerd", "config.linkerd.io/skip-outbound-ports"),
        ("kuma", "traffic.kuma.io/exclude-outbound-ports"),
        ("osm", "openservicemesh.io/outbound-port-exclusion-list"),
    ] {
        let policy = meshed_by(mesh, &[(key, "25,8000-8001"), (EXCLUDE_OUTBOUND, "!")]);
        assert_eq!(policy.excluded_outbound, [(25, 25), (8000, 8001)].into());
    }
    let refused = within("kuma", &[("traffic.kuma.io/from-the-future", "10.0.0.1")]);
    assert!(matches!(refused, Err(Error::NotKnown { .. })));
}

#[test]
fn the_pod_may_name_the_proxys_user_and_group() {
    const UID: &str = "config.linkerd.io/proxy-uid";
    let policy = meshed_by(
        "linkerd",
        &[(UID, "77"), ("config.linkerd.io/proxy-gid", "0")],
    );
    assert_eq!((policy.uid, policy.gid), (77, 0));
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
    fn error_quotes_the_malformed_port(
        before in prop::collection::vec("[1-9][0-9]{0,3}", 0..4),
        bad in "[a-z+*]{1,6}|[1-9][0-9]{5,8}|-[0-9]{1,3}|[1-9][0-9]{0,2}-|9-1",
        after in prop::collection::vec("[1-9][0-9]{0,3}", 0..4),
    ) {
        prop_assume!(bad != "*" || !before.is_empty() || !after.is_empty());
        let list = [before, vec![bad.clone()], after].concat().join(",");
        for key in [EXCLUDE_INBOUND, EXCLUDE_OUTBOUND, INCLUDE_INBOUND, INCLUDE_OUTBOUND] {
            let refused = with(&[(key, &list)]).unwrap_err().to_string();
            let named = format!("annotation {key}: '{bad}' is not a port from 1 to 65535");
            prop_assert!(refused.starts_with(&named), "{}", refused);
        }
    }

    #[test]
    fn error_quotes_the_malformed_network(
        before in 0_usize..3,
        bad in "[a-z]{1,8}|10\\.0\\.0\\.0/(3[3-9]|[4-9][0-9])|10\\.0\\.0\\.256/8|fd00::/129|10\\.0\\.0\\.1",
        after in 0_usize..3,
    ) {
        let good = |count| vec!["10.0.0.0/8".to_owned(); count];
        let list = [good(before), vec![bad.clone()], good(after)].concat().join(" , ");
        for key in [INCLUDE_NETWORKS, EXCLUDE_NETWORKS] {
            let refused = with(&[(key, &list)]).unwrap_err().to_string();
            let named = format!("annotation {key}: '{bad}' is not a network like");
            prop_assert!(refused.starts_with(&named), "{}", refused);
        }
    }

    #[test]
    fn ports_that_are_printed_are_read_back(list in prop::collection::btree_set(1_u16.., 1..40)) {
        let text: Vec<_> = list.iter().map(u16::to_string).collect();
        let ranges = list.into_iter().map(|port| (port, port)).collect();
        prop_assert_eq!(ports(EXCLUDE_OUTBOUND, &text.join(" , ")), Ok(ranges));
    }
}

#[test]
fn a_pod_of_ambient_has_a_proxy_with_a_mark_and_no_user() {
    let policy = meshed_by("ambient", &[]);
    assert_eq!((policy.uid, policy.gid), (u32::MAX, u32::MAX));
    assert_eq!((policy.mesh.mark, policy.mesh.mark_mask), (0x539, 0xfff));
    assert_eq!(policy.mesh.bypass_cidrs.len(), 2);
    let refused = within("ambient", &[("ambient.istio.io/from-the-future", "1")]);
    assert!(refused.is_err_and(|error| error.to_string().contains("from-the-future")));
}

#[test]
fn switches_of_ambient_pods_apply() {
    let of = |key, value| meshed_by("ambient", &[(key, value)]);
    let dns = |value| of("ambient.istio.io/dns-capture", value).ports.dns;
    assert_eq!(["true", "f", "no"].map(dns), [15053, 0, 15053]);
    let inbound = |value| of("ambient.istio.io/bypass-inbound-capture", value).inbound;
    assert_eq!(inbound("true"), Inbound::Include(Ports::new()));
    assert_eq!(inbound("false"), except(&[]));
}

#[test]
fn labels_select_ambient_pods() {
    let selection = Selection::Labels {
        excluded_namespaces: vec!["kube-system".to_owned()],
    };
    let mesh = Mesh::choose("ambient", Meshes::new(), NodeValues::default(), selection).unwrap();
    assert!(mesh.bypass_cidrs.is_empty(), "{:?}", mesh.bypass_cidrs);
    let labels = |mode: &str| match mode {
        "" => Annotations::new(),
        mode => [("istio.io/dataplane-mode".to_owned(), mode.to_owned())].into(),
    };
    let enrolled = |namespace: &str, of_namespace: &str, of_pod: &str, annotation: &str| {
        let manifest = Manifest {
            namespace: namespace.to_owned(),
            labels: labels(of_pod),
            namespace_labels: labels(of_namespace),
            ..Manifest::default()
        };
        let annotations = match annotation {
            "" => Annotations::new(),
            value => [("ambient.istio.io/redirection".to_owned(), value.to_owned())].into(),
        };
        let subject = Subject {
            namespace: None,
            annotations: Some(&annotations),
            manifest: Some(&manifest),
        };
        let verdict = decide(&node_policy(mesh, MissingAnnotations::Deny), subject);
        matches!(verdict.unwrap(), Verdict::Intercept(_))
    };
    assert!(enrolled("shop", "", "ambient", ""));
    assert!(enrolled("shop", "ambient", "", ""));
    assert!(enrolled("shop", "ambient", "other", ""));
    assert!(enrolled("shop", "", "", "enabled"));
    assert!(!enrolled("shop", "", "", ""));
    assert!(!enrolled("shop", "ambient", "none", ""));
    assert!(!enrolled("shop", "none", "none", "enabled"));
    assert!(!enrolled("shop", "ambient", "ambient", "disabled"));
    assert!(!enrolled("kube-system", "ambient", "ambient", ""));
}
