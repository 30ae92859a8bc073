//! The errors of the Pod manager, and their mapping to the API.

use std::{error::Error as StdError, net::IpAddr, path::PathBuf};

use sluice_api::{ApiError, Attachment, code};

use super::{addresses, bypass, rule_set, settings, store};
use crate::{bpf, netns, refusals::Refusal};

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The Pod's annotations.
    #[error(transparent)]
    Policy(#[from] settings::Error),
    /// The Pod's netns.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The Pod's addresses.
    #[error(transparent)]
    Address(#[from] addresses::Error),
    /// The Pod's excluded interfaces.
    #[error(transparent)]
    Bypass(#[from] bypass::Error),
    /// The Pod's share of a map.
    #[error(transparent)]
    Share(#[from] rule_set::Error),
    /// An address that another Pod has.
    #[error("{address} belongs to the Pod {other_pod}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// The other Pod.
        other_pod: String,
    },
    /// A request that names an unknown Pod.
    #[error("no Pod here has the name, the address or the container '{0}'")]
    NoSuchPod(String),
    /// The netns of another Pod.
    #[error("'{}' is the network namespace of the Pod {other_pod}", netns.display())]
    Occupied {
        /// The path of the netns.
        netns: PathBuf,
        /// The other Pod.
        other_pod: String,
    },
    /// Programs, links or maps.
    #[error(transparent)]
    Kernel(#[from] bpf::Error),
    /// Some steps of unenrolling the Pod failed.
    #[error("the Pod was not removed completely ({} errors)", errors.len())]
    Teardown {
        /// The errors.
        errors: Vec<Error>,
    },
    /// The kernel does not report the interface of a connection.
    #[error("virtual interfaces need Linux 5.17")]
    Rerouting,
    /// The netns vanished during enrollment.
    #[error("the Pod's network namespace is gone")]
    Gone,
    /// The Pod has no record.
    #[error(
        "unknown attachment: container '{}', interface '{}', network '{}'",
        .0.container_id, .0.ifname, .0.network
    )]
    Unknown(Attachment),
    /// The kernel state differs from the desired state.
    #[error("{what}: the kernel has {present}, not {expected}")]
    Differs {
        /// The part of the state.
        what: String,
        /// The desired value.
        expected: String,
        /// The actual value.
        present: String,
    },
    /// A Pod's record.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A record contradicts the configuration.
    #[error("the configuration changed: recreate the Pod")]
    Changed,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

pub(crate) const HAND_OVER: &str = "the plugin's entry in the network configuration must declare \
     \"capabilities\": {\"io.kubernetes.cri.pod-annotations\": true}, and containerd must be 1.5 \
     or newer, CRI-O 1.29 or newer";
const SHORTEN: &str = "list fewer items, or ranges such as 8000-8999 and wider networks: neighbouring \
     ports count as one range";
const UNSUPPORTED: &str = "remove the annotation, or keep the Pod on the sidecar's iptables rules \
     on a node without Sluice";

impl Error {
    /// Whether it is unknown if the Pod has a sidecar.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Policy(settings::Error::NotHandedOver))
    }

    /// Whether the machine lacks descriptors, memory or threads to open the Pod's netns.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(self, Self::Netns(error) if error.is_shortage())
    }

    /// The reason of a refused ADD.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Self::Policy(settings::Error::NotHandedOver) => Refusal::AnnotationsUnavailable,
            Self::Policy(settings::Error::NoLabels) => Refusal::SpecUnavailable,
            Self::Policy(_) | Self::Bypass(_) | Self::Rerouting | Self::Changed => {
                Refusal::PodSettings
            }
            Self::Share(rule_set::Error::Addresses { .. })
            | Self::Address(_)
            | Self::Taken { .. } => Refusal::Address,
            Self::Share(_) => Refusal::Share,
            Self::Netns(netns::Error::Panic) => Refusal::Internal,
            Self::Netns(_) | Self::Occupied { .. } | Self::Gone => Refusal::Netns,
            Self::Store(_) => Refusal::Record,
            Self::Stopping => Refusal::Stopping,
            Self::Kernel(_)
            | Self::Teardown { .. }
            | Self::Unknown(_)
            | Self::NoSuchPod(_)
            | Self::Differs { .. } => Refusal::Kernel,
        }
    }

    /// The error of the API contract.
    pub(crate) fn api_error(&self) -> ApiError {
        let code = match self {
            Self::Policy(settings::Error::NotHandedOver | settings::Error::NoLabels)
            | Self::Stopping => code::TRY_AGAIN_LATER,
            Self::Share(rule_set::Error::Addresses { .. })
            | Self::Address(_)
            | Self::Taken { .. } => code::ADDRESS_REFUSED,
            Self::Policy(_) | Self::Bypass(_) | Self::Rerouting | Self::Share(_) => {
                code::POD_REFUSED
            }
            Self::Netns(
                netns::Error::Open { .. }
                | netns::Error::NotNetns { .. }
                | netns::Error::Host { .. },
            )
            | Self::Occupied { .. }
            | Self::Gone => code::NETNS_REFUSED,
            Self::Netns(_) | Self::Kernel(_) | Self::Teardown { .. } => code::KERNEL_REFUSED,
            Self::Store(_) => code::IO_FAILURE,
            Self::Unknown(_) | Self::NoSuchPod(_) => code::UNKNOWN_CONTAINER,
            Self::Differs { .. } | Self::Changed => code::STATE_DIFFERS,
        };
        ApiError {
            code,
            message: self.to_string(),
            details: self.details(),
        }
    }

    fn details(&self) -> String {
        match self {
            Self::Policy(settings::Error::NotHandedOver) => HAND_OVER.to_owned(),
            Self::Policy(
                settings::Error::Unsupported { .. } | settings::Error::NotKnown { .. },
            )
            | Self::Bypass(_)
            | Self::Rerouting => UNSUPPORTED.to_owned(),
            Self::Share(rule_set::Error::AddRule { .. }) => SHORTEN.to_owned(),
            Self::Teardown { errors } => {
                let each: Vec<_> = errors.iter().map(|error| one_line(error)).collect();
                each.join("; ")
            }
            other => causes(other),
        }
    }
}

/// An error with its sources, on one line.
pub(crate) fn one_line(error: &dyn StdError) -> String {
    match causes(error) {
        none if none.is_empty() => error.to_string(),
        causes => format!("{error}: {causes}"),
    }
}

/// The sources of an error.
fn causes(error: &dyn StdError) -> String {
    let below = std::iter::successors(error.source(), |&error| error.source());
    let words: Vec<_> = below.map(ToString::to_string).collect();
    words.join(": ")
}
