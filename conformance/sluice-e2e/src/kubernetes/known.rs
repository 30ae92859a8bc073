//! The cluster's Pods as the daemon lists them.

use std::time::Duration;

use anyhow::{Result, ensure};
use sluice_testbed::interrupt::Interrupt;

use crate::kubernetes::{
    chart::{DAEMONSET, SYSTEM},
    kubectl::Kubectl,
    pods::NAMESPACE,
};

/// The time limit for the daemon to read the list of Pods.
const POD_LIST_LIMIT: Duration = Duration::from_mins(1);
/// The time limit for a Pod to end and for the runtime to call DEL.
const DELETED: Duration = Duration::from_mins(2);

/// The Pods that the daemon lists.
pub(crate) fn listed(kubectl: &Kubectl) -> Result<String> {
    let target = [SYSTEM, DAEMONSET, "sluiced"];
    kubectl.exec(target, &["/bin/sluiced", "pods", "--json"])
}

pub(crate) fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

/// Waits until the daemon knows a Pod by its name.
pub(crate) fn known(kubectl: &Kubectl, pod: &str, interrupt: &Interrupt) -> Result<()> {
    let mut all = String::new();
    let known = interrupt.wait(POD_LIST_LIMIT, || {
        all = listed(kubectl)?;
        Ok(all.contains(&quoted(pod)))
    })?;
    ensure!(known, "the daemon does not know {pod}: {all}");
    Ok(())
}

/// Deletes Pods, and waits until the daemon has removed them.
pub(crate) fn delete(kubectl: &Kubectl, pods: &[&str], interrupt: &Interrupt) -> Result<String> {
    let mut arguments = vec!["delete", "pod", "--namespace", NAMESPACE, "--wait=false"];
    arguments.extend(pods);
    kubectl.run(&arguments, "")?;
    let mut known = String::new();
    let deleted = interrupt.wait(DELETED, || {
        known = listed(kubectl)?;
        Ok(pods.iter().all(|pod| !known.contains(&quoted(pod))))
    })?;
    ensure!(deleted, "the daemon still knows one of them: {known}");
    Ok(format!(
        "{} Pods deleted, none known to the daemon",
        pods.len()
    ))
}
