//! Sidecar detection from a Pod's annotations alone: for the plugin while the daemon does not run, and
//! for the daemon without further data.

use std::collections::BTreeMap;

use serde_json::Value;

/// The operator's setting for a Pod, with priority over the injector's: `true` or `false`.
pub const INTERCEPT: &str = "sluice.io/intercept";
/// The annotation of Istio's injector.
pub const ISTIO_STATUS: &str = "sidecar.istio.io/status";

const ISTIO_MODE: &str = "sidecar.istio.io/interceptionMode";
const ISTIO_TEMPLATES: &str = "inject.istio.io/templates";

/// The sidecar annotations of the other presets.
const SIDECAR_ANNOTATIONS: [&str; 6] = [
    "linkerd.io/proxy-version",
    "kuma.io/sidecar-injected",
    "openservicemesh.io/sidecar-injection",
    "consul.hashicorp.com/connect-inject-status",
    "consul.hashicorp.com/mesh-inject-status",
    "ambient.istio.io/redirection",
];

/// Istio's init containers that redirect traffic, or that expect a CNI plugin to do it.
const REDIRECTING: [&str; 2] = ["istio-init", "istio-validation"];

/// Templates without a proxy, or whose proxy gets no redirected traffic.
const NOT_REDIRECTED: [&str; 4] = ["gateway", "grpc-agent", "grpc-simple", "waypoint"];

/// Whether the Pod has no sidecar annotation of any preset. Only the daemon knows the node's mesh and
/// whether a sidecar is disabled: with a sidecar annotation the plugin waits for the daemon.
#[must_use]
pub fn has_no_sidecar_annotation(annotations: &BTreeMap<String, String>) -> bool {
    match annotations.get(INTERCEPT).map(|value| value.trim()) {
        Some("false") => return true,
        Some(_) => return false,
        None => {}
    }
    let of_istio =
        annotations.contains_key(ISTIO_STATUS) && not_redirected_by_istio(annotations).is_none();
    !of_istio
        && !SIDECAR_ANNOTATIONS
            .iter()
            .any(|annotation| annotations.contains_key(*annotation))
}

/// The reason why Istio does not redirect the traffic of an injected Pod, if the annotations show one:
/// all templates set the same annotations, but not the same init containers.
#[must_use]
pub fn not_redirected_by_istio(annotations: &BTreeMap<String, String>) -> Option<&'static str> {
    let value = |key: &str| annotations.get(key).map(|value| value.trim());
    if value(ISTIO_MODE) == Some("NONE") {
        return Some("its interception mode is NONE");
    }
    // Istio's injector always writes the list, as null if it is empty. Other injectors write no such
    // list.
    let status: Option<Value> =
        value(ISTIO_STATUS).and_then(|text| serde_json::from_str(text).ok());
    if let Some(added) = status
        .as_ref()
        .and_then(|status| status.get("initContainers"))
    {
        let mut names = added
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        let redirects = names.any(|name| REDIRECTING.contains(&name));
        return (!redirects).then_some(
            "the injector added no container that redirects or expects redirection: a gateway, a \
             proxyless gRPC Pod, a custom template, or interception mode NONE",
        );
    }
    let mut templates = value(ISTIO_TEMPLATES)?.split(',').map(str::trim);
    (templates.all(|name| NOT_REDIRECTED.contains(&name)))
        .then_some("its injection template is not the sidecar's")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        (pairs.iter())
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn annotation_of_any_mesh_requires_the_daemon() {
        assert!(has_no_sidecar_annotation(&BTreeMap::new()));
        for annotation in SIDECAR_ANNOTATIONS.into_iter().chain([ISTIO_STATUS]) {
            assert!(
                !has_no_sidecar_annotation(&annotations(&[(annotation, "")])),
                "{annotation}"
            );
        }
    }

    #[test]
    fn operator_overrules_any_mark() {
        let with = |value| annotations(&[(ISTIO_STATUS, "{}"), (INTERCEPT, value)]);
        assert!(has_no_sidecar_annotation(&with("false")));
        assert!(!has_no_sidecar_annotation(&with("true")));
        assert!(!has_no_sidecar_annotation(&annotations(&[(
            INTERCEPT, "true"
        )])));
    }

    #[test]
    fn gateways_and_proxyless_pods_are_not_redirected() {
        for (status, template, redirected) in [
            (
                r#"{"initContainers":null,"containers":["istio-proxy"]}"#,
                "gateway",
                false,
            ),
            (
                r#"{"initContainers":null,"containers":["istio-proxy"]}"#,
                "custom",
                false,
            ),
            (
                r#"{"initContainers":["grpc-bootstrap-init"]}"#,
                "grpc-simple",
                false,
            ),
            (
                r#"{"initContainers":["istio-proxy"],"containers":null}"#,
                "sidecar",
                false,
            ),
            (
                r#"{"initContainers":["istio-validation","istio-proxy"]}"#,
                "sidecar,own",
                true,
            ),
            (r#"{"initContainers":["istio-init"]}"#, "sidecar", true),
            ("{}", "gateway", false),
            ("{}", "sidecar,grpc-agent", true),
            ("injected by hand", "sidecar", true),
        ] {
            let pod = annotations(&[(ISTIO_STATUS, status), (ISTIO_TEMPLATES, template)]);
            assert_eq!(
                not_redirected_by_istio(&pod).is_none(),
                redirected,
                "{status} {template}"
            );
            assert_eq!(
                has_no_sidecar_annotation(&pod),
                !redirected,
                "{status} {template}"
            );
        }
    }
}
