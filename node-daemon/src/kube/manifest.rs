//! Extracts from the API's objects the fields that a decision needs. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{self, PodSpec, PodTemplateSpec, SecurityContext};
use sluice_api::{Container, ContainerRole, Manifest};

/// Mesh containers whose arguments and environment determine the interception of a Pod.
const OF_MESHES: [&str; 6] = [
    "istio-proxy",
    "istio-init",
    "istio-validation",
    "linkerd-init",
    "linkerd-proxy",
    "consul-connect-inject-init",
];
/// Of these the command precedes the arguments: early templates have all of them there.
const WITH_COMMAND: [&str; 2] = ["istio-init", "istio-validation"];
/// The environment variables that are read. Others may be secret, and records are files.
const ENVIRONMENT: [&str; 5] = [
    "CONSUL_REDIRECT_TRAFFIC_CONFIG",
    "DISABLE_ENVOY",
    "ISTIO_DUAL_STACK",
    "ISTIO_META_INTERCEPTION_MODE",
    "LINKERD2_PROXY_INBOUND_LISTEN_ADDR",
];

/// A Pod's annotations, and the rest of its manifest.
pub(crate) fn of(pod: PodTemplateSpec) -> (BTreeMap<String, String>, Manifest) {
    let metadata = pod.metadata.unwrap_or_default();
    let spec = pod.spec.unwrap_or_default();
    let manifest = Manifest {
        namespace: metadata.namespace.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        namespace_labels: BTreeMap::new(),
        service_account: spec.service_account_name.clone().unwrap_or_default(),
        host_network: spec.host_network == Some(true),
        containers: containers(&spec),
    };
    (metadata.annotations.unwrap_or_default(), manifest)
}

/// The labels of a Kubernetes namespace that select a mesh.
pub(crate) fn selecting(labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_selector = |(key, _): &(String, String)| key.starts_with("istio.io/");
    labels.into_iter().filter(is_selector).collect()
}

fn containers(spec: &PodSpec) -> Vec<Container> {
    let of_pod = spec.security_context.as_ref();
    let user = of_pod.and_then(|context| context.run_as_user);
    let group = of_pod.and_then(|context| context.run_as_group);
    let seen = |container: &v1::Container, role| {
        let own = container.security_context.as_ref();
        let id = |of: fn(&SecurityContext) -> Option<i64>, pod: Option<i64>| {
            own.and_then(of)
                .or(pod)
                .and_then(|id| u32::try_from(id).ok())
        };
        Container {
            name: container.name.clone(),
            role,
            uid: id(|own| own.run_as_user, user),
            gid: id(|own| own.run_as_group, group),
            ..stated(container)
        }
    };
    let before = (spec.init_containers.iter().flatten()).map(|one| {
        let role = match one.restart_policy.as_deref() {
            Some("Always") => ContainerRole::NativeSidecar,
            _ => ContainerRole::Init,
        };
        seen(one, role)
    });
    let own = (spec.containers.iter()).map(|one| seen(one, ContainerRole::Application));
    before.chain(own).collect()
}

fn stated(container: &v1::Container) -> Container {
    if !OF_MESHES.contains(&&*container.name) {
        return Container::default();
    }
    let env = container.env.iter().flatten();
    let read = env.filter(|one| ENVIRONMENT.contains(&&*one.name));
    let has_command = WITH_COMMAND.contains(&&*container.name);
    let command = container.command.iter().filter(|_| has_command);
    Container {
        args: (command.chain(&container.args))
            .flatten()
            .cloned()
            .collect(),
        env: read
            .filter_map(|one| Some((one.name.clone(), one.value.clone()?)))
            .collect(),
        ..Container::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(spec: &serde_json::Value) -> Manifest {
        of(serde_json::from_value(json!({ "spec": spec })).unwrap()).1
    }

    #[test]
    fn container_user_overrides_pod_user() {
        let manifest = seen(&json!({
            "securityContext": { "runAsUser": 1000, "runAsGroup": 2000 },
            "initContainers": [
                { "name": "istio-proxy", "restartPolicy": "Always",
                  "securityContext": { "runAsUser": 1_000_629_999 } },
                { "name": "migrate" },
            ],
            "containers": [{ "name": "app" }],
        }));
        let of = |name| manifest.container(name).unwrap();
        let proxy = of("istio-proxy");
        assert_eq!((proxy.uid, proxy.gid), (Some(1_000_629_999), Some(2000)));
        assert_eq!(proxy.role, ContainerRole::NativeSidecar);
        assert_eq!(of("migrate").role, ContainerRole::Init);
        assert_eq!(of("app").uid, Some(1000));
    }

    #[test]
    fn environment_of_applications_is_not_kept() {
        let secret = json!([{ "name": "DISABLE_ENVOY", "value": "true" },
                            { "name": "TOKEN", "value": "secret" }]);
        let manifest = seen(&json!({ "containers": [
            { "name": "app", "env": secret, "args": ["--password=secret"] },
            { "name": "istio-proxy", "env": secret },
        ]}));
        assert_eq!(
            manifest.container("app").unwrap().args,
            Vec::<String>::new()
        );
        let env = &manifest.container("istio-proxy").unwrap().env;
        assert_eq!(env.len(), 1);
        assert_eq!(env["DISABLE_ENVOY"], "true");
    }
}
