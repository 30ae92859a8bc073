//! The result of one check.

use std::process::ExitCode;

use serde::Serialize;
use sluice_api::text::Printable;

/// The severity of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    /// Nothing to do.
    Ok,
    /// The check is not possible here.
    Skipped,
    /// Pods work; an operator should examine the finding.
    Warning,
    /// Pods do not start, are refused connections, or bypass their sidecars.
    Problem,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }

    /// 0 without warnings and problems, 1 with a problem, 4 with warnings only. 2 is a wrong usage.
    pub(super) fn exit_code(self) -> ExitCode {
        match self {
            Self::Ok | Self::Skipped => ExitCode::SUCCESS,
            Self::Problem => ExitCode::FAILURE,
            Self::Warning => ExitCode::from(4),
        }
    }
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(
    clippy::struct_field_names,
    reason = "the key of the JSON that the documentation states"
)]
pub(crate) struct Check {
    /// The subject.
    pub(crate) check: &'static str,
    /// The severity.
    pub(crate) level: Level,
    /// The finding, in one line.
    pub(crate) found: String,
    /// The remedy; empty if there is nothing to do.
    pub(crate) remedy: String,
}

impl Check {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, found, "")
    }

    pub(super) fn skipped(check: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        Self::new(check, Level::Skipped, found, remedy)
    }

    pub(super) fn warning(check: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        Self::new(check, Level::Warning, found, remedy)
    }

    pub(super) fn problem(check: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        Self::new(check, Level::Problem, found, remedy)
    }

    fn new(check: &'static str, level: Level, found: impl Into<String>, remedy: &str) -> Self {
        Self {
            check,
            level,
            found: found.into(),
            remedy: remedy.to_owned(),
        }
    }
}

/// The most severe level.
pub(super) fn worst(checks: &[Check]) -> Level {
    let levels = checks.iter().map(|check| check.level);
    levels.max().unwrap_or(Level::Ok)
}

/// The results as text, with a summary.
pub(crate) fn page(checks: &[Check]) -> String {
    let mut lines = Vec::new();
    for check in checks {
        let found = Printable::new(&check.found);
        lines.push(format!(
            "{:<8} {:<14} {found}",
            check.level.name(),
            check.check
        ));
        if !check.remedy.is_empty() {
            lines.push(format!("{:23} → {}", "", Printable::new(&check.remedy)));
        }
    }
    let count = |level| checks.iter().filter(|check| check.level == level).count();
    lines.push(format!(
        "\nproblems: {}, warnings: {}, skipped: {}",
        count(Level::Problem),
        count(Level::Warning),
        count(Level::Skipped)
    ));
    lines.join("\n")
}
