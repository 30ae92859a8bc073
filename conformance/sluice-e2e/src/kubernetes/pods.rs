//! The Pods of the test's mesh.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sluice_lab::{
    APPLICATION, PROXY,
    backend::iptables,
    pod_annotations::PodAnnotations,
    proxy::{self, Hop},
};

use crate::kubernetes::{containerd::RUNTIME_WITHOUT_ANNOTATIONS, kubectl::Kubectl, node::LAB};

/// Their namespace.
pub(crate) const NAMESPACE: &str = "default";
/// The port of every application.
pub(crate) const PORT: u16 = 8080;
/// The application's container.
pub(crate) const APP: &str = "app";
/// The image of every container.
pub(crate) const IMAGE: &str = "sluice.test/pod:1";

/// The annotation of a Pod of `Mesh::Wrong`, a list of ports.
pub(crate) const WRONG: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";

/// How a Pod is meshed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mesh {
    /// Without a sidecar.
    None,
    /// With a sidecar, and with the injector's default init container, which writes iptables
    /// rules.
    Rules,
    /// With a sidecar alone: the injector's output for a CNI plugin.
    Plugin,
    /// As `Plugin`, started before the installation.
    Early,
    /// As `Plugin`, with a runtime that passes no annotations.
    Quiet,
    /// As `Plugin`, with an annotation whose value is wrong.
    Wrong,
    /// As `Plugin`, with the sidecar as an init container that keeps running.
    Native,
}

/// A Pod that runs.
#[derive(Clone)]
pub(crate) struct Pod {
    pub(crate) name: &'static str,
    pub(crate) ip: IpAddr,
    /// The directory that its sidecar shares with the node.
    directory: PathBuf,
}

