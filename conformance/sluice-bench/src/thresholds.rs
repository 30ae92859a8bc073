//! What Sluice promises of its speed, and whether a run showed it.

use serde::Serialize;

use crate::{
    matrix::{Figure, LOADS, Load, Placement, Sidecar, Variant},
    results::Results,
    statistics::Estimate,
};

/// A ratio that is promised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Threshold {
    variant: Variant,
    base: Variant,
    sidecar: Sidecar,
    load: Load,
    figure: Figure,
    bound: Bound,
}

/// What a figure must reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    AtLeast(f64),
    /// The lower end of the 95 % interval reaches it.
    LowAtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) | Self::LowAtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }

    /// The number of an estimate that is compared.
    fn compared(self, measured: Estimate) -> f64 {
        match self {
            Self::LowAtLeast(_) => measured.low,
            Self::AtLeast(_) | Self::AtMost(_) => measured.median,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtLeast(limit) => format!("≥ {limit}{unit}"),
            Self::LowAtLeast(limit) => format!("interval ≥ {limit}{unit}"),
            Self::AtMost(limit) => format!("≤ {limit}{unit}"),
        }
    }
}

/// A promise, and what a run showed of it.
#[derive(Serialize)]
pub(super) struct Check {
    /// Of what, under what, by which figure.
    pub(super) promise: [String; 3],
    pub(super) threshold: String,
    pub(super) measured: String,
    pub(super) met: bool,
}

impl Check {
    /// Judges a number that is uncertain.
    pub(super) fn of(promise: [&str; 3], bound: Bound, unit: &str, measured: Estimate) -> Self {
        Self {
            promise: promise.map(ToOwned::to_owned),
            threshold: bound.text(unit),
            measured: measured.text(2, unit),
            met: bound.holds(bound.compared(measured)),
        }
    }

    /// Judges one that is as it is.
    pub(super) fn exact(promise: [&str; 3], bound: Bound, unit: &str, measured: f64) -> Self {
        Self {
            promise: promise.map(ToOwned::to_owned),
            threshold: bound.text(unit),
            measured: format!("{}{unit}", (measured * 100.0).round() / 100.0),
            met: bound.holds(measured),
        }
    }

    /// Its line in a table.
    pub(super) fn row(&self) -> String {
        let Self {
            promise: [what, under, figure],
            threshold,
            measured,
            met,
        } = self;
        let met = if *met { "met" } else { "**not met**" };
        format!("| {what} | {under} | {figure} | {threshold} | {measured} | {met} |")
    }
}

/// All of them.
pub(super) fn all() -> Vec<Threshold> {
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
    thresholds.extend(
        LOADS.map(|load| threshold((Proxies, Off), (EnvoyTcp, load), Rate, LowAtLeast(0.98))),
    );
    thresholds
}

impl Threshold {
    /// What a run showed. Without both contenders in it there is nothing to judge.
    pub(super) fn check(&self, results: &Results) -> Option<Check> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_met_at_its_limit() {
        assert!(Bound::AtLeast(1.15).holds(1.15) && !Bound::AtLeast(1.15).holds(1.149));
        assert!(Bound::AtMost(0.9).holds(0.9) && !Bound::AtMost(0.9).holds(0.91));
    }

    #[test]
    fn interval_bound_compares_the_lower_end() {
        let measured = Estimate {
            median: 1.02,
            low: 0.97,
            high: 1.1,
        };
        let check = |bound| Check::of(["", "", ""], bound, "×", measured);
        assert!(check(Bound::AtLeast(0.98)).met);
        let check = check(Bound::LowAtLeast(0.98));
        assert!(!check.met);
        assert_eq!(check.threshold, "interval ≥ 0.98×");
    }

    #[test]
    fn checks_print_what_they_judge() {
        let promise = ["sluice-cni", "alone", "memory"];
        let check = Check::exact(promise, Bound::AtMost(4.0), " MB", 4.04);
        let row = "| sluice-cni | alone | memory | ≤ 4 MB | 4.04 MB | **not met** |";
        assert_eq!(check.row(), row);
    }
}
