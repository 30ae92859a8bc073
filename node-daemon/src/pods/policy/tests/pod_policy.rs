//! Tests of settings beyond single annotations: lists that match nothing, the proxy's user,
//! families.

use super::*;

#[test]
fn port_zero_in_a_list_matches_nothing() {
    let policy = meshed(&[(EXCLUDE_OUTBOUND, "0,80,0-3")]);
    assert_eq!(policy.excluded_outbound, [(80, 80), (1, 3)].into());
}

#[test]
fn ipv4_network_written_as_ipv6_is_refused() {
    for bad in ["::ffff:10.0.0.0/104", "::ffff:0:0/96"] {
        let refused = with(&[(INCLUDE_NETWORKS, bad)]).unwrap_err().to_string();
        assert!(
            refused.contains(bad) && refused.contains("written as IPv4"),
            "{refused}"
        );
    }
    let all = meshed(&[(INCLUDE_NETWORKS, "::/0")]);
    assert_eq!(all.networks, Some(vec!["::/0".parse().unwrap()]));
}

#[test]
fn manifest_overrules_annotations_on_the_proxy_user() {
    let istio = Mesh::preset("istio");
    let container = sluice_api::Container {
        name: "istio-proxy".to_owned(),
        uid: Some(1_000_629_999),
        ..sluice_api::Container::default()
    };
    let manifest = sluice_api::Manifest {
        containers: vec![container],
        ..sluice_api::Manifest::default()
    };
    let annotations = minimal_annotations(istio);
    let pod = Subject {
        namespace: None,
        annotations: Some(&annotations),
        manifest: Some(&manifest),
    };
    let policy = intercepted(decide(&node_policy(istio, MissingAnnotations::Deny), pod));
    assert_eq!(
        (policy.uid, policy.user_from),
        (1_000_629_999, UserSource::PodSpec)
    );
}

#[test]
fn families_follow_the_mesh_the_node_and_the_operator() {
    let v4 = "10.0.0.5".parse().unwrap();
    let v6 = "fd00::5".parse().unwrap();
    let of = |mesh: &str, choice, stated: &[(&str, &str)]| {
        let values = NodeValues {
            families: choice,
            ..NodeValues::default()
        };
        let mesh = Mesh::choose(mesh, Meshes::new(), values, Selection::Annotation).unwrap();
        let annotations = annotated(mesh, stated);
        let node_policy = node_policy(mesh, MissingAnnotations::Deny);
        let policy = intercepted(decide(&node_policy, Some(&annotations)));
        [&[v4, v6][..], &[v6]].map(|addresses| policy.bypasses_ipv6(addresses))
    };
    let rule = FamilyChoice::AsTheProxyListens;
    let overruled = ("sluice.io/families", "both");
    for (mesh, choice, stated, expected) in [
        ("istio", rule, None, [true, false]),
        ("istio", FamilyChoice::Both, None, [false, false]),
        ("istio", FamilyChoice::Ipv4, None, [true, true]),
        ("istio", rule, Some(overruled), [false, false]),
        ("linkerd", rule, None, [true, true]),
        ("linkerd", FamilyChoice::Both, None, [false, false]),
        ("osm", rule, None, [true, true]),
        ("ambient", rule, None, [false, false]),
        ("kuma", FamilyChoice::Ipv4, None, [true, true]),
    ] {
        let stated = Vec::from_iter(stated);
        assert_eq!(
            of(mesh, choice, &stated),
            expected,
            "{mesh} {choice:?} {stated:?}"
        );
    }
}

#[test]
fn dual_stack_of_istio_redirects_both_families() {
    let mesh = |text: &str| {
        let values = NodeValues {
            istio: toml::from_str(text).unwrap(),
            ..NodeValues::default()
        };
        Mesh::choose("istio", Meshes::new(), values, Selection::Annotation).unwrap()
    };
    let env = |value: &str| [("ISTIO_DUAL_STACK".to_owned(), value.to_owned())].into();
    for (node, of_pod, expected) in [
        ("", None, Families::FirstAddress),
        ("", Some("true"), Families::Both),
        ("dual-stack = true", None, Families::Both),
        ("dual-stack = true", Some("false"), Families::FirstAddress),
    ] {
        let mesh = mesh(node);
        let manifest = sluice_api::Manifest {
            containers: vec![sluice_api::Container {
                name: "istio-proxy".to_owned(),
                env: of_pod.map(env).unwrap_or_default(),
                ..sluice_api::Container::default()
            }],
            ..sluice_api::Manifest::default()
        };
        let annotations = minimal_annotations(mesh);
        let pod = Subject {
            namespace: None,
            annotations: Some(&annotations),
            manifest: Some(&manifest),
        };
        let policy = intercepted(decide(&node_policy(mesh, MissingAnnotations::Deny), pod));
        assert_eq!(policy.families, expected, "{node} {of_pod:?}");
    }
}

