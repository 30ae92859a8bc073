//! The cluster: a control plane and one node.

use std::{
    env, fs, iter,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sluice_testbed::{
    interrupt::Interrupt,
    process::{Process, output},
};

use crate::kubernetes::{
    Options,
    kubectl::Kubectl,
    node::{ADDRESS, API, CNI_BIN, CNI_CONF, LAB, RUNTIME_WITHOUT_ANNOTATIONS_CONF},
};

/// The node's name.
pub(crate) const NODE: &str = "sluice-node";
/// The handler of a runtime that passes no annotations.
pub(crate) const RUNTIME_WITHOUT_ANNOTATIONS: &str = "quiet";
/// The image of the container that holds a Pod's namespaces.
const PAUSE: &str = "sluice.test/pause:1";
/// The API server's own certificate, authority included.
const CERTIFICATE: &str = "pki/apiserver.crt";
/// The key that signs tokens of service accounts.
const KEY: &str = "service-accounts.key";
const ETCD: &str = "http://127.0.0.1:2379";
const CONTAINERD: &str = "/run/containerd/containerd.sock";
/// Names are those of Kubernetes: group and tokens of a cluster that ends with this process.
const TOKENS: &str = "admin,admin,admin,system:masters\n\
                      kubelet,system:node:sluice-node,kubelet,system:nodes\n";
const START: Duration = Duration::from_mins(5);
const COMMAND: Duration = Duration::from_mins(3);

/// The running processes. The kernel ends everything else with the namespaces.
pub(crate) struct Cluster {
    pub(crate) kubectl: Kubectl,
    binaries: PathBuf,
    logs: PathBuf,
    running: Vec<Process>,
}

impl Cluster {
    /// Starts etcd and the control plane.
    pub(crate) fn start(options: &Options, interrupt: &Interrupt) -> Result<Self> {
        let admin = file("admin.conf");
        fs::write(&admin, kubeconfig("admin"))?;
        let mut cluster = Self {
            kubectl: Kubectl::new(options.kubernetes.join("kubectl"), admin.into()),
            binaries: options.kubernetes.clone(),
            logs: options.logs.clone(),
            running: Vec::new(),
        };
        cluster.launch(
            "etcd",
            &[
                &format!("--data-dir={}", file("etcd")),
                &format!("--listen-client-urls={ETCD}"),
                &format!("--advertise-client-urls={ETCD}"),
                "--listen-peer-urls=http://127.0.0.1:2380",
            ],
        )?;
        cluster.serve(interrupt)?;
        cluster.control()?;
        Ok(cluster)
    }

    /// Starts the API server.
    fn serve(&mut self, interrupt: &Interrupt) -> Result<()> {
        let (key, tokens) = (file(KEY), file("tokens.csv"));
        let mut openssl = Command::new("openssl");
        output(openssl.args(["genrsa", "-out", &key, "2048"]), COMMAND)?;
        fs::write(&tokens, TOKENS)?;
        self.launch(
            "kube-apiserver",
            &[
                &format!("--etcd-servers={ETCD}"),
                &format!("--cert-dir={}", file("pki")),
                "--secure-port=443",
                &format!("--advertise-address={ADDRESS}"),
                "--service-cluster-ip-range=10.96.0.0/16",
                "--kubelet-preferred-address-types=InternalIP",
                &format!("--token-auth-file={tokens}"),
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                &format!("--service-account-key-file={key}"),
                &format!("--service-account-signing-key-file={key}"),
                "--service-account-issuer=https://kubernetes.default.svc",
            ],
        )?;
        let kubectl = self.kubectl.clone();
        let ready = || kubectl.raw("/readyz").is_ok();
        self.wait("the API server", interrupt, ready)
    }

    /// Starts the controllers and the scheduler: service accounts, Pods of `DaemonSet`s.
    fn control(&mut self) -> Result<()> {
        let access = format!("--kubeconfig={}", file("admin.conf"));
        self.launch(
            "kube-controller-manager",
            &[
                &access,
                &format!("--root-ca-file={}", file(CERTIFICATE)),
                &format!("--service-account-private-key-file={}", file(KEY)),
                "--leader-elect=false",
            ],
        )?;
        self.launch("kube-scheduler", &[&access, "--leader-elect=false"])
    }

    /// Starts the container runtime and the kubelet; the node becomes ready.
    pub(crate) fn add_node(&mut self, images: &Path, interrupt: &Interrupt) -> Result<()> {
        self.start_runtime(None, interrupt)?;
        for image in ["pause", "pod", "sluice"] {
            import(&images.join(format!("{image}.tar")))?;
        }
        self.start_kubelet()?;
        self.wait_for_node(interrupt, |node| {
            node["status"]["conditions"]
                .to_string()
                .contains("KubeletReady")
        })
    }

    /// Changes the container runtime for the one in a directory, and restarts the kubelet. Returns the
    /// runtime that the kubelet then reports.
    pub(crate) fn upgrade_runtime(&mut self, next: &Path, interrupt: &Interrupt) -> Result<String> {
        let runtime =
            |node: &Value| node["status"]["nodeInfo"]["containerRuntimeVersion"].to_string();
        let before = runtime(&self.node()?);
        for _ in ["kubelet", "containerd"] {
            self.running.pop().context("no node")?.stop()?;
        }
        self.start_runtime(Some(next), interrupt)?;
        self.start_kubelet()?;
        self.wait_for_node(interrupt, |node| runtime(node) != before)?;
        Ok(format!("{before}, then {}", runtime(&self.node()?)))
    }

    /// Starts the machine's container runtime, or one from a directory.
    fn start_runtime(&mut self, from: Option<&Path>, interrupt: &Interrupt) -> Result<()> {
        let configuration = file("containerd.toml");
        fs::write(&configuration, containerd())?;
        let mut command = Command::new("containerd");
        if let Some(directory) = from {
            command = Command::new(directory.join("containerd"));
            // It looks for its shim there.
            let inherited = env::var_os("PATH").unwrap_or_default();
            let path = iter::once(directory.to_owned()).chain(env::split_paths(&inherited));
            command.env("PATH", env::join_paths(path)?);
        }
        command.args(["--config", &configuration]);
        let name = from.map_or("containerd", |_| "containerd-next");
        self.start_process(name, &mut command)?;
        self.wait("the container runtime", interrupt, || {
            output(Command::new("ctr").arg("version"), COMMAND).is_ok()
        })
    }

    fn start_kubelet(&mut self) -> Result<()> {
        let (configuration, access) = (file("kubelet.json"), file("kubelet.conf"));
        fs::write(&configuration, kubelet().to_string())?;
        fs::write(&access, kubeconfig("kubelet"))?;
        self.launch(
            "kubelet",
            &[
                &format!("--kubeconfig={access}"),
                &format!("--config={configuration}"),
                "--container-runtime=remote",
                &format!("--container-runtime-endpoint=unix://{CONTAINERD}"),
                &format!("--node-ip={ADDRESS}"),
                &format!("--hostname-override={NODE}"),
            ],
        )
    }

    /// The node, as the API server has it.
    fn node(&self) -> Result<Value> {
        get_node(&self.kubectl)
    }

    fn wait_for_node(
        &mut self,
        interrupt: &Interrupt,
        ready: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let kubectl = self.kubectl.clone();
        self.wait("the node", interrupt, || {
            get_node(&kubectl).is_ok_and(|node| ready(&node))
        })
    }

    /// Starts one of Kubernetes' programs, or one of the machine's.
    fn launch(&mut self, program: &str, arguments: &[&str]) -> Result<()> {
        let own = self.binaries.join(program);
        let path = if own.exists() { own } else { program.into() };
        self.start_process(program, Command::new(path).args(arguments))
    }

    fn start_process(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let log = self.logs.join(format!("{name}.log"));
        self.running.push(Process::start(name, command, &log)?);
        Ok(())
    }

    /// Waits for a condition. Fails with the log of the process that was started last.
    fn wait(&mut self, what: &str, interrupt: &Interrupt, ready: impl Fn() -> bool) -> Result<()> {
        let running = &mut self.running;
        let done = interrupt.wait(START, || {
            running.iter_mut().try_for_each(Process::check)?;
            Ok(ready())
        })?;
        if !done {
            let tail = running.last().map(Process::tail).unwrap_or_default();
            bail!("{what} is not ready after {} s\n{tail}", START.as_secs());
        }
        Ok(())
    }
}

fn get_node(kubectl: &Kubectl) -> Result<Value> {
    let node = kubectl.run(&["get", "node", NODE, "--output=json"], "")?;
    Ok(serde_json::from_str(&node)?)
}

fn file(name: &str) -> String {
    format!("{LAB}/{name}")
}

/// Loads an image into the runtime.
fn import(image: &Path) -> Result<()> {
    let mut command = Command::new("ctr");
    command
        .args(["--namespace=k8s.io", "images", "import"])
        .arg(image);
    output(&mut command, COMMAND)
        .map(drop)
        .with_context(|| format!("cannot import {}", image.display()))
}

/// Gives an image another name.
pub(crate) fn tag(image: &str, name: &str) -> Result<()> {
    let mut command = Command::new("ctr");
    command.args(["--namespace=k8s.io", "images", "tag", image, name]);
    let said = output(&mut command, COMMAND)?;
    ensure!(said.contains(name), "no image {name}: {said}");
    Ok(())
}

/// Access for a user of [`TOKENS`].
fn kubeconfig(user: &str) -> String {
    let certificate = file(CERTIFICATE);
    let cluster =
        json!({ "server": format!("https://{API}"), "certificate-authority": certificate });
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "lab", "cluster": cluster }],
        "users": [{ "name": user, "user": { "token": user } }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": user } }],
        "current-context": "lab",
    })
    .to_string()
}

/// The directories of CNI are named, as Debian's containerd 1.7 has another default than 1.6.
///
/// `restrict_oom_score_adj`: on machines without `CAP_SYS_RESOURCE` scores cannot be lowered.
fn containerd() -> String {
    format!(
        "version = 2\n\
         [grpc]\n\
         address = \"{CONTAINERD}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = \"{PAUSE}\"\n\
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = \"{CNI_BIN}\"\n\
         conf_dir = \"{CNI_CONF}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
         runtime_type = \"io.containerd.runc.v2\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{RUNTIME_WITHOUT_ANNOTATIONS}]\n\
         runtime_type = \"io.containerd.runc.v2\"\n\
         cni_conf_dir = \"{RUNTIME_WITHOUT_ANNOTATIONS_CONF}\"\n"
    )
}

fn kubelet() -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        // Only processes of the test's network namespace reach this kubelet.
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "failSwapOn": false,
        "resolvConf": "",
        "evictionHard": { "memory.available": "100Mi" },
    })
}
