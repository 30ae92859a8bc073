//! The report of the suite: a table, JSON, or `JUnit`'s XML.

mod junit;

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, stdout},
};

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use sluice_lab::backend::BackendKind;
use sluice_testbed::terminal::{GREEN, RED, paint};

use crate::suite::{
    diff::{Comparison, Difference},
    run::Outcome,
};

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// Everything that was seen.
    Json,
    /// For a CI that shows tests.
    Junit,
}

/// Everything that was seen.
#[derive(Serialize)]
pub(crate) struct Report {
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// For each subject, the listed cases in their order.
    pub(crate) backends: BTreeMap<&'static str, Vec<Outcome>>,
    /// Listed cases that two subjects do not show alike.
    pub(crate) listed: Vec<Difference>,
    pub(crate) generated: Vec<Generated>,
    /// Remains of the labs.
    pub(crate) left_behind: Vec<String>,
}

/// Random connections of one seed.
#[derive(Serialize)]
pub(crate) struct Generated {
    pub(crate) seed: u64,
    pub(crate) comparison: Comparison,
    /// Differences, each in the smallest Pod that shows it.
    pub(crate) shrunk: Vec<Difference>,
}

impl Report {
    /// Nothing seen yet.
    pub(crate) fn new() -> Result<Self> {
        let kernel = nix::sys::utsname::uname()?;
        Ok(Self {
            kernel: kernel.release().to_string_lossy().into_owned(),
            backends: BTreeMap::new(),
            listed: Vec::new(),
            generated: Vec::new(),
            left_behind: Vec::new(),
        })
    }

    /// The listed cases on a subject.
    pub(crate) fn add(
        &mut self,
        backend: BackendKind,
        ran: Result<(Vec<Outcome>, Vec<String>)>,
    ) -> Result<()> {
        let (outcomes, left) = ran?;
        self.backends.insert(backend.name(), outcomes);
        self.left_behind.extend(left);
        Ok(())
    }

    /// Compares the observations of two subjects for the listed cases.
    pub(crate) fn compare(&mut self, one: BackendKind, other: BackendKind) {
        let shown = |backend: BackendKind| {
            self.backends
                .get(backend.name())
                .cloned()
                .unwrap_or_default()
        };
        let (one, other) = (shown(one), shown(other));
        let pairs = one.iter().zip(&other);
        self.listed = pairs
            .flat_map(|(one, other)| one.differences(other))
            .collect();
    }

    /// No difference that nothing explains.
    pub(crate) fn same(&self) -> bool {
        let meant = |difference: &Difference| difference.meant.is_some();
        let generated = self.generated.iter();
        let mut all = generated
            .flat_map(|one| &one.comparison.differences)
            .chain(&self.listed);
        all.all(meant) && self.left_behind.is_empty()
    }

    /// Everything as it should be.
    pub(crate) fn passed(&self) -> bool {
        let bad = |outcome: &Outcome| !outcome.as_it_should;
        self.same() && !self.backends.values().flatten().any(bad)
    }

    /// How often each exception showed.
    fn exceptions(&self) -> BTreeMap<&'static str, usize> {
        let generated = self
            .generated
            .iter()
            .flat_map(|one| &one.comparison.differences);
        let differences = self
            .listed
            .iter()
            .chain(generated)
            .filter_map(|one| one.meant);
        let mut counts = BTreeMap::new();
        for exception in differences {
            *counts.entry(exception.what).or_default() += 1;
        }
        counts
    }

    /// On standard output.
    pub(crate) fn print(&self, format: Format) -> Result<()> {
        match format {
            Format::Table => self.table(),
            Format::Json => println!("{}", serde_json::to_string_pretty(self)?),
            Format::Junit => println!("{}", junit::write(self)?),
        }
        Ok(())
    }

    fn table(&self) {
        let colours = stdout().is_terminal();
        let red = |text: &str| paint(RED, text, colours);
        let Some(first) = self.backends.values().next() else {
            return;
        };
        let names: Vec<_> = COLUMNS
            .into_iter()
            .filter(|name| self.backends.contains_key(name))
            .collect();
        print!("{:<76}", "");
        for name in &names {
            print!("{name:>9}");
        }
        println!();
        for (index, case) in first.iter().enumerate() {
            let outcomes = names
                .iter()
                .filter_map(|name| self.backends.get(name)?.get(index));
            let marks: String = outcomes
                .clone()
                .map(|outcome| mark(outcome, colours))
                .collect();
            println!("{:<76}{marks}", format!("{}: {}", case.group, case.name));
            for outcome in outcomes.filter(|outcome| !outcome.as_it_should) {
                outcome
                    .wrong
                    .iter()
                    .for_each(|wrong| println!("    {}", red(wrong)));
            }
        }
        println!("\n  ✓ as promised   · fails, as it must without interception   ✗ wrong");
        for (name, outcomes) in &self.backends {
            let good = outcomes
                .iter()
                .filter(|outcome| outcome.as_it_should)
                .count();
            let all = outcomes.len();
            println!("  {name}: {good} of {all} cases as they should be");
        }
        self.differences(&red);
        for left in &self.left_behind {
            println!("  {}", red(&format!("left behind: {left}")));
        }
        let verdict = if self.passed() {
            paint(GREEN, "passed", colours)
        } else {
            red("failed")
        };
        println!("{verdict}, kernel {}", self.kernel);
    }

    fn differences(&self, red: &dyn Fn(&str) -> String) {
        if self.backends.len() > 1 {
            println!("  listed cases: {}", count(&self.listed));
        }
        let unknown = self
            .listed
            .iter()
            .filter(|difference| difference.meant.is_none());
        for difference in unknown {
            println!("    {}", red(&difference.to_string()));
        }
        for Generated {
            seed,
            comparison,
            shrunk,
        } in &self.generated
        {
            let Comparison {
                connections,
                pods,
                differences,
            } = comparison;
            println!(
                "  seed {seed}: {connections} connections in {pods} Pods: {}",
                count(differences)
            );
            for difference in shrunk {
                println!("    {}", red(&difference.to_string()));
            }
        }
        for (exception, count) in self.exceptions() {
            println!("  meant, {count} times: {exception}");
        }
    }
}

/// The order of the table: the control, the reference, the product.
const COLUMNS: [&str; 3] = ["none", "iptables", "sluice"];

fn mark(outcome: &Outcome, colours: bool) -> String {
    match (outcome.as_it_should, outcome.passed) {
        (true, true) => paint(GREEN, &format!("{:>9}", "✓"), colours),
        (true, false) => format!("{:>9}", "·"),
        (false, _) => paint(RED, &format!("{:>9}", "✗"), colours),
    }
}

fn count(differences: &[Difference]) -> String {
    let unknown = differences
        .iter()
        .filter(|difference| difference.meant.is_none())
        .count();
    let meant = differences.len() - unknown;
    format!("{unknown} unknown differences, {meant} that are meant")
}
