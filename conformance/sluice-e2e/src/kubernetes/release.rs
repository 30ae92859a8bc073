//! The release of Kubernetes, and what changed with it.

use std::{fmt, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use sluice_testbed::process::output;

const LIMIT: Duration = Duration::from_secs(30);

/// `1.MINOR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release(u32);

impl Release {
    /// The kubelet reads the runtime's endpoint from its configuration; `--container-runtime` is gone.
    pub(crate) const CONFIGURED_ENDPOINT: Self = Self(27);
    /// `ValidatingAdmissionPolicy` is stable.
    pub(crate) const ADMISSION_POLICIES: Self = Self(30);
    /// The kubelet may refuse version 1 of cgroups, and later does by default.
    pub(crate) const CGROUPS_REFUSED: Self = Self(31);
    /// Native sidecars and `hostUsers: false` without feature gates.
    pub(crate) const USER_NAMESPACES: Self = Self(33);

    /// That of a program.
    pub(crate) fn of(program: &Path) -> Result<Self> {
        let said = output(Command::new(program).arg("--version"), LIMIT)?;
        Self::parse(&said).with_context(|| format!("no release of Kubernetes 1: {said}"))
    }

    /// `Kubernetes v1.20.2`.
    fn parse(said: &str) -> Option<Self> {
        let (_, rest) = said.split_once("v1.")?;
        let digits = rest.find(|one: char| !one.is_ascii_digit());
        let minor = &rest[..digits.unwrap_or(rest.len())];
        minor.parse().ok().map(Self)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "1.{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_from_what_programs_print() {
        for (said, release) in [
            ("Kubernetes v1.20.2\n", Some("1.20")),
            ("Kubernetes v1.36.2-alpha.1+98b35193b2ac7a", Some("1.36")),
            ("Kubernetes v2.0.0", None),
            ("", None),
        ] {
            let read = Release::parse(said).map(|release| release.to_string());
            assert_eq!(read.as_deref(), release, "{said}");
        }
    }
}
