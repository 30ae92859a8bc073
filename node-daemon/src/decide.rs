//! `sluiced decide`: the interception decisions for a file of manifests, without a daemon or a
//! node. The same decision as at ADD.

use std::{
    fs::File,
    io::{self, Read, Write as _},
    path::Path,
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::{
    config::{Config, Decide},
    kube::{PodTemplateSpec, manifest},
    pods::{self, Acceleration, Decision, Mesh, NodePolicy},
};

/// The maximum file size in bytes.
const MAX_FILE: u64 = 64 << 20;

/// One Pod, or the Pods of one workload.
struct Found {
    name: String,
    pod: PodTemplateSpec,
}

/// Prints the decision for every Pod and every workload of a file.
pub(crate) fn run(options: &Decide) -> anyhow::Result<()> {
    let daemon_config = Config::read(options.config.as_deref())?;
    let name = options.mesh.as_ref().unwrap_or(&daemon_config.mesh);
    let values = daemon_config.values();
    let rules = NodePolicy {
        mesh: Mesh::choose(name, daemon_config.meshes, values)?,
        missing_annotations: daemon_config.missing_annotations,
        acceleration: Acceleration::Off,
    };
    let mut found = Vec::new();
    for object in read(&options.file)? {
        collect(object, &mut found)?;
    }
    if found.is_empty() {
        bail!("{} contains no Pod and no workload", options.file.display());
    }
    let decide = |Found { name, pod }| {
        let (annotations, manifest) = manifest::of(pod);
        let manifest = (!options.annotations_only).then_some(&manifest);
        pods::decide(&rules, name, &annotations, manifest)
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

/// Adds the Pods of an object: the Pod itself, a workload's template, or the items of a list.
fn collect(mut object: Value, found: &mut Vec<Found>) -> anyhow::Result<()> {
    if let Some(Value::Array(items)) = object.get_mut("items").map(Value::take) {
        return items.into_iter().try_for_each(|one| collect(one, found));
    }
    let kind = object
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
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
    let pod = serde_json::json!({
        "metadata": template.get_mut("metadata").map(Value::take),
        "spec": template.get_mut("spec").map(Value::take),
    });
    let pod = serde_json::from_value(pod).with_context(|| format!("{name} is not a valid Pod"))?;
    found.push(Found { name, pod });
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
        let mut found = Vec::new();
        for object in serde_saphyr::from_multiple::<Value>(text).unwrap() {
            collect(object, &mut found).unwrap();
        }
        let names: Vec<_> = found.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["Pod /a", "Deployment shop/b", "CronJob /c"]);
        let annotations = found
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
