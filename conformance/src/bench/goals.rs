//! What Sluice promises of its speed, and whether a run showed it.

use crate::bench::{
    matter::{Contender, Figure, LOADS, Load, Sidecar},
    results::Results,
};

/// A ratio that is promised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goal {
    contender: Contender,
    base: Contender,
    sidecar: Sidecar,
    load: Load,
    figure: Figure,
    bound: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(limit) => format!("≥ {limit:.2}×"),
            Self::AtMost(limit) => format!("≤ {limit:.2}×"),
        }
    }
}

/// All of them.
pub(super) fn all() -> Vec<Goal> {
    use Bound::{AtLeast, AtMost};
    use Contender::{All, Explicit, Iptables, Off, Proxies};
    use Figure::{Cpu, Median, Rate};
    use Load::{Bulk, KeepAlive, NewConnection, RoundTrip};
    use Sidecar::{EnvoyTcp, Minimal};
    let goal = |(contender, base), (sidecar, load), figure, bound| Goal {
        contender,
        base,
        sidecar,
        load,
        figure,
        bound,
    };
    let mut goals: Vec<_> = LOADS
        .map(|load| goal((Off, Explicit), (EnvoyTcp, load), Rate, AtLeast(0.97)))
        .into();
    let off = (Off, Iptables);
    let all = (All, Iptables);
    goals.extend([
        goal(off, (EnvoyTcp, NewConnection(16)), Rate, AtLeast(1.15)),
        goal(off, (EnvoyTcp, KeepAlive(64)), Rate, AtLeast(1.12)),
        goal(off, (EnvoyTcp, KeepAlive(64)), Cpu, AtMost(0.90)),
        goal(off, (EnvoyTcp, NewConnection(16)), Cpu, AtMost(0.90)),
        goal(all, (EnvoyTcp, KeepAlive(1)), Rate, AtLeast(1.25)),
        goal(all, (EnvoyTcp, KeepAlive(64)), Rate, AtLeast(1.9)),
        goal(all, (Minimal, KeepAlive(64)), Rate, AtLeast(2.2)),
        goal(all, (EnvoyTcp, Bulk(4)), Rate, AtLeast(1.15)),
        goal(all, (EnvoyTcp, RoundTrip(64)), Median, AtMost(0.65)),
        goal(
            (All, Explicit),
            (EnvoyTcp, KeepAlive(64)),
            Rate,
            AtLeast(1.0),
        ),
    ]);
    goals.extend(LOADS.map(|load| goal((Proxies, Off), (EnvoyTcp, load), Rate, AtLeast(1.0))));
    goals
}

impl Goal {
    /// A line of the report. Without both contenders in the run there is none.
    pub(super) fn line(&self, results: &Results) -> Option<String> {
        let Self {
            contender,
            base,
            sidecar,
            load,
            figure,
            bound,
        } = *self;
        let ratio = results.ratio((contender, base), (sidecar, load), figure)?;
        let verdict = if bound.holds(ratio.median) {
            "met"
        } else {
            "**not met**"
        };
        Some(format!(
            "| {} against {} | {}, {} | {} | {} | {:.2}× ({:.2}–{:.2}) | {verdict} |",
            contender.name(),
            base.name(),
            sidecar.name(),
            load.name(),
            figure.name(),
            bound.text(),
            ratio.median,
            ratio.low,
            ratio.high,
        ))
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
}
