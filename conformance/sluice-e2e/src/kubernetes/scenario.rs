//! The steps on the node, in order.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sluice_testbed::{
    interrupt::Interrupt,
    process::{Process, output},
};

use crate::kubernetes::{
    Options, admission,
    calls::{self, End},
    chart::{Chart, DAEMONSET, IMAGE, SYSTEM},
    checks::Checks,
    cluster::Cluster,
    containerd::RUNTIME_WITHOUT_ANNOTATIONS,
    features,
    known::{delete, known},
    kubectl::Kubectl,
    node::{self, CNI_BIN, CNI_CONF},
    node_upgrade, plugin,
    pods::{Mesh, NAMESPACE, Pod, WRONG},
    release::Release,
    snapshot::Snapshot,
    untouched::Untouched,
};

/// Pods without redirection that run before the installation, and others that are added after it.
const BEFORE: [&str; 4] = ["gateway-1", "grpc-1", "none-1", "custom-1"];
const AFTER: [&str; 4] = ["gateway-2", "grpc-2", "none-2", "custom-2"];
/// The pins of the data path.
const PINS: &str = "/sys/fs/bpf/sluice";
/// The load starts before the upgrade and ends after it.
const LOAD_SECONDS: u64 = 90;
/// The time limit for the kubelet to start a Pod and to report the refusal.
const REFUSED: Duration = Duration::from_mins(2);
const RENDER: Duration = Duration::from_secs(30);

/// Runs the scenario. `false` if a check failed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let interrupt = Interrupt::install()?;
    let mut checks = Checks::default();
    let outcome = Scenario::run(options, &interrupt, &mut checks);
    if let Err(error) = outcome {
        println!("    {error:#}\n    logs are in {}", options.logs.display());
        return Ok(false);
    }
    Ok(checks.passed())
}

/// A cluster, and the files of CNI before the installation.
struct Scenario<'a> {
    options: &'a Options,
    interrupt: &'a Interrupt,
    cluster: Cluster,
    before: Snapshot,
}

/// The Pods from before the installation.
struct EarlierPods {
    /// With iptables rules.
    old: Pod,
    /// Without a sidecar.
    outside: Pod,
    /// With a sidecar alone.
    early: Pod,
    untouched: Untouched,
}

impl EarlierPods {
    fn start(kubectl: &Kubectl, checks: &mut Checks) -> Result<Self> {
        let [old, outside, early] = checks.obtain("a Pod with iptables rules works", || {
            let plans = [
                ("old", Mesh::Rules),
                ("outside", Mesh::None),
                ("early", Mesh::Early),
            ];
            let pods = Pod::start(kubectl, plans)?;
            let [old, outside, _] = &pods;
            let called = calls::all(kubectl, &[(old, Mesh::Rules), (outside, Mesh::None)])?;
            Ok((pods, called))
        })?;
        let untouched = untouched(kubectl, &outside, checks, "before", BEFORE)?;
        Ok(Self {
            old,
            outside,
            early,
            untouched,
        })
    }

    /// A Pod that Sluice meshes beside those with rules and without a sidecar.
    fn beside<'a>(&'a self, meshed: &'a Pod) -> [End<'a>; 3] {
        [
            (&self.old, Mesh::Rules),
            (&self.outside, Mesh::None),
            (meshed, Mesh::Plugin),
        ]
    }
}

