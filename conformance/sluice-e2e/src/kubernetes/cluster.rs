//! The cluster: a control plane and one node.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sluice_testbed::{
    interrupt::Interrupt,
    process::{Process, output},
};

use crate::kubernetes::{
    Options,
    containerd::{Containerd, SOCKET},
    kubectl::Kubectl,
    node::{ADDRESS, API, LAB},
    release::Release,
};

/// The node's name.
pub(crate) const NODE: &str = "sluice-node";
/// The API server's own certificate, authority included.
const CERTIFICATE: &str = "pki/apiserver.crt";
/// The key that signs tokens of service accounts.
const KEY: &str = "service-accounts.key";
const ETCD: &str = "http://127.0.0.1:2379";
/// Names are those of Kubernetes: group and tokens of a cluster that ends with this process.
const TOKENS: &str = "admin,admin,admin,system:masters\n\
                      kubelet,system:node:sluice-node,kubelet,system:nodes\n";
const START: Duration = Duration::from_mins(5);
const COMMAND: Duration = Duration::from_mins(3);

/// The running processes. The kernel ends everything else with the namespaces.
pub(crate) struct Cluster {
    pub(crate) kubectl: Kubectl,
    /// Of the control plane.
    pub(crate) release: Release,
    pub(crate) runtime: Containerd,
    kubelet: PathBuf,
    binaries: PathBuf,
    logs: PathBuf,
    running: Vec<Process>,
}

impl Cluster {
    /// Starts etcd and the control plane.
    pub(crate) fn start(options: &Options, interrupt: &Interrupt) -> Result<Self> {
        let admin = file("admin.conf");
        fs::write(&admin, kubeconfig("admin"))?;
        let kubelet = options.kubernetes.join("kubelet");
        let mut cluster = Self {
            kubectl: Kubectl::new(options.kubernetes.join("kubectl"), admin.into()),
            release: Release::of(&kubelet)?,
            runtime: Containerd::find(options.containerd.as_deref()),
            kubelet: options.older_kubelet.clone().unwrap_or(kubelet),
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

    /// Starts the container runtime and the kubelet; the node becomes ready. Returns their versions.
    pub(crate) fn add_node(&mut self, images: &Path, interrupt: &Interrupt) -> Result<String> {
        self.start_runtime("containerd", interrupt)?;
        for image in ["pause", "pod", "sluice"] {
            self.runtime.import(&images.join(format!("{image}.tar")))?;
        }
        self.start_kubelet("kubelet")?;
        self.wait_for_node(interrupt, |node| {
            node["status"]["conditions"]
                .to_string()
                .contains("KubeletReady")
        })?;
        Ok(versions(&self.node()?))
    }

    /// Changes the container runtime for the one below a directory, and the kubelet for that of the control
    /// plane's release. Returns the versions that the node reports before and after.
    pub(crate) fn upgrade_node(&mut self, next: &Path, interrupt: &Interrupt) -> Result<String> {
        let before = versions(&self.node()?);
        for _ in ["kubelet", "containerd"] {
            self.running.pop().context("no node")?.stop()?;
        }
        self.runtime = Containerd::find(Some(next));
        self.kubelet = self.binaries.join("kubelet");
        self.start_runtime("containerd-next", interrupt)?;
        self.start_kubelet("kubelet-next")?;
        let kubelet = format!("v{}.", self.release);
        self.wait_for_node(interrupt, |node| {
            let now = versions(node);
            now != before && now.contains(&kubelet)
        })?;
        Ok(format!("{before}; then {}", versions(&self.node()?)))
    }

    fn start_runtime(&mut self, name: &str, interrupt: &Interrupt) -> Result<()> {
        let runtime = self.runtime.clone();
        self.start_process(name, &mut runtime.daemon()?)?;
        self.wait("the container runtime", interrupt, || runtime.answers())
    }

    fn start_kubelet(&mut self, name: &str) -> Result<()> {
        let (configuration, access) = (file("kubelet.json"), file("kubelet.conf"));
        let release = Release::of(&self.kubelet)?;
        fs::write(&configuration, kubelet(release).to_string())?;
        fs::write(&access, kubeconfig("kubelet"))?;
        let mut command = Command::new(&self.kubelet);
        command.args([
            &format!("--kubeconfig={access}"),
            &format!("--config={configuration}"),
            &format!("--node-ip={ADDRESS}"),
            &format!("--hostname-override={NODE}"),
        ]);
        if release < Release::CONFIGURED_ENDPOINT {
            command
                .arg("--container-runtime=remote")
                .arg(format!("--container-runtime-endpoint=unix://{SOCKET}"));
        }
        self.start_process(name, &mut command)
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

/// The node, as the API server has it.
pub(crate) fn get_node(kubectl: &Kubectl) -> Result<Value> {
    let node = kubectl.run(&["get", "node", NODE, "--output=json"], "")?;
    Ok(serde_json::from_str(&node)?)
}

/// What the node reports of its kubelet and its container runtime.
fn versions(node: &Value) -> String {
    let version = |key: &str| {
        let reported = node["status"]["nodeInfo"][key].as_str();
        reported.unwrap_or_default().to_owned()
    };
    format!(
        "kubelet {}, {}",
        version("kubeletVersion"),
        version("containerRuntimeVersion")
    )
}

fn file(name: &str) -> String {
    format!("{LAB}/{name}")
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

fn kubelet(release: Release) -> Value {
    let mut configuration = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        // Only processes of the test's network namespace reach this kubelet.
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "failSwapOn": false,
        "resolvConf": "",
        "evictionHard": { "memory.available": "100Mi" },
    });
    if release >= Release::CONFIGURED_ENDPOINT {
        configuration["containerRuntimeEndpoint"] = format!("unix://{SOCKET}").into();
    }
    if release >= Release::CGROUPS_REFUSED {
        configuration["failCgroupV1"] = false.into();
    }
    configuration
}
