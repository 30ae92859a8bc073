//! The chart, rendered as Helm does, and the API server's opinion of it.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sluice_testbed::process::output;

use crate::kubernetes::{Options, kubectl::Kubectl, node::LAB, release::Release};

/// Sluice's image, without a tag.
pub(crate) const IMAGE: &str = "sluice.test/sluice";
/// The namespace of Sluice.
pub(crate) const SYSTEM: &str = "kube-system";
/// Its daemons.
pub(crate) const DAEMONSET: &str = "daemonset/sluice";
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
/// API groups that a cluster gets from `OpenShift` and from the Prometheus operator. A custom resource definition
/// would not help: the API server of 1.20, built by this Go, crashes at objects of defined kinds.
const FOREIGN_GROUPS: [&str; 2] = ["security.openshift.io/", "monitoring.coreos.com/"];
const RENDER: Duration = Duration::from_secs(30);

/// The chart, and the program that renders it.
pub(crate) struct Chart<'a> {
    python: &'a Path,
    manifests: &'a Path,
    /// The release that the chart is rendered for.
    release: Release,
}

impl<'a> Chart<'a> {
    pub(crate) fn new(options: &'a Options, release: Release) -> Self {
        Self {
            python: &options.helm,
            manifests: &options.manifests,
            release,
        }
    }

    /// The manifest for an image's tag.
    pub(crate) fn render(&self, tag: &str) -> Result<String> {
        self.render_with(&self.values(tag, ""), &[])
    }

    fn render_with(&self, values: &Value, flags: &[&str]) -> Result<String> {
        let file = Path::new(LAB).join("values.json");
        fs::write(&file, values.to_string())?;
        let mut command = Command::new(self.python);
        command
            .arg(self.manifests.join("render.py"))
            .args(flags)
            .arg("--values")
            .arg(&file);
        output(&mut command, RENDER)
    }

    /// Applies the chart for each platform without keeping it, with scraping, alerts and the dashboard.
    pub(crate) fn dry_run(&self, kubectl: &Kubectl) -> Result<String> {
        let (mut accepted, mut foreign) = (0, 0);
        for platform in PLATFORMS {
            let mut values = self.values("latest", platform);
            values["monitoring"] = json!({ "enabled": true });
            let mut objects: Vec<Value> =
                serde_json::from_str(&self.render_with(&values, &["--json"])?)?;
            let all = objects.len();
            objects.retain(|object| !is_foreign(object));
            foreign += all - objects.len();
            let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
            let arguments = ["apply", "--dry-run=server", "--filename=-"];
            let said = kubectl
                .run(&arguments, &list.to_string())
                .with_context(|| format!("platform '{platform}'"))?;
            accepted += said.lines().count();
        }
        Ok(format!(
            "{accepted} objects of {} platforms, by --dry-run=server; {foreign} of kinds of other projects left out",
            PLATFORMS.len()
        ))
    }

    fn values(&self, tag: &str, platform: &str) -> Value {
        json!({
            "global": { "platform": platform },
            "kubeVersion": self.release.to_string(),
            "image": { "repository": IMAGE, "tag": tag },
            "config": { "acceleration": "proxies", "pod-events": true },
        })
    }
}

fn is_foreign(object: &Value) -> bool {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    FOREIGN_GROUPS
        .iter()
        .any(|group| version.starts_with(group))
}
