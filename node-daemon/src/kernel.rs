//! The running kernel: its release, and its required features. Whether a kernel is supported is found by
//! loading and trying; its release only explains a failure.

use std::{fmt, path::Path};

use anyhow::Context as _;
use nix::sys::utsname::uname;

use crate::{
    bpf::{self, Datapath, Options, Pins},
    netns,
};

/// The oldest kernel on which every program loads without backports.
pub(crate) const OLDEST: (u32, u32) = (5, 15);

/// The release of a kernel, such as `6.1.0-18-amd64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Release(String);

impl Release {
    /// That of the running kernel; empty if the kernel does not report it.
    pub(crate) fn running() -> Self {
        let name = uname().map(|name| name.release().to_string_lossy().into_owned());
        Self(name.unwrap_or_default())
    }

    /// A release by its name.
    #[cfg(test)]
    pub(crate) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Major and minor number, if the release begins with them.
    fn series(&self) -> Option<(u32, u32)> {
        let mut numbers = self.0.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next()?.parse().ok();
        Some((number()?, number()?))
    }

    /// Whether the kernel is older than a series. One without numbers may be anything.
    pub(crate) fn is_before(&self, series: (u32, u32)) -> bool {
        self.series().is_some_and(|own| own < series)
    }

    /// Whether the kernel is of a series or a later one. One without numbers is not.
    pub(crate) fn is_since(&self, series: (u32, u32)) -> bool {
        self.series().is_some_and(|own| own >= series)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks a feature that every ADD needs and no program uses: the list of a network namespace's TCP sockets.
///
/// # Errors
///
/// If the kernel has no such list, with the remedy.
pub(crate) fn require_socket_diagnostics() -> anyhow::Result<()> {
    netns::probe_socket_diagnostics().context(
        "the kernel does not list TCP sockets, by which the listeners of proxies are found: load its module with \
         'modprobe tcp_diag', or use a kernel with CONFIG_INET_DIAG",
    )
}

/// Opens the datapath on a kernel with the required features.
///
/// # Errors
///
/// The missing features. If the kernel is older than [`OLDEST`], the error says so first.
pub(crate) fn open_datapath(
    pins: Pins,
    cgroup: &Path,
    options: Options,
) -> anyhow::Result<Datapath> {
    require_socket_diagnostics()?;
    let opened = Datapath::open(pins, cgroup, options);
    opened.map_err(|error| explain(error, &Release::running()))
}

/// Adds the age of the kernel to an error that it may have caused.
fn explain(error: bpf::Error, release: &Release) -> anyhow::Error {
    let is_rejected = error.is_rejection();
    let error = anyhow::Error::new(error);
    let (major, minor) = OLDEST;
    if is_rejected && release.is_before(OLDEST) {
        return error.context(format!(
            "Linux {release} is too old: Sluice needs Linux {major}.{minor} or later"
        ));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_is_compared_by_its_series() {
        for (name, before, since) in [
            ("5.10.0-32-amd64", true, false),
            ("5.14.0-427.el9", true, false),
            ("5.15.0", false, true),
            ("6.1.0-50-amd64", false, true),
            ("10.2.1", false, true),
            ("", false, false),
            ("linux", false, false),
        ] {
            let release = Release::named(name);
            assert_eq!(release.is_before(OLDEST), before, "{name}");
            assert_eq!(release.is_since(OLDEST), since, "{name}");
        }
    }

    #[test]
    fn rejection_by_an_old_kernel_names_the_oldest() {
        let missing = || bpf::Error::Missing { name: "connect4" };
        let old = explain(missing(), &Release::named("5.10.0"));
        assert!(!old.to_string().contains("5.15"), "{old}");
        let rejected = || bpf::Error::rejected_for_test("connect4", "log\nof the verifier");
        let old = explain(rejected(), &Release::named("5.10.0")).to_string();
        assert_eq!(
            old,
            "Linux 5.10.0 is too old: Sluice needs Linux 5.15 or later"
        );
        let new = explain(rejected(), &Release::named("6.18.0")).to_string();
        assert!(!new.contains("too old"), "{new}");
    }
}
