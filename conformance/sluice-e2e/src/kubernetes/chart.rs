//! The chart, rendered as Helm does, and the API server's opinion of it.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sluice_testbed::process::output;

use crate::kubernetes::{Options, kubectl::Kubectl, node::LAB};

/// Sluice's image, without a tag.
pub(crate) const IMAGE: &str = "sluice.test/sluice";
/// The version that the chart is rendered for: that of `setup/kubernetes.sh`.
const KUBERNETES: &str = "1.20";
/// Every value of `global.platform`.
const PLATFORMS: [&str; 10] = [
    "",
    "aks",
    "bottlerocket",
    "eks",
    "gke",
    "k3s",
    "microk8s",
    "minikube",
    "openshift",
    "talos",
];
/// Kinds that a cluster gets from OpenShift and from the Prometheus operator: group, kind, plural, scope.
const FOREIGN_KINDS: [[&str; 4]; 3] = [
    [
        "security.openshift.io",
        "SecurityContextConstraints",
        "securitycontextconstraints",
        "Cluster",
    ],
    [
        "monitoring.coreos.com",
        "PodMonitor",
        "podmonitors",
        "Namespaced",
    ],
    [
        "monitoring.coreos.com",
        "PrometheusRule",
        "prometheusrules",
        "Namespaced",
    ],
];
const RENDER: Duration = Duration::from_secs(30);

/// The chart and what renders it.
pub(crate) struct Chart<'a> {
    python: &'a Path,
    manifests: &'a Path,
}

impl<'a> Chart<'a> {
    pub(crate) fn of(options: &'a Options) -> Self {
        Self {
            python: &options.helm,
            manifests: &options.manifests,
        }
    }

    /// The manifest for an image's tag and a platform, with scraping, alerts and the dashboard if `monitored`.
    pub(crate) fn render(&self, tag: &str, platform: &str, monitored: bool) -> Result<String> {
        let values = Path::new(LAB).join("values.json");
        fs::write(
            &values,
            json!({
                "global": { "platform": platform },
                "kubeVersion": KUBERNETES,
                "image": { "repository": IMAGE, "tag": tag },
                "config": { "acceleration": "proxies" },
                "monitoring": { "enabled": monitored },
            })
            .to_string(),
        )?;
        let mut command = Command::new(self.python);
        command
            .arg(self.manifests.join("render.py"))
            .arg("--values")
            .arg(&values);
        output(&mut command, RENDER)
    }

    /// Applies the chart for each platform without keeping it.
    pub(crate) fn dry_run(&self, kubectl: &Kubectl) -> Result<String> {
        add_foreign_kinds(kubectl)?;
        let mut accepted = 0;
        for platform in PLATFORMS {
            let manifest = self.render("latest", platform, true)?;
            let arguments = ["apply", "--dry-run=server", "--filename=-"];
            let said = kubectl
                .run(&arguments, &manifest)
                .with_context(|| format!("platform '{platform}'"))?;
            accepted += said.lines().count();
        }
        Ok(format!(
            "{accepted} objects of {} platforms, by --dry-run=server",
            PLATFORMS.len()
        ))
    }
}

/// Defines kinds of other projects, with any content.
fn add_foreign_kinds(kubectl: &Kubectl) -> Result<()> {
    let mut names = Vec::new();
    let mut definitions = Vec::new();
    for [group, kind, plural, scope] in FOREIGN_KINDS {
        names.push(format!("crd/{plural}.{group}"));
        definitions.push(definition([group, kind, plural, scope]));
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": definitions });
    kubectl.apply(&list.to_string())?;
    let mut wait = vec!["wait", "--for=condition=Established", "--timeout=30s"];
    wait.extend(names.iter().map(String::as_str));
    kubectl.run(&wait, "").map(drop)
}

fn definition([group, kind, plural, scope]: [&str; 4]) -> Value {
    let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group,
            "scope": scope,
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "schema": { "openAPIV3Schema": any },
            }],
        },
    })
}
