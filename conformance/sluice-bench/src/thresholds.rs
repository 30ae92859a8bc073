//! What Sluice promises of its speed, and whether a run showed it.

use clap::ValueEnum as _;

use crate::{
    check::{Bound, Check},
    churn::Churn,
    control_plane::ControlPlane,
    idle::Idle,
    matrix::{Figure, LOADS, Load, Placement, Sidecar, Variant},
    pod_start::PodStart,
    programs::Programs,
    results::Results,
};

/// A ratio that is promised.
#[derive(Clone, Copy, Debug)]
struct Threshold {
    variant: Variant,
    base: Variant,
    sidecar: Sidecar,
    load: Load,
    figure: Figure,
    bound: Bound,
}

/// Compares the measurements of a run with the promised limits.
pub(super) fn judge(results: &mut Results) {
    let all = all();
    let mut checks: Vec<_> = all
        .iter()
        .filter_map(|threshold| threshold.check(results))
        .collect();
    checks.extend(results.control.iter().flat_map(ControlPlane::checks));
    checks.extend(results.pod_start.iter().flat_map(PodStart::checks));
    checks.extend(results.programs.iter().flat_map(Programs::checks));
    checks.extend(results.churn.iter().flat_map(Churn::checks));
    checks.extend(results.idle.iter().flat_map(Idle::checks));
    results.checks = checks;
}

/// All of them.
fn all() -> Vec<Threshold> {
    use Bound::{AtLeast, AtMost, LowAtLeast};
    use Figure::{Cpu, Rate};
    use Load::{Bulk, KeepAlive, NewConnection};
    use Placement::Sidecars;
    use Sidecar::{EnvoyTcp, Minimal};
    use Variant::{All, Explicit, Iptables, Limit, Off, Proxies};
    let threshold = |(variant, base), (sidecar, load), figure, bound| Threshold {
        variant,
        base,
        sidecar,
        load,
        figure,
        bound,
    };
    let mut thresholds: Vec<_> = LOADS
        .map(|load| threshold((Off, Explicit), (EnvoyTcp, load), Rate, AtLeast(0.97)))
        .into();
    let off = (Off, Iptables);
    let all = (All, Iptables);
    thresholds.extend([
        threshold(off, (EnvoyTcp, NewConnection(16)), Rate, AtLeast(1.15)),
        threshold(
            off,
            (EnvoyTcp, KeepAlive(64, Sidecars)),
            Rate,
            AtLeast(1.12),
        ),
        threshold(off, (EnvoyTcp, KeepAlive(64, Sidecars)), Cpu, AtMost(0.90)),
        threshold(off, (EnvoyTcp, NewConnection(16)), Cpu, AtMost(0.90)),
        threshold(all, (EnvoyTcp, KeepAlive(1, Sidecars)), Rate, AtLeast(1.25)),
        threshold(all, (EnvoyTcp, Bulk(4)), Rate, AtLeast(1.15)),
        threshold(
            (All, Explicit),
            (EnvoyTcp, KeepAlive(64, Sidecars)),
            Rate,
            AtLeast(1.0),
        ),
    ]);
    // Another processor changes what redirection saves, and it changes the limit alike.
    let limit = |sidecar, load| threshold((All, Limit), (sidecar, load), Rate, AtLeast(0.97));
    thresholds.extend(LOADS.map(|load| limit(EnvoyTcp, load)));
    thresholds.push(limit(Minimal, KeepAlive(64, Sidecars)));
    // The default must not be slower, whatever the sidecar.
    thresholds.extend(Sidecar::value_variants().iter().flat_map(|sidecar| {
        LOADS.map(|load| threshold((Proxies, Off), (*sidecar, load), Rate, LowAtLeast(0.98)))
    }));
    thresholds
}

impl Threshold {
    /// The check of a run; none if a variant is missing.
    fn check(&self, results: &Results) -> Option<Check> {
        let Self {
            variant,
            base,
            sidecar,
            load,
            figure,
            bound,
        } = *self;
        let ratio = results.ratio((variant, base), (sidecar, load), figure)?;
        let what = format!("{} against {}", variant.name(), base.name());
        let under = format!("{}, {}", sidecar.name(), load.name());
        let promise = [&*what, &under, figure.name()];
        Some(Check::of(promise, bound, "×", ratio))
    }
}