#[test]
fn values_of_linkerd_apply_unless_the_pod_lists_others() {
    let values = NodeValues {
        linkerd: toml::from_str(
            "skip-inbound-ports = '25,8000-8001'\nskip-outbound-ports = '443'\n\
             skip-subnets = '10.9.0.0/16'",
        )
        .unwrap(),
        ..NodeValues::default()
    };
    let mesh = Mesh::choose("linkerd", Meshes::new(), values, Selection::Annotation).unwrap();
    let policy = |stated: &[(&str, &str)]| {
        let annotations = annotated(mesh, stated);
        let node_policy = node_policy(mesh, MissingAnnotations::Deny);
        intercepted(decide(&node_policy, Some(&annotations)))
    };
    let plain = policy(&[]);
    let inbound = [(25, 25), (8000, 8001), (4190, 4190), (4191, 4191)];
    assert_eq!(plain.inbound, Inbound::Exclude(inbound.into()));
    assert_eq!(plain.excluded_outbound, [(443, 443)].into());
    assert_eq!(
        plain.excluded_sources,
        ["10.9.0.0/16".parse::<IpNet>().unwrap()]
    );
    let stated = policy(&[
        ("config.linkerd.io/skip-outbound-ports", "6379"),
        ("config.linkerd.io/skip-subnets", "10.1.0.0/16"),
    ]);
    assert_eq!(stated.excluded_outbound, [(6379, 6379)].into());
    assert_eq!(
        stated.excluded_sources,
        ["10.1.0.0/16".parse::<IpNet>().unwrap()]
    );
}

#[test]
fn dns_capture_follows_the_configuration() {
    for (choice, expected) in [(None, 15053), (Some(true), 15053), (Some(false), 0)] {
        let values = NodeValues {
            dns_capture: choice,
            ..NodeValues::default()
        };
        let mesh = Mesh::choose("ambient", Meshes::new(), values, Selection::Annotation).unwrap();
        assert_eq!(PodPolicy::of(mesh).ports.dns, expected, "{choice:?}");
    }
}

#[test]
fn operator_states_what_happens_before_the_proxy_listens() {
    let key = "sluice.io/before-proxy";
    assert!(!meshed(&[]).bypass_before_proxy);
    assert!(!meshed(&[(key, "refuse")]).bypass_before_proxy);
    assert!(meshed(&[(key, "bypass")]).bypass_before_proxy);
    let refused = with(&[(key, "yes")]).unwrap_err().to_string();
    assert!(refused.contains("refuse or bypass"), "{refused}");
}

#[test]
fn excluded_namespaces_bypass_unless_the_operator_overrules() {
    let values = NodeValues {
        excluded_namespaces: vec!["kube-system".to_owned()],
        ..NodeValues::default()
    };
    let mesh = Mesh::choose("istio", Meshes::new(), values, Selection::Annotation).unwrap();
    let decided = |namespace, stated: Option<&str>| {
        let mut annotations = minimal_annotations(mesh);
        annotations.extend(stated.map(|value| (INTERCEPT.to_owned(), value.to_owned())));
        let pod = Subject {
            namespace: Some(namespace),
            annotations: Some(&annotations),
            manifest: None,
        };
        let verdict = decide(&node_policy(mesh, MissingAnnotations::Deny), pod).unwrap();
        matches!(verdict, Verdict::Intercept(_))
    };
    assert!(decided("shop", None) && decided("", None));
    assert!(!decided("kube-system", None));
    assert!(decided("kube-system", Some("true")));
    assert!(!decided("shop", Some("false")));
    // The decision needs no annotation.
    let unknown = Subject {
        namespace: Some("kube-system"),
        ..Subject::default()
    };
    let verdict = decide(&node_policy(mesh, MissingAnnotations::Deny), unknown);
    assert!(matches!(verdict, Ok(Verdict::Bypass(_))), "{verdict:?}");
}