impl Scenario<'_> {
    fn run(options: &Options, interrupt: &Interrupt, checks: &mut Checks) -> Result<()> {
        node::setup_mounts(&options.cni_plugins)?;
        let before = Snapshot::take(&[CNI_BIN, CNI_CONF])?;
        let cluster = checks.obtain("a control plane starts", || {
            let cluster = Cluster::start(options, interrupt)?;
            let said = cluster.kubectl.raw("/version")?;
            Ok((cluster, version(&said)))
        })?;
        let mut scenario = Scenario {
            options,
            interrupt,
            cluster,
            before,
        };
        checks.require("a node joins", || {
            let versions = scenario.cluster.add_node(&options.images, interrupt)?;
            Ok(format!("{versions}; three images imported"))
        })?;
        let done = scenario.run_steps(checks);
        // There is a DaemonSet only if something failed before the end.
        scenario.keep_log("sluiced.log").ok();
        done
    }

    /// Writes the daemon's log beside the other logs.
    fn keep_log(&self, name: &str) -> Result<()> {
        let logs = [
            "logs",
            "--namespace",
            SYSTEM,
            DAEMONSET,
            "--container=sluiced",
        ];
        let said = self.cluster.kubectl.run(&logs, "")?;
        Ok(fs::write(self.options.logs.join(name), said)?)
    }

    fn run_steps(&mut self, checks: &mut Checks) -> Result<()> {
        let kubectl = &self.cluster.kubectl.clone();
        if self.cluster.release >= Release::ADMISSION_POLICIES {
            checks.check("the API server enforces an admission policy", || {
                admission::enforce(kubectl, self.interrupt)
            });
        }
        checks.check("the API server accepts the manifests", || {
            self.chart().dry_run(kubectl)
        });
        let earlier = EarlierPods::start(kubectl, checks)?;
        let untouched = self.install_beside(&earlier, checks)?;
        let meshed = self.start_meshed(&earlier, checks)?;
        self.start_without_annotations(&earlier.outside, checks);
        self.keep_log("sluiced-before-the-upgrade.log")?;
        self.upgrade_under_load(&earlier, &untouched, &meshed, checks);
        let [client, server] = &meshed;
        let mut more = Vec::new();
        if self.cluster.release >= Release::USER_NAMESPACES {
            more.extend(features::PODS);
            features::check(kubectl, server, self.interrupt, checks);
        }
        checks.check("the daemon removes deleted Pods", || {
            let names = [client.name, server.name, earlier.early.name];
            let others = ["quiet", "waiting", node_upgrade::POD];
            let all = [&names[..], &others, &BEFORE, &AFTER, &more].concat();
            delete(kubectl, &all, self.interrupt)
        });
        self.keep_log("sluiced.log")?;
        self.remove(&earlier, checks)
    }

    /// Installs Sluice beside Pods that run, and starts further Pods without redirection.
    fn install_beside(&self, earlier: &EarlierPods, checks: &mut Checks) -> Result<Untouched> {
        let kubectl = &self.cluster.kubectl;
        let EarlierPods { outside, early, .. } = earlier;
        checks.require("the chart is installed", || self.install("latest"))?;
        checks.check(
            "a Pod that ran before is adopted with the API server's annotations",
            || {
                known(kubectl, early.name, self.interrupt)?;
                calls::all(kubectl, &[(early, Mesh::Early), (outside, Mesh::None)])
            },
        );
        checks.check(
            "the installation does not change Pods without redirection",
            || earlier.untouched.check(kubectl, outside),
        );
        untouched(kubectl, outside, checks, "after", AFTER)
    }

    /// Starts two Pods that Sluice meshes: a client and a server.
    fn start_meshed(&self, earlier: &EarlierPods, checks: &mut Checks) -> Result<[Pod; 2]> {
        let kubectl = &self.cluster.kubectl;
        let what = "Pods without rules go through their sidecars";
        let pods = checks.obtain(what, || {
            let plans = [("client", Mesh::Plugin), ("server", Mesh::Plugin)];
            let pods = Pod::start(kubectl, plans)?;
            let called = calls::all(kubectl, &pods.each_ref().map(|pod| (pod, Mesh::Plugin)))?;
            Ok((pods, called))
        })?;
        let [client, _] = &pods;
        checks.check("kubectl sluice asks the daemon of the node", || {
            plugin::ask(
                kubectl,
                self.options,
                client,
                &earlier.outside,
                self.interrupt,
            )
        });
        checks.check("Pods with and without rules work together", || {
            calls::all(kubectl, &earlier.beside(client))
        });
        checks.check("a refused Pod gets an Event with the reason", || {
            self.refuse()
        });
        Ok(pods)
    }

    /// Starts a Pod that Sluice refuses.
    fn refuse(&self) -> Result<String> {
        let kubectl = &self.cluster.kubectl;
        Pod::ask_for(kubectl, &[("wrong", Mesh::Wrong)])?;
        let mut message = String::new();
        let reported = self.interrupt.wait(REFUSED, || {
            let of_pod = "--field-selector=reason=SluiceRefusedPod,involvedObject.name=wrong";
            let column = "--output=custom-columns=:.message";
            message = kubectl.run(&["get", "events", of_pod, column], "")?;
            Ok(message.contains(WRONG))
        })?;
        ensure!(reported, "no event of the Pod names {WRONG}: {message:?}");
        kubectl.run(&["delete", "pod/wrong", "--wait=false"], "")?;
        Ok(message.trim().to_owned())
    }

    /// Starts Pods with a runtime that passes no annotations.
    fn start_without_annotations(&self, outside: &Pod, checks: &mut Checks) {
        let kubectl = &self.cluster.kubectl;
        checks.check(
            "the daemon asks the API server about a Pod without annotations",
            || {
                kubectl.apply(&runtime_class())?;
                let [pod] = Pod::start(kubectl, [("quiet", Mesh::Quiet)])?;
                calls::all(kubectl, &[(&pod, Mesh::Quiet), (outside, Mesh::None)])
            },
        );
        checks.check(
            "such a Pod waits while the API server denies access",
            || self.wait_for_the_api_server(outside),
        );
    }

    /// Upgrades Sluice, then the node.
    fn upgrade_under_load(
        &mut self,
        earlier: &EarlierPods,
        added: &Untouched,
        [client, server]: &[Pod; 2],
        checks: &mut Checks,
    ) {
        let kubectl = &self.cluster.kubectl.clone();
        checks.check("no connection fails during an upgrade under load", || {
            self.upgrade(client, server)
        });
        checks.check("all Pods work after the upgrade", || {
            calls::all(kubectl, &earlier.beside(client))?;
            earlier.untouched.check(kubectl, &earlier.outside)?;
            added.check(kubectl, &earlier.outside)
        });
        checks.check(
            "an upgrade of the kubelet and the container runtime under load harms no connection",
            || {
                let pair = [client, server];
                node_upgrade::run(&mut self.cluster, self.options, pair, self.interrupt)
            },
        );
    }

    /// Removes Sluice. Pods that the injector gives rules work as before.
    fn remove(&self, earlier: &EarlierPods, checks: &mut Checks) -> Result<()> {
        let kubectl = &self.cluster.kubectl;
        let EarlierPods { old, outside, .. } = earlier;
        checks.require("deleting the DaemonSet removes Sluice", || self.uninstall())?;
        checks.check("iptables rules redirect after the removal", || {
            let [new] = Pod::start(kubectl, [("new", Mesh::Rules)])?;
            calls::all(
                kubectl,
                &[
                    (old, Mesh::Rules),
                    (outside, Mesh::None),
                    (&new, Mesh::Rules),
                ],
            )
        });
        Ok(())
    }

    fn render(&self, tag: &str) -> Result<String> {
        self.chart().render(tag)
    }

    fn chart(&self) -> Chart<'_> {
        Chart::new(self.options, self.cluster.release)
    }

    /// Applies the chart and waits until its Pods are ready.
    fn install(&self, tag: &str) -> Result<String> {
        let kubectl = &self.cluster.kubectl;
        kubectl.apply(&self.render(tag)?)?;
        let wait = [
            "rollout",
            "status",
            "--namespace",
            SYSTEM,
            DAEMONSET,
            "--timeout=180s",
        ];
        if let Err(error) = kubectl.run(&wait, "") {
            return Err(error.context(why(kubectl)));
        }
        let status = kubectl.get(SYSTEM, DAEMONSET)?;
        Ok(format!(
            "{} of {} Pods ready",
            status["status"]["numberReady"], status["status"]["desiredNumberScheduled"]
        ))
    }

    /// Removes the daemon's permission to read Pods, starts a Pod, and restores the permission.
    fn wait_for_the_api_server(&self, outside: &Pod) -> Result<String> {
        let kubectl = &self.cluster.kubectl;
        kubectl.run(&["delete", "clusterrolebinding", "sluice"], "")?;
        Pod::ask_for(kubectl, &[("waiting", Mesh::Quiet)])?;
        let mut events = String::new();
        let refused = self.interrupt.wait(REFUSED, || {
            let reasons = [
                "get",
                "events",
                "--field-selector=reason=FailedCreatePodSandBox",
            ];
            let message = "--output=custom-columns=:.message";
            events = kubectl.run(&[&reasons[..], &[message]].concat(), "")?;
            Ok(events.contains("forbidden"))
        })?;
        ensure!(refused, "no event reports the refusal: {events}");
        let phase = kubectl.get(NAMESPACE, "pod/waiting")?["status"]["phase"].clone();
        ensure!(phase == "Pending", "it is {phase}");
        self.install("latest")?;
        let pod = Pod::ready(kubectl, "waiting")?;
        let called = calls::all(kubectl, &[(&pod, Mesh::Quiet), (outside, Mesh::None)])?;
        let said = events.lines().find(|line| line.contains("forbidden"));
        Ok(format!(
            "refused: {}; then {called}",
            said.unwrap_or_default().trim()
        ))
    }

    fn upgrade(&self, client: &Pod, server: &Pod) -> Result<String> {
        let image = |tag: &str| format!("{IMAGE}:{tag}");
        self.cluster.runtime.tag(&image("latest"), &image("next"))?;
        let log = self.options.logs.join("load.log");
        let mut command = calls::load(&self.cluster.kubectl, client, server, LOAD_SECONDS);
        let mut load = Process::start("the load", &mut command, &log)?;
        let rolled = self.install("next")?;
        load.check().context("the load ended before the upgrade")?;
        let limit = Duration::from_secs(LOAD_SECONDS * 2);
        let ended = self.interrupt.wait(limit, || Ok(load.check().is_err()))?;
        ensure!(ended, "the load does not end");
        Ok(format!("{}; {rolled}", calls::judge(&load.log())?))
    }

    fn uninstall(&self) -> Result<String> {
        let kubectl = &self.cluster.kubectl;
        let manifest = self.render("next")?;
        kubectl.run(&["delete", "--filename=-", "--wait=true"], &manifest)?;
        let selector = "--selector=app.kubernetes.io/name=sluice";
        kubectl.run(
            &[
                "wait",
                "--namespace",
                SYSTEM,
                "--for=delete",
                "pod",
                selector,
                "--timeout=180s",
            ],
            "",
        )?;
        let now = Snapshot::take(&[CNI_BIN, CNI_CONF])?;
        self.before.expect(&now)?;
        ensure!(!Path::new(PINS).exists(), "{PINS} is left");
        let mut files = Command::new("find");
        files.args(["/run/sluice", "/var/lib/sluice", "-not", "-type", "d"]);
        let files = output(&mut files, RENDER)?;
        ensure!(files.is_empty(), "left: {files}");
        Ok(format!(
            "the {} files of CNI are byte for byte as before; no pin is left",
            now.len()
        ))
    }
}

