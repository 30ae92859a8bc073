//! The checks of a scenario, printed as they end.

use std::{
    io::{IsTerminal, Write, stdout},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// The checks so far.
#[derive(Default)]
pub(crate) struct Checks {
    failed: bool,
}

impl Checks {
    /// Runs a check, and prints its result or its error.
    pub(crate) fn check(&mut self, what: &str, check: impl FnOnce() -> Result<String>) {
        let started = Instant::now();
        if stdout().is_terminal() {
            print!("… {what}");
            let _ = stdout().flush();
        }
        let outcome = check();
        let took = started.elapsed().as_secs_f64();
        let clear = if stdout().is_terminal() {
            "\r\x1b[K"
        } else {
            ""
        };
        match outcome {
            Ok(seen) => println!("{clear}✓ {what} ({took:.1} s)\n    {seen}"),
            Err(error) => {
                self.failed = true;
                println!("{clear}✗ {what} ({took:.1} s)\n    {error:#}");
            }
        }
    }

    /// As [`Checks::check`], for a step that every later step needs.
    pub(crate) fn require(
        &mut self,
        what: &str,
        check: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        self.check(what, check);
        if self.failed {
            bail!("stopped at: {what}");
        }
        Ok(())
    }

    /// As [`Checks::require`], for a step whose outcome later steps use.
    pub(crate) fn obtain<T>(
        &mut self,
        what: &str,
        step: impl FnOnce() -> Result<(T, String)>,
    ) -> Result<T> {
        let mut outcome = None;
        self.require(what, || {
            let (value, seen) = step()?;
            outcome = Some(value);
            Ok(seen)
        })?;
        outcome.with_context(|| format!("stopped at: {what}"))
    }

    /// Whether every check passed.
    pub(crate) fn passed(&self) -> bool {
        !self.failed
    }
}