impl Pod {
    /// Starts Pods and waits until they are ready.
    pub(crate) fn start<const N: usize>(
        kubectl: &Kubectl,
        plans: [(&'static str, Mesh); N],
    ) -> Result<[Self; N]> {
        Self::ask_for(kubectl, &plans)?;
        let pods: Result<Vec<_>> = plans
            .iter()
            .map(|(name, _)| Self::ready(kubectl, name))
            .collect();
        pods?.try_into().ok().context("as many Pods as plans")
    }

    /// Creates Pods at the API server.
    pub(crate) fn ask_for(kubectl: &Kubectl, plans: &[(&'static str, Mesh)]) -> Result<()> {
        let manifests: Result<Vec<_>> = plans
            .iter()
            .map(|(name, mesh)| manifest(name, *mesh))
            .collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": manifests? });
        kubectl.apply(&list.to_string()).map(drop)
    }

    /// Waits until the kubelet finds a Pod ready.
    pub(crate) fn ready(kubectl: &Kubectl, name: &'static str) -> Result<Self> {
        let pod = format!("pod/{name}");
        let wait = ["wait", "--for=condition=Ready", &pod, "--timeout=180s"];
        if let Err(error) = kubectl.run(&wait, "") {
            let of_pod = format!("--field-selector=involvedObject.name={name}");
            let column = "--output=custom-columns=:.message";
            let events = kubectl.run(&["get", "events", &of_pod, column], "")?;
            return Err(error.context(events));
        }
        let found = kubectl.get(NAMESPACE, &pod)?;
        let ip = found["status"]["podIP"]
            .as_str()
            .context("a Pod without an address")?;
        Ok(Self {
            name,
            ip: ip.parse()?,
            directory: directory(name),
        })
    }

    /// The number of connections of a client to an address that its sidecar's listener carried.
    pub(crate) fn carried(&self, listener: &str, client: IpAddr, to: SocketAddr) -> Result<usize> {
        let log = fs::read_to_string(self.directory.join("access.log")).unwrap_or_default();
        // The last line may be half written.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let hops: Vec<Hop> = whole
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        let one = |hop: &&Hop| {
            hop.listener == listener && hop.client.ip() == client && hop.original == to
        };
        Ok(hops.iter().filter(one).count())
    }
}

/// The directory that a Pod's proxy shares with the node.
pub(crate) fn directory(name: &str) -> PathBuf {
    Path::new(LAB).join("pods").join(name)
}

/// A Pod as the API server gets it.
pub(crate) fn manifest(name: &str, mesh: Mesh) -> Result<Value> {
    let port = PORT.to_string();
    let mut containers = vec![json!({
        "name": APP,
        "image": IMAGE,
        "command": ["/bin/sluice-e2e", "serve", "--name", name, "--port", port],
        "securityContext": { "runAsUser": APPLICATION },
        // The kubelet calls from the node: through the sidecar, if there is one.
        "readinessProbe": { "httpGet": { "path": "/", "port": PORT }, "periodSeconds": 1 },
    })];
    let mut first = Vec::new();
    let mut annotations = json!({});
    if mesh != Mesh::None {
        let directory = directory(name);
        configure(&directory)?;
        annotations = json!({ "sidecar.istio.io/status": "{}" });
        match mesh {
            Mesh::None | Mesh::Early => {}
            Mesh::Rules => first.push(rules(&directory)?),
            Mesh::Plugin | Mesh::Quiet | Mesh::Wrong | Mesh::Native => first.push(validation()),
        }
        if mesh == Mesh::Native {
            first.push(native(sidecar()));
        } else {
            containers.push(sidecar());
        }
        if mesh == Mesh::Wrong {
            annotations[WRONG] = json!("http");
        }
    }
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": NAMESPACE, "annotations": annotations },
        "spec": {
            "runtimeClassName": (mesh == Mesh::Quiet).then_some(RUNTIME_WITHOUT_ANNOTATIONS),
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "initContainers": first,
            "containers": containers,
            "volumes": [{ "name": "shared", "hostPath": { "path": directory(name), "type": "DirectoryOrCreate" } }],
        },
    }))
}

fn configure(directory: &Path) -> Result<()> {
    let bootstrap = proxy::bootstrap(
        Path::new("/shared/admin.sock"),
        Path::new("/shared/access.log"),
        proxy::Mode::Redirect,
    );
    configure_with(directory, &bootstrap)
}

/// Writes a proxy's configuration to the directory that it shares with the node.
pub(crate) fn configure_with(directory: &Path, bootstrap: &Value) -> Result<()> {
    fs::create_dir_all(directory)?;
    chown(directory, Some(PROXY), Some(PROXY))?;
    // Its users differ: the sidecar writes, the rules are read as root.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    fs::write(directory.join("envoy.json"), bootstrap.to_string())?;
    Ok(())
}

fn sidecar() -> Value {
    json!({
        "name": "istio-proxy",
        "image": IMAGE,
        "command": ["/bin/envoy", "--config-path", "/shared/envoy.json", "--concurrency", "2",
                    "--disable-hot-restart", "--log-level", "warning", "--file-flush-interval-msec", "20"],
        "securityContext": { "runAsUser": PROXY, "runAsGroup": PROXY },
        "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }],
    })
}

/// The sidecar as an init container: the next one starts when it listens. It accepts for every port.
fn native(mut sidecar: Value) -> Value {
    sidecar["restartPolicy"] = "Always".into();
    sidecar["startupProbe"] =
        json!({ "tcpSocket": { "port": PORT }, "periodSeconds": 1, "failureThreshold": 60 });
    sidecar
}

/// The init container of istio-init, with the same program.
fn rules(directory: &Path) -> Result<Value> {
    let [(_, rules), _] = iptables::rules(&PodAnnotations::default())?;
    fs::write(directory.join("rules"), rules)?;
    Ok(json!({
        "name": "istio-init",
        "image": IMAGE,
        "command": ["/bin/iptables-restore", "/shared/rules"],
        "securityContext": { "runAsUser": 0, "capabilities": { "add": ["NET_ADMIN", "NET_RAW"] } },
        "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }],
    }))
}

/// The injector's init container in place of istio-init if a CNI plugin redirects the traffic.
fn validation() -> Value {
    json!({
        "name": "istio-validation",
        "image": IMAGE,
        "command": ["/bin/sluice-e2e", "validate"],
        "securityContext": { "runAsUser": PROXY, "runAsGroup": PROXY },
    })
}
