//! A Pod that exhausts the resources of its neighbours.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sluice_lab::pod_annotations::{self, PodAnnotations};
use sluice_testbed::{interrupt::Interrupt, process::output};

use crate::{
    attack::{Saw, agent::Got, goal, net::V4},
    suite::{conn_spec::Origin, fixture::Fixture, observation::OUTBOUND, test_pod::TestPod},
};

/// The limit for a Pod's attempts.
const FLOOD: Duration = Duration::from_mins(1);

/// A Pod may spend its own share, not its neighbours'.
pub(super) fn fill_list(stage: &mut Fixture, count: usize, interrupt: &Interrupt) -> Result<Saw> {
    // Every second port: neighbours would become one range.
    let ports: Vec<_> = (0..count).map(|one| (1 + 2 * one).to_string()).collect();
    let ports = ports.join(",");
    let large = PodAnnotations::default().with(pod_annotations::EXCLUDE_OUTBOUND_PORTS, &ports);
    let filler = stage.admit(large, interrupt);
    let next = stage.admit(PodAnnotations::default(), interrupt);
    let refused = next.as_ref().err().map(|error| format!("{error:#}"));
    for test_pod in [filler, next].into_iter().flatten() {
        test_pod.remove(&stage.lab)?;
    }
    Ok(goal(refused.is_some(), refused.unwrap_or_default()))
}

/// A Pod connects to many destinations; connections of the next Pod reach its proxy.
pub(super) fn fill_aliases(stage: &mut Fixture, count: u32, interrupt: &Interrupt) -> Result<Saw> {
    let lonely = PodAnnotations {
        proxy: false,
        ..PodAnnotations::default()
    };
    let filler = stage.admit(lonely, interrupt)?;
    let begin = Instant::now();
    let mut command = stage.place(&filler, Origin::Application).own()?;
    let made = output(
        command.args(["flood", "--count", &count.to_string()]),
        FLOOD,
    );
    let took = begin.elapsed();
    let next = stage.admit(PodAnnotations::default(), interrupt);
    let reached = next.as_ref().ok().map(|next| reached(stage, next));
    for test_pod in [Ok(filler), next].into_iter().flatten() {
        test_pod.remove(&stage.lab)?;
    }
    let made = made?;
    let by = reached.context("the next Pod was refused")??;
    let detail = format!(
        "{} destinations in {took:.1?}; the next Pod reaches {by}",
        made.trim()
    );
    Ok(goal(by != OUTBOUND, detail))
}

/// The process that answers a connection of a Pod.
fn reached(stage: &Fixture, test_pod: &TestPod) -> Result<String> {
    let attempt = V4.resolve(stage, test_pod)?;
    let got: Vec<Got> = stage.client(test_pod, Origin::Application, "intrude", &[attempt])?;
    let got = got.into_iter().next().unwrap_or_default();
    Ok(got.by.or(got.errno).unwrap_or_default())
}
