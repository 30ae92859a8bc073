//! The table for people, and the same as JSON.

use std::io::{IsTerminal as _, stdout};

use anyhow::Result;
use serde::Serialize;
use sluice_testbed::terminal::{GREEN, RED, paint};

use crate::attack::{Attacker, Case, Outcome, Saw, Verdict};

/// Every attempt, and remains of the labs.
#[derive(Serialize)]
pub(crate) struct Report {
    attempts: Vec<Line>,
    left_behind: Vec<String>,
}

#[derive(Serialize)]
struct Line {
    name: &'static str,
    attacker: Attacker,
    attempt: &'static str,
    rules: Saw,
    sluice: Saw,
    verdict: Verdict,
    reason: Option<&'static str>,
    /// The outcome on Sluice is not a pass, or a reason explains it.
    holds: bool,
}

impl Report {
    /// `seen` holds the outcomes on the rules, then those on Sluice, in the order of the cases.
    pub(crate) fn new(cases: &[&Case], seen: &[Vec<Saw>], left_behind: Vec<String>) -> Self {
        let pairs = seen.iter().flatten().zip(seen.iter().skip(1).flatten());
        let attempts = cases
            .iter()
            .zip(pairs)
            .map(|(case, (rules, sluice))| Line::new(case, rules.clone(), sluice.clone()))
            .collect();
        Self {
            attempts,
            left_behind,
        }
    }

    /// No attempt passes Sluice that must not.
    pub(crate) fn holds(&self) -> bool {
        self.left_behind.is_empty() && self.attempts.iter().all(|line| line.holds)
    }

    /// Prints it.
    pub(crate) fn print(&self, json: bool) -> Result<()> {
        if json {
            println!("{}", serde_json::to_string_pretty(self)?);
            return Ok(());
        }
        let colours = stdout().is_terminal();
        println!(
            "{:<15} {:<46} {:<14} {:<14} verdict",
            "attacker", "attempt", "rules", "Sluice"
        );
        for line in &self.attempts {
            let verdict = format!("{:?}", line.verdict).to_lowercase();
            let verdict = paint(if line.holds { GREEN } else { RED }, &verdict, colours);
            let attacker = format!("{:?}", line.attacker);
            println!(
                "{attacker:<15} {:<46} {:<14} {:<14} {verdict}",
                line.name,
                line.rules.outcome.name(),
                line.sluice.outcome.name(),
            );
            if !line.holds {
                println!("{:<15} seen: {}", "", line.sluice.detail);
            }
            if let Some(reason) = line.reason {
                println!("{:<15} reason: {reason}", "");
            }
        }
        self.summary();
        Ok(())
    }

    fn summary(&self) {
        let count = |verdict| {
            self.attempts
                .iter()
                .filter(|line| line.verdict == verdict)
                .count()
        };
        let failed = self.attempts.iter().filter(|line| !line.holds).count();
        println!(
            "\n{} attempts: Sluice is stronger in {}, the same in {}, weaker in {}; {} concern the \
             daemon alone; {failed} failed",
            self.attempts.len(),
            count(Verdict::Stronger),
            count(Verdict::Same),
            count(Verdict::Weaker),
            count(Verdict::Own),
        );
        for left in &self.left_behind {
            println!("left behind: {left}");
        }
    }
}

impl Line {
    fn new(case: &Case, rules: Saw, sluice: Saw) -> Self {
        let verdict = Verdict::of(rules.outcome, sluice.outcome);
        let passed = sluice.outcome == Outcome::Passed;
        Self {
            name: case.name,
            attacker: case.who,
            attempt: case.what,
            verdict,
            reason: case.reason,
            holds: !passed || case.reason.is_some(),
            rules,
            sluice,
        }
    }
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Passed => "passed",
            Self::NotApplicable => "not applicable",
        }
    }
}

impl Verdict {
    fn of(rules: Outcome, sluice: Outcome) -> Self {
        match (rules, sluice) {
            (Outcome::NotApplicable, _) => Self::Own,
            (Outcome::Passed, Outcome::Stopped) => Self::Stronger,
            (Outcome::Stopped, Outcome::Passed) => Self::Weaker,
            _ => Self::Same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_compares_outcomes() {
        let (stopped, passed) = (Outcome::Stopped, Outcome::Passed);
        assert_eq!(Verdict::of(passed, stopped), Verdict::Stronger);
        assert_eq!(Verdict::of(stopped, passed), Verdict::Weaker);
        assert_eq!(Verdict::of(passed, passed), Verdict::Same);
        assert_eq!(Verdict::of(Outcome::NotApplicable, stopped), Verdict::Own);
    }
}
