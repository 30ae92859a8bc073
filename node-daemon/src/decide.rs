//! `sluiced decide`: the interception decisions for a file of manifests, without a daemon or a
//! node. The same decision as at ADD.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write as _},
    path::Path,
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::{
    config::{Config, Decide},
    kube::{Namespace, PodTemplateSpec, manifest},
    pods::{self, Acceleration, Decision, NodePolicy},
};

/// The maximum file size in bytes.
const MAX_FILE: u64 = 64 << 20;

/// The relevant objects of a file.
#[derive(Default)]
struct Found {
    pods: Vec<FoundPod>,
    /// The labels of each Kubernetes namespace that select a mesh.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

/// One Pod, or the Pods of one workload.
struct FoundPod {
    name: String,
    pod: PodTemplateSpec,
}

/// Prints the decision for every Pod and every workload of a file.
pub(crate) fn run(options: &Decide) -> anyhow::Result<()> {
    let daemon_config = Config::read(options.config.as_deref())?;
    let rules = NodePolicy {
        mesh: daemon_config.choose_mesh(options.mesh.as_deref())?,
        missing_annotations: daemon_config.missing_annotations,
        acceleration: Acceleration::Off,
    };
    let mut found = Found::default();
    for object in read(&options.file)? {
        collect(object, &mut found)?;
    }
    let Found {
        pods: found,
        namespaces,
    } = found;
    if found.is_empty() {
        bail!("{} contains no Pod and no workload", options.file.display());
    }
    let decide = |FoundPod { name, pod }| {
        let (annotations, mut manifest) = manifest::of(pod);
        let labels = namespaces.get(&manifest.namespace).cloned();
        manifest.namespace_labels = labels.unwrap_or_default();
        let namespace = &manifest.namespace;
        let known = (!options.annotations_only).then_some(&manifest);
        pods::decide(&rules, name, namespace, &annotations, known)
    };
    let decisions: Vec<Decision> = found.into_iter().map(decide).collect();
    let mut out = io::stdout().lock();
    if options.json {
        serde_json::to_writer_pretty(&mut out, &decisions)?;
        writeln!(out)?;
        return Ok(());
    }
    for decision in &decisions {
        writeln!(out, "{decision}")?;
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<Value>> {
    let shown = path.display();
    let mut text = String::new();
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).with_context(|| format!("cannot open {shown}"))?)
    };
    let length = source.take(MAX_FILE + 1).read_to_string(&mut text);
    let length = length.with_context(|| format!("cannot read {shown}"))?;
    if u64::try_from(length)? > MAX_FILE {
        bail!("{shown} is longer than {MAX_FILE} bytes");
    }
    serde_saphyr::from_multiple(&text).with_context(|| format!("{shown} is not valid YAML"))
}

/// Adds the Pods of an object: the Pod itself, a workload's template, or the items of a list. A
/// namespace's labels count for its Pods.
fn collect(mut object: Value, found: &mut Found) -> anyhow::Result<()> {
    if let Some(Value::Array(items)) = object.get_mut("items").map(Value::take) {
        return items.into_iter().try_for_each(|one| collect(one, found));
    }
    let kind = object
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if kind == "Namespace" {
        let namespace: Namespace =
            serde_json::from_value(object).context("a Namespace is not valid")?;
        let labels = manifest::selecting(namespace.metadata.labels.unwrap_or_default());
        let name = namespace.metadata.name.unwrap_or_default();
        found.namespaces.insert(name, labels);
        return Ok(());
    }
    let path = match &*kind {
        "Pod" => "",
        "CronJob" => "/spec/jobTemplate/spec/template",
        "PodTemplate" => "/template",
        _ => "/spec/template",
    };
    let metadata = |field| {
        object
            .pointer(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let name = format!(
        "{kind} {}/{}",
        metadata("/metadata/namespace"),
        Some(metadata("/metadata/name"))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| metadata("/metadata/generateName"))
    );
    let Some(template) = object
        .pointer_mut(path)
        .filter(|template| template.get("spec").is_some())
    else {
        return Ok(());
    };
    let mut pod = serde_json::json!({
        "metadata": template.get_mut("metadata").map(Value::take),
        "spec": template.get_mut("spec").map(Value::take),
    });
    // A workload's template has no namespace of its own.
    if let Some(namespace) = object.pointer("/metadata/namespace") {
        pod["metadata"]["namespace"] = namespace.clone();
    }
    let pod = serde_json::from_value(pod).with_context(|| format!("{name} is not a valid Pod"))?;
    found.pods.push(FoundPod { name, pod });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_workloads_and_lists_are_found() {
        let text = "
kind: Service
spec: { ports: [] }
---
kind: List
items:
- { kind: Pod, metadata: { name: a }, spec: { containers: [] } }
- { kind: Deployment, metadata: { name: b, namespace: shop }, spec: { template: { spec: { containers: [] } } } }
---
kind: CronJob
metadata: { name: c }
spec: { jobTemplate: { spec: { template: { metadata: { annotations: { x: 'y' } }, spec: { containers: [] } } } } }
";
        let mut found = Found::default();
        for object in serde_saphyr::from_multiple::<Value>(text).unwrap() {
            collect(object, &mut found).unwrap();
        }
        let names: Vec<_> = found.pods.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["Pod /a", "Deployment shop/b", "CronJob /c"]);
        let annotations = found
            .pods
            .pop()
            .unwrap()
            .pod
            .metadata
            .unwrap()
            .annotations
            .unwrap();
        assert_eq!(annotations["x"], "y");
    }
}