/// Starts Pods without redirection, and calls each.
fn untouched(
    kubectl: &Kubectl,
    outside: &Pod,
    checks: &mut Checks,
    moment: &str,
    names: [&'static str; 4],
) -> Result<Untouched> {
    let what = format!("a gateway and Pods without redirection work {moment} the installation");
    checks.obtain(&what, || {
        let pods = Untouched::start(kubectl, names)?;
        let called = pods.check(kubectl, outside)?;
        Ok((pods, called))
    })
}

fn version(said: &str) -> String {
    let version: Option<Value> = serde_json::from_str(said).ok();
    let version = version.and_then(|version| version["gitVersion"].as_str().map(str::to_owned));
    format!("Kubernetes {}", version.unwrap_or_default())
}

/// The runtime class whose runtime passes no annotations to CNI plugins.
fn runtime_class() -> String {
    let (kind, version) = ("RuntimeClass", "node.k8s.io/v1");
    let metadata = json!({ "name": RUNTIME_WITHOUT_ANNOTATIONS });
    json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "handler": RUNTIME_WITHOUT_ANNOTATIONS })
        .to_string()
}

/// Events and logs of Sluice's Pods.
fn why(kubectl: &Kubectl) -> String {
    let events = [
        "get",
        "events",
        "--namespace",
        SYSTEM,
        "--output=custom-columns=:.message",
    ];
    let logs = [
        "logs",
        "--namespace",
        SYSTEM,
        DAEMONSET,
        "--all-containers",
        "--tail=20",
    ];
    [events.as_slice(), logs.as_slice()]
        .map(|command| {
            kubectl
                .run(command, "")
                .unwrap_or_else(|error| format!("{error:#}"))
        })
        .join("\n")
}
