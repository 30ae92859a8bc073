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
        annotations: Some(&annotations),
        manifest: Some(&manifest),
    };
    let Ok(Verdict::Intercept(policy)) = decide(&node_policy(istio, MissingAnnotations::Deny), pod)
    else {
        panic!("not intercepted");
    };
    assert_eq!(
        (policy.uid, policy.user_from),
        (1_000_629_999, UserSource::PodSpec)
    );
}

#[test]
fn mesh_without_ipv6_lets_it_pass_in_both_directions() {
    let everything: IpNet = "::/0".parse().unwrap();
    let osm = meshed_by("osm", &[]);
    assert_eq!(
        (osm.ipv4_only, &*osm.bypass.networks),
        (true, &[everything][..])
    );
    let istio = meshed(&[]);
    assert_eq!((istio.ipv4_only, &*istio.bypass.networks), (false, &[][..]));
    // Excluded source networks do not affect outbound connections.
    let linkerd = Mesh::choose(
        "linkerd",
        crate::pods::Meshes::new(),
        false,
        crate::pods::Selection::Annotation,
    )
    .unwrap();
    let mut annotations = minimal_annotations(linkerd);
    let skip = "config.linkerd.io/skip-subnets".to_owned();
    annotations.insert(skip, "10.0.0.0/8".to_owned());
    let node_policy = node_policy(linkerd, MissingAnnotations::Deny);
    let Ok(Verdict::Intercept(policy)) = decide(&node_policy, Some(&annotations)) else {
        panic!("not intercepted");
    };
    assert_eq!(policy.excluded_sources.len(), 2);
    assert_eq!(policy.excluded_networks, [everything]);
    assert!(policy.bypass.is_empty());
}
