//! A `ValidatingAdmissionPolicy` that the chart's objects satisfy.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sluice_testbed::interrupt::Interrupt;

use crate::kubernetes::{chart::SYSTEM, kubectl::Kubectl, pods::IMAGE};

const NAME: &str = "confined.sluice.test";
/// The time limit for the API server to enforce a new policy.
const ENFORCED: Duration = Duration::from_mins(1);
/// What each container of a `DaemonSet` must have, as CEL.
const CONTAINER: &str = "has(c.securityContext) && \
    has(c.securityContext.readOnlyRootFilesystem) && c.securityContext.readOnlyRootFilesystem && \
    has(c.securityContext.allowPrivilegeEscalation) && !c.securityContext.allowPrivilegeEscalation && \
    (!has(c.securityContext.privileged) || !c.securityContext.privileged) && \
    has(c.securityContext.capabilities) && c.securityContext.capabilities.drop.exists(one, one == 'ALL') && \
    has(c.resources) && has(c.resources.requests)";
/// What its Pods must have.
const POD: &str = "has(object.spec.template.spec.securityContext.seccompProfile) && \
    object.spec.template.spec.securityContext.seccompProfile.type == 'RuntimeDefault'";

/// Creates the policy, and waits until it refuses a `DaemonSet` without confinement.
pub(crate) fn enforce(kubectl: &Kubectl, interrupt: &Interrupt) -> Result<String> {
    let policies = json!({ "apiVersion": "v1", "kind": "List", "items": [policy(), binding()] });
    kubectl.apply(&policies.to_string())?;
    let unconfined = unconfined().to_string();
    let mut said = String::new();
    let refused = interrupt.wait(ENFORCED, || {
        let arguments = ["apply", "--dry-run=server", "--filename=-"];
        said = match kubectl.run(&arguments, &unconfined) {
            Ok(said) => said,
            Err(error) => format!("{error:#}"),
        };
        Ok(said.contains(NAME))
    })?;
    ensure!(refused, "an unconfined DaemonSet is accepted: {said}");
    Ok("a DaemonSet without a security context is refused".to_owned())
}

fn policy() -> Value {
    let validations: Vec<_> = ["containers", "initContainers"]
        .map(|kind| {
            let containers = format!("object.spec.template.spec.{kind}");
            let rule = format!("!has({containers}) || {containers}.all(c, {CONTAINER})");
            json!({ "expression": rule, "message": format!("{kind} are not confined") })
        })
        .into_iter()
        .chain([json!({ "expression": POD, "message": "no seccomp profile" })])
        .collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": NAME },
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": { "resourceRules": [{
                "apiGroups": ["apps"],
                "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["daemonsets"],
            }] },
            "validations": validations,
        },
    })
}

fn binding() -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": NAME },
        "spec": { "policyName": NAME, "validationActions": ["Deny"] },
    })
}

fn unconfined() -> Value {
    let labels = json!({ "app": "unconfined" });
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "unconfined", "namespace": SYSTEM },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "unconfined", "image": IMAGE }] },
            },
        },
    })
}
