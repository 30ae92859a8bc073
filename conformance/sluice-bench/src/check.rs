//! A bound of a figure, and whether a run kept it.

use serde::Serialize;

use crate::statistics::Estimate;

/// The limit of a figure.
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

/// A promised limit, and the result of a run.
#[derive(Serialize)]
pub(super) struct Check {
    /// The variant, the load and the figure.
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
