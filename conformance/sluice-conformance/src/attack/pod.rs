//! Programs of an attacker in a meshed Pod.

use std::{path::Path, process::ExitStatus, time::Duration};

use anyhow::{Context as _, Result};
use sluice_lab::pod_annotations::PodAnnotations;
use sluice_testbed::{interrupt::Interrupt, process::finish};

use crate::{
    attack::{Outcome, Saw, goal},
    suite::{conn_spec::Origin, fixture::Fixture, test_pod::TestPod},
};

const LIMIT: Duration = Duration::from_secs(10);
/// The exit code of a script whose tools are missing.
const NO_TOOLS: i32 = 99;

/// A shell script; success is the attacker's. `$PID` is the Pod's sidecar.
#[derive(Clone, Copy)]
pub(crate) struct Script {
    pub(crate) from: Origin,
    pub(crate) text: &'static str,
}

/// Runs all of them in one Pod.
pub(super) fn attempt(
    stage: &mut Fixture,
    scripts: &[&Script],
    interrupt: &Interrupt,
) -> Result<Vec<Saw>> {
    if scripts.is_empty() {
        return Ok(Vec::new());
    }
    let test_pod = stage.admit(PodAnnotations::default(), interrupt)?;
    let saw: Result<Vec<Saw>> = scripts
        .iter()
        .map(|script| script.run(stage, &test_pod))
        .collect();
    test_pod.remove(&stage.lab)?;
    saw
}

impl Script {
    fn run(&self, stage: &Fixture, test_pod: &TestPod) -> Result<Saw> {
        let sidecar = test_pod.proxy().context("the Pod has no sidecar")?;
        let place = stage.place(test_pod, self.from);
        let mut command = place.command(Path::new("/bin/sh"))?;
        command
            .args(["-c", self.text])
            .env("PID", sidecar.to_string());
        let answer = finish(&mut command, "", LIMIT)?;
        let said = String::from_utf8_lossy(&answer.stderr);
        Ok(ended(answer.status, said.trim()))
    }
}

/// The outcome of a script.
pub(super) fn ended(status: ExitStatus, said: &str) -> Saw {
    if status.code() == Some(NO_TOOLS) {
        return Saw {
            outcome: Outcome::NotApplicable,
            detail: said.to_owned(),
        };
    }
    goal(status.success(), said)
}
