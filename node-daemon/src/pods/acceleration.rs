//! Which connections on the node go from socket to socket. Pure.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use sluice_abi::{KernelOffsets, PodFlags};

use crate::bpf;

/// The annotation by which a Pod chooses.
pub(crate) const ANNOTATION: &str = "sluice.io/acceleration";

/// The first Linux that is taken, as (major, minor): the oldest series on which it is tested.
/// Sockets in a sockhash have a history of faults, and interception does not need them.
const FIRST: (u32, u32) = (6, 1);

/// Which connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Acceleration {
    /// None.
    #[default]
    Off,
    /// Those between the proxies of two Pods.
    Proxies,
    /// Those between a proxy and its application as well.
    All,
}

impl Acceleration {
    /// Every choice, as it is written.
    pub(crate) const CHOICES: &str = "off, proxies or all";

    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Proxies => "proxies",
            Self::All => "all",
        }
    }

    /// As it is written in an annotation.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "off" => Some(Self::Off),
            "proxies" => Some(Self::Proxies),
            "all" => Some(Self::All),
            _ => None,
        }
    }

    /// What a Pod gets that wishes for something, or for nothing, on a node with this setting.
    pub(crate) fn of_pod(self, wish: Option<Self>) -> Self {
        match self {
            Self::Off => Self::Off,
            node => wish.unwrap_or(node),
        }
    }

    /// What the programs must know of this kernel for any of it.
    ///
    /// # Errors
    ///
    /// Why nothing can be accelerated on it.
    pub(crate) fn kernel_offsets(release: &str) -> Result<KernelOffsets, String> {
        // Read once: the kernel's BTF has megabytes, and every status asks.
        static LAYOUT: LazyLock<Result<KernelOffsets, String>> = LazyLock::new(|| {
            bpf::kernel_offsets().map_err(|error| format!("acceleration is off: {error}"))
        });
        is_new_enough(release)?;
        LAYOUT.clone()
    }

    /// As the kernel programs are told.
    pub(crate) fn flags(self) -> PodFlags {
        match self {
            Self::Off => PodFlags::default(),
            Self::Proxies => PodFlags::ACCELERATE_PROXIES,
            Self::All => PodFlags::ACCELERATE_PROXIES.with(PodFlags::ACCELERATE_ALL),
        }
    }
}

fn is_new_enough(release: &str) -> Result<(), String> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    let (major, minor) = FIRST;
    match (number(), number()) {
        (Some(a), Some(b)) if (a, b) >= FIRST => Ok(()),
        _ => Err(format!(
            "acceleration is off: Linux {release} is older than {major}.{minor}"
        )),
    }
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
            assert_eq!(is_new_enough(release), Ok(()), "{release}");
        }
        for release in ["5.15.0", "6.0.9", "", "linux"] {
            let reason = is_new_enough(release).unwrap_err();
            assert!(
                reason.contains(release) && reason.contains("6.1"),
                "{reason}"
            );
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Acceleration::parse(" all "), Some(Acceleration::All));
        assert_eq!(Acceleration::parse("off"), Some(Acceleration::Off));
        assert_eq!(Acceleration::parse("All"), None);
    }
}
