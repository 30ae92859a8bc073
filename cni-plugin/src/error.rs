//! The errors of an invocation and their codes (CNI spec 1.1.0, section "Error").

use std::{io, path::PathBuf};

use serde_json::{Value, json};
use sluice_api::{ApiError, MAX_BODY, code, text::Printable};

use crate::spec::{SUPPORTED, Verb};

/// The reason why an invocation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable is missing or malformed.
    #[error("{variable} {problem}")]
    Environment {
        /// Its name.
        variable: &'static str,
        /// The problem, and the permitted values.
        problem: String,
    },
    /// Standard input could not be read.
    #[error("the configuration on standard input cannot be read")]
    Stdin(#[source] io::Error),
    /// Standard input is not JSON.
    #[error("the configuration on standard input is not JSON")]
    Json(#[source] serde_json::Error),
    /// A key of the configuration has an invalid value.
    #[error("{key} {problem}")]
    Config {
        /// The key, as a path such as `prevResult.ips[1].address`.
        key: String,
        /// The problem, and the permitted values.
        problem: String,
    },
    /// The configuration has an unknown key.
    #[error("the configuration has the unknown key '{key}' with the value {value}")]
    UnknownKey {
        /// The key.
        key: String,
        /// Its value, truncated.
        value: String,
        /// The keys that are this plugin's own.
        allowed: &'static [&'static str],
    },
    /// The configuration's version is not supported.
    #[error("CNI version '{version}' is not supported")]
    Version {
        /// The version.
        version: String,
    },
    /// The verb does not exist in the configuration's version.
    #[error("{verb} exists since CNI {since}, and the configuration says {version}")]
    VerbTooNew {
        /// The verb.
        verb: Verb,
        /// The first version that has it.
        since: &'static str,
        /// The version of the configuration.
        version: String,
    },
    /// The daemon did not answer in time, or sent an invalid response.
    #[error("sluiced does not answer on {}", socket.display())]
    Daemon {
        /// The daemon's socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The request is larger than the daemon accepts.
    #[error(
        "the request has {bytes} bytes, and sluiced accepts {MAX_BODY}: the Pod's annotations, or the list \
         of valid attachments, are too large"
    )]
    RequestTooLarge {
        /// The size of its body.
        bytes: usize,
    },
    /// ADD: a stale pending DEL of the attachment could not be removed, and the daemon might replay it.
    #[error("failed to remove the stale deletion marker")]
    StaleDelMarker(#[source] io::Error),
    /// STATUS: the daemon does not answer. Its programs in the kernel stay active.
    #[error("sluiced cannot accept Pods: {reason}")]
    NotAvailable {
        /// The cause.
        reason: String,
    },
    /// STATUS: the daemon reports a damaged data path.
    #[error("no Pod can be added to the mesh now, and running Pods may be affected: {reason}")]
    Degraded {
        /// The cause.
        reason: String,
    },
    /// The daemon returned an error.
    #[error("{}", .0.message)]
    Refused(ApiError),
}

/// Spec 1.1.0, STATUS: the plugin is not available.
const NOT_AVAILABLE: u32 = 50;
/// Spec 1.1.0, STATUS: not available, and existing containers may have limited connectivity.
const DEGRADED: u32 = 51;
/// Spec 1.1.0: incompatible CNI version.
const INCOMPATIBLE_VERSION: u32 = 1;

impl Error {
    /// The code of the error object.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::Environment { .. } => code::INVALID_ENVIRONMENT,
            Self::Stdin(_) | Self::StaleDelMarker(_) => code::IO_FAILURE,
            Self::Json(_) | Self::RequestTooLarge { .. } => code::DECODE_FAILURE,
            Self::Config { .. } => code::INVALID_CONFIG,
            Self::UnknownKey { .. } => code::UNSUPPORTED_FIELD,
            Self::Version { .. } | Self::VerbTooNew { .. } => INCOMPATIBLE_VERSION,
            Self::Daemon { .. } => code::TRY_AGAIN_LATER,
            Self::NotAvailable { .. } => NOT_AVAILABLE,
            Self::Degraded { .. } => DEGRADED,
            Self::Refused(api_error) => api_error.code,
        }
    }

    /// The cause, or the remedy.
    pub(crate) fn details(&self) -> String {
        match self {
            Self::Stdin(source) | Self::StaleDelMarker(source) => source.to_string(),
            Self::Json(source) => source.to_string(),
            Self::UnknownKey { allowed, .. } => {
                format!(
                    "keys of sluice-cni besides those of the spec: {}",
                    allowed.join(", ")
                )
            }
            Self::Version { .. } => format!("supported: {}", SUPPORTED.join(", ")),
            Self::Daemon { source, .. } => {
                format!("{source}; is the DaemonSet's Pod of Sluice running on this node?")
            }
            Self::Refused(api_error) => api_error.details.clone(),
            Self::Environment { .. }
            | Self::Config { .. }
            | Self::RequestTooLarge { .. }
            | Self::VerbTooNew { .. }
            | Self::NotAvailable { .. }
            | Self::Degraded { .. } => String::new(),
        }
    }

    /// The error object for standard output. Its texts may quote untrusted values, and runtimes log
    /// them unchanged: each is escaped to one line.
    #[must_use]
    pub fn to_json(&self, version: &str) -> Value {
        let mut object = json!({
            "cniVersion": version,
            "code": self.code(),
            "msg": Printable::new(self).to_string(),
        });
        let details = self.details();
        if !details.is_empty() {
            object["details"] = Printable::new(details).to_string().into();
        }
        object
    }
}
