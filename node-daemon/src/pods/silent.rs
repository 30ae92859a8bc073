//! Meshed Pods whose proxy does not listen: their connections are refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// A proxy that starts or restarts listens within this time.
const GRACE: Duration = Duration::from_mins(1);

/// The Pods, by netns cookie, with the time at which each was first seen without a listener.
#[derive(Debug, Default)]
pub(super) struct SilentProxies(BTreeMap<u64, Instant>);

impl SilentProxies {
    /// Replaces the set of Pods. Returns those without a listener for longer than the grace time.
    pub(super) fn update(&mut self, silent: BTreeSet<u64>, now: Instant) -> Vec<(u64, Duration)> {
        self.0.retain(|cookie, _| silent.contains(cookie));
        for cookie in silent {
            self.0.entry(cookie).or_insert(now);
        }
        let age =
            |(cookie, since): (&u64, &Instant)| (*cookie, now.saturating_duration_since(*since));
        let all = self.0.iter().map(age);
        all.filter(|(_, age)| *age >= GRACE).collect()
    }
}

/// The problem that the status shows.
pub(super) fn problem(name: &str, age: Duration, more: usize) -> String {
    let more = match more {
        0 => String::new(),
        more => format!(", and so do {more} more Pods"),
    };
    format!(
        "the Pod {name} has had no listening proxy for {} s{more}: connections are refused; look at the proxy's log",
        age.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_proxy_is_a_problem_after_the_grace_time() {
        let mut silent = SilentProxies::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(silent.update([1, 2].into(), at(0)), []);
        assert_eq!(silent.update([2, 3].into(), at(59)), []);
        assert_eq!(
            silent.update([2, 3].into(), at(61)),
            [(2, Duration::from_secs(61))]
        );
        assert_eq!(silent.update([1].into(), at(119)), []);
        assert_eq!(silent.update([1].into(), at(179)), [(1, GRACE)]);
    }
}
