//! Acceleration policy: which connections on the node are redirected from socket to socket. Pure.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use sluice_abi::{KernelOffsets, PodFlags};

use crate::{bpf, kernel::Release};

/// The Pod annotation that selects the setting.
pub(crate) const ANNOTATION: &str = "sluice.io/acceleration";

/// The oldest supported kernel, as (major, minor): the oldest series that is tested. The kernel's
/// sockhash has a history of bugs, and interception does not depend on it.
const FIRST: (u32, u32) = (6, 1);

/// The connections that are accelerated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Acceleration {
    /// None.
    Off,
    /// Connections between the proxies of two Pods.
    #[default]
    Proxies,
    /// Also connections between a proxy and its application.
    All,
}

impl Acceleration {
    /// The accepted values, for error messages.
    pub(crate) const CHOICES: &str = "off, proxies or all";

    /// The name in configuration and annotations.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Proxies => "proxies",
            Self::All => "all",
        }
    }

    /// Parses the value of an annotation.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "off" => Some(Self::Off),
            "proxies" => Some(Self::Proxies),
            "all" => Some(Self::All),
            _ => None,
        }
    }

    /// The setting of a Pod on a node with this setting. `wish`: the Pod's annotation.
    pub(crate) fn of_pod(self, wish: Option<Self>) -> Self {
        match self {
            Self::Off => Self::Off,
            node => wish.unwrap_or(node),
        }
    }

    /// The most that the kernel allows: if an application's `splice(2)` is not detected, it could read past
    /// bytes that were redirected to it, so only the proxies' sockets are accelerated.
    pub(crate) fn limited(self, allows_all: bool) -> Self {
        match self {
            Self::All if !allows_all => Self::Proxies,
            safe => safe,
        }
    }

    /// The struct offsets of this kernel that the programs need for acceleration.
    ///
    /// # Errors
    ///
    /// Why acceleration is not available on this kernel.
    pub(crate) fn kernel_offsets(release: &Release) -> Result<KernelOffsets, String> {
        // Read once: the kernel's BTF has megabytes, and every status request needs the result.
        static LAYOUT: LazyLock<Result<KernelOffsets, String>> = LazyLock::new(|| {
            bpf::kernel_offsets().map_err(|error| format!("acceleration is off: {error}"))
        });
        is_new_enough(release)?;
        LAYOUT.clone()
    }

    /// The corresponding flags of the Pod's configuration in the maps.
    pub(crate) fn flags(self) -> PodFlags {
        match self {
            Self::Off => PodFlags::default(),
            Self::Proxies => PodFlags::ACCELERATE_PROXIES,
            Self::All => PodFlags::ACCELERATE_PROXIES.with(PodFlags::ACCELERATE_ALL),
        }
    }
}

fn is_new_enough(release: &Release) -> Result<(), String> {
    if release.is_since(FIRST) {
        return Ok(());
    }
    let (major, minor) = FIRST;
    Err(format!(
        "acceleration is off: Linux {release} is older than {major}.{minor}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_may_choose_unless_the_node_is_off() {
        use Acceleration::{All, Off, Proxies};
        for (node, wish, expected) in [
            (Off, None, Off),
            (Off, Some(All), Off),
            (Proxies, None, Proxies),
            (Proxies, Some(All), All),
            (All, Some(Off), Off),
            (All, None, All),
        ] {
            assert_eq!(node.of_pod(wish), expected, "{node:?} {wish:?}");
        }
    }

    #[test]
    fn old_kernels_and_unknown_ones_are_refused_with_the_reason() {
        for release in ["6.1.0-56-amd64", "6.18.44-fc", "7.0", "10.2.1"] {
            assert_eq!(is_new_enough(&Release::named(release)), Ok(()), "{release}");
        }
        for release in ["5.15.0", "6.0.9", "", "linux"] {
            let reason = is_new_enough(&Release::named(release)).unwrap_err();
            assert!(
                reason.contains(release) && reason.contains("6.1"),
                "{reason}"
            );
        }
    }

    #[test]
    fn all_is_limited_to_proxies_without_splice_detection() {
        use Acceleration::{All, Off, Proxies};
        for (wanted, allows_all, expected) in [
            (All, true, All),
            (All, false, Proxies),
            (Proxies, false, Proxies),
            (Off, false, Off),
        ] {
            let limited = wanted.limited(allows_all);
            assert_eq!(limited, expected, "{wanted:?} {allows_all}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Acceleration::parse(" all "), Some(Acceleration::All));
        assert_eq!(Acceleration::parse("off"), Some(Acceleration::Off));
        assert_eq!(Acceleration::parse("All"), None);
    }
}
