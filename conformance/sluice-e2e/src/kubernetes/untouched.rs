//! Pods that carry `sidecar.istio.io/status` and whose traffic no rule redirects: a gateway, a
//! proxyless gRPC Pod, a Pod with the interception mode `NONE`, and one of a custom template.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sluice_testbed::{agent::call::CallResult, envoy};

use crate::kubernetes::{
    calls::PROGRAM,
    kubectl::Kubectl,
    pods::{APP, IMAGE, NAMESPACE, PORT, Pod, configure_with, directory},
};

/// The gateway's listeners for traffic.
const GATEWAY: [u16; 3] = [80, 8080, 8443];
/// Its listener for probes.
const READINESS: u16 = 15021;
/// The server behind the gateway, in its Pod.
const BACKEND: u16 = 9000;
/// The injector's annotation for every template without redirection.
const STATUS: &str = r#"{"initContainers":null,"containers":["istio-proxy"]}"#;

/// One of each kind.
#[derive(Clone)]
pub(crate) struct Untouched([Pod; 4]);

impl Untouched {
    /// Starts them, and waits until they are ready.
    pub(crate) fn start(kubectl: &Kubectl, names: [&'static str; 4]) -> Result<Self> {
        let [gateway, grpc, none, custom] = names;
        let template = "inject.istio.io/templates";
        let items = [
            gateway_manifest(gateway)?,
            manifest(
                grpc,
                &json!({ "sidecar.istio.io/status": STATUS, template: "grpc-agent" }),
            ),
            manifest(
                none,
                &json!({ "sidecar.istio.io/status": STATUS, "sidecar.istio.io/interceptionMode": "NONE" }),
            ),
            manifest(
                custom,
                &json!({ "sidecar.istio.io/status": STATUS, template: "custom" }),
            ),
        ];
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        kubectl.apply(&list.to_string())?;
        let [gateway, grpc, none, custom] = names.map(|name| Pod::ready(kubectl, name));
        Ok(Self([gateway?, grpc?, none?, custom?]))
    }

    /// Calls each of them from another Pod, and lets the applications call that Pod. Fails if a
    /// connection is refused, or if another source than the caller's Pod is seen.
    pub(crate) fn check(&self, kubectl: &Kubectl, other: &Pod) -> Result<String> {
        let Self([gateway, rest @ ..]) = self;
        let mut made = 0;
        for port in GATEWAY {
            // Envoy terminates the connection: the source is the gateway's own.
            call(kubectl, other, SocketAddr::new(gateway.ip, port))?;
            made += 1;
        }
        for pod in rest {
            for (from, to) in [(other, pod), (pod, other)] {
                let heard = call(kubectl, from, SocketAddr::new(to.ip, PORT))?;
                let greeting = heard.greeting.context("no greeting")?;
                ensure!(
                    greeting.source.ip() == from.ip,
                    "{} saw {} in place of {}",
                    to.name,
                    greeting.source.ip(),
                    from.name
                );
                made += 1;
            }
        }
        for pod in &self.0 {
            let found = kubectl.get(NAMESPACE, &format!("pod/{}", pod.name))?;
            let conditions = found["status"]["conditions"].as_array();
            let is_ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
            ensure!(
                conditions.is_some_and(|all| all.iter().any(is_ready)),
                "{} is not ready: {}",
                pod.name,
                found["status"]["conditions"]
            );
        }
        Ok(format!("{made} calls, 4 Pods ready"))
    }
}

fn call(kubectl: &Kubectl, from: &Pod, to: SocketAddr) -> Result<CallResult> {
    let said = kubectl.exec(
        [NAMESPACE, from.name, APP],
        &[PROGRAM, "call", "--to", &to.to_string()],
    )?;
    let heard: CallResult = serde_json::from_str(&said).with_context(|| said.clone())?;
    ensure!(heard.greeting.is_some(), "{} → {to}: {said}", from.name);
    Ok(heard)
}

/// A Pod with an application.
fn manifest(name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": NAMESPACE, "annotations": annotations },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "containers": [server(name, PORT)],
        },
    })
}

fn server(name: &str, port: u16) -> Value {
    json!({
        "name": APP,
        "image": IMAGE,
        "command": [PROGRAM, "serve", "--name", name, "--port", port.to_string()],
    })
}

/// An Envoy that forwards to a server in its Pod. It is root: its ports are below 1024.
fn gateway_manifest(name: &str) -> Result<Value> {
    let directory = directory(name);
    let ports = GATEWAY.into_iter().chain([READINESS]);
    let listeners: Vec<_> = ports
        .map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        .collect();
    let backend = (Ipv4Addr::LOCALHOST, BACKEND).into();
    configure_with(&directory, &envoy::forwarding(&listeners, backend, 1))?;
    let annotations =
        json!({ "sidecar.istio.io/status": STATUS, "inject.istio.io/templates": "gateway" });
    let mut pod = manifest(name, &annotations);
    pod["spec"]["containers"] = json!([
        server(name, BACKEND),
        {
            "name": "istio-proxy",
            "image": IMAGE,
            "command": ["/bin/envoy", "--config-path", "/shared/envoy.json", "--concurrency", "1",
                        "--disable-hot-restart", "--log-level", "warning"],
            "securityContext": { "runAsUser": 0 },
            "readinessProbe": { "tcpSocket": { "port": READINESS }, "periodSeconds": 1 },
            "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }],
        },
    ]);
    let shared = json!({ "path": shown(&directory), "type": "DirectoryOrCreate" });
    pod["spec"]["volumes"] = json!([{ "name": "shared", "hostPath": shared }]);
    Ok(pod)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
