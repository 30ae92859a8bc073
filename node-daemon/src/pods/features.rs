//! The optional features of the kernel, as `status`, `check-kernel` and the log describe them.

use sluice_api::Feature;

use super::Acceleration;
use crate::{bpf::Features, kernel::Release};

/// Where kernels before 6.4 have no fentry: there `all` needs detection of `splice(2)`. Elsewhere a kernel lacks it
/// by its configuration, and the node's owner decides.
const ALL_NEEDS_SPLICE: bool = cfg!(target_arch = "aarch64");

/// Whether acceleration `all` may be used.
pub(crate) fn allow_all(found: Features) -> bool {
    !ALL_NEEDS_SPLICE || found.splice == Some(true)
}

/// The features that were probed, and the impact of those that are missing. Detection of `splice(2)` is not
/// listed where nothing is accelerated.
pub(crate) fn describe(release: &Release, found: Features) -> Vec<Feature> {
    let acceleration = Acceleration::kernel_offsets(release);
    let feature = |name: &str, found, impact_if_missing: &str| Feature {
        name: name.to_owned(),
        found,
        impact_if_missing: impact_if_missing.to_owned(),
    };
    let mut all = vec![
        feature(
            "acceleration",
            acceleration.is_ok(),
            acceleration.as_ref().err().map_or("", String::as_str),
        ),
        feature(
            "mptcp",
            found.mptcp,
            "getpeername of an MPTCP socket returns the proxy address when no alias is used",
        ),
        feature(
            "excluded interfaces",
            found.ingress,
            "a Pod with excludeInterfaces is refused",
        ),
        feature(
            "error of refusals",
            found.set_retval,
            "a refused connect fails with EPERM, where the kernel's own error is EINVAL",
        ),
        feature(
            "socket creators",
            found.creds.valid != 0,
            "owner rules judge the process that connects, not also the one that made the socket",
        ),
    ];
    all.extend(found.splice.map(|found| {
        feature(
            "splice detection",
            found,
            if ALL_NEEDS_SPLICE {
                "acceleration 'all' is limited to 'proxies': on arm64 it needs Linux 6.4"
            } else {
                "with acceleration 'all', applications must not splice"
            },
        )
    }));
    all
}
