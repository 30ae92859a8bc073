//! Errors of requests, and their HTTP status.

use std::error::Error as _;

use hyper::{Method, StatusCode};
use sluice_api::{ApiError, code, text::Printable};

use crate::{kube, pods, ztunnel};

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("only root may use the daemon's socket, not uid {uid}")]
    Peer { uid: u32 },
    #[error("unknown path {path}")]
    NotFound { path: String },
    #[error("{path} takes {allowed} only")]
    Method { path: &'static str, allowed: Method },
    #[error("the body is larger than {} bytes", sluice_api::MAX_BODY)]
    TooLarge,
    #[error("the body did not arrive within {seconds} seconds")]
    BodyTimeout { seconds: u64 },
    #[error("the body could not be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("invalid request body: {0}")]
    Json(serde_json::Error),
    #[error("the answer took longer than {seconds} seconds")]
    Timeout { seconds: u64 },
    #[error("the daemon serves {limit} {what} at a time; the limit is reached")]
    Busy { what: &'static str, limit: usize },
    #[error("the answer could not be written: {0}")]
    Answer(String),
    #[error("the runtime did not pass the Pod's annotations, and no API server provides them")]
    Unknown(#[source] kube::Error),
    #[error("the proxy's user is read from the Pod's spec, and that is not known")]
    NoManifest(#[source] kube::Error),
    #[error("labels select the mesh's Pods, and the Pod's are not known")]
    NoLabels(#[source] kube::Error),
    #[error("the Pod was not enrolled in ambient mode")]
    Ztunnel(#[from] ztunnel::Error),
    #[error("sluiced cannot accept Pods: {}", problems.join("; "))]
    NotReady { problems: Vec<String> },
    #[error(transparent)]
    Pods(#[from] pods::Error),
}

impl Error {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Peer { .. } => StatusCode::FORBIDDEN,
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Body(_) | Self::Json(_) => StatusCode::BAD_REQUEST,
            Self::Timeout { .. }
            | Self::Busy { .. }
            | Self::Unknown(_)
            | Self::NoManifest(_)
            | Self::NoLabels(_)
            | Self::Ztunnel(_)
            | Self::NotReady { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Answer(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Pods(error) => match error.api_error().code {
                code::TRY_AGAIN_LATER => StatusCode::SERVICE_UNAVAILABLE,
                code::UNKNOWN_CONTAINER => StatusCode::NOT_FOUND,
                code::STATE_DIFFERS => StatusCode::CONFLICT,
                code::POD_REFUSED | code::NETNS_REFUSED | code::ADDRESS_REFUSED => {
                    StatusCode::UNPROCESSABLE_ENTITY
                }
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    /// The error of the API contract. Both texts may quote untrusted input: each becomes one line.
    pub(super) fn api_error(&self) -> ApiError {
        let ApiError {
            code,
            message,
            details,
        } = self.unescaped();
        ApiError {
            code,
            message: Printable::new(message).to_string(),
            details: Printable::new(details).to_string(),
        }
    }

    fn unescaped(&self) -> ApiError {
        let code = match self {
            Self::Pods(error) => return error.api_error(),
            Self::Timeout { .. }
            | Self::Busy { .. }
            | Self::Unknown(_)
            | Self::NoManifest(_)
            | Self::NoLabels(_)
            | Self::Ztunnel(_)
            | Self::NotReady { .. } => code::TRY_AGAIN_LATER,
            Self::Body(_) | Self::BodyTimeout { .. } | Self::Answer(_) | Self::Peer { .. } => {
                code::IO_FAILURE
            }
            Self::NotFound { .. } | Self::Method { .. } | Self::TooLarge | Self::Json(_) => {
                code::DECODE_FAILURE
            }
        };
        ApiError {
            code,
            message: self.to_string(),
            details: self.details(),
        }
    }

    fn details(&self) -> String {
        let below = std::iter::successors(self.source(), |&error| error.source());
        let causes: Vec<_> = below.map(ToString::to_string).collect();
        let causes = causes.join(": ");
        match self {
            Self::Unknown(_) => format!("{causes}; {}", pods::HAND_OVER),
            Self::NoManifest(_) => format!(
                "{causes}; give the daemon access to the API server, or set proxy-user to \"mesh\""
            ),
            Self::NoLabels(_) => {
                format!("{causes}; give the daemon access to Pods and namespaces of the API server")
            }
            Self::Ztunnel(ztunnel::Error::Absent { .. } | ztunnel::Error::Timeout) => format!(
                "{causes}; the ztunnel DaemonSet must run on this node and mount the socket's directory"
            ),
            _ => causes,
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_api::text::LONGEST;

    use super::*;

    #[test]
    fn refusals_are_one_printable_line() {
        let path = format!("/v1/\u{1b}[2J\n\u{202e}{}", "x".repeat(1 << 20));
        let ApiError {
            message, details, ..
        } = Error::NotFound { path }.api_error();
        assert!(
            message.contains("/v1/\\u{1b}[2J\\n\\u{202e}xxx"),
            "{message}"
        );
        assert_eq!(message.chars().count(), LONGEST);
        assert_eq!(details, "");
        let source = std::io::Error::other("a\nb\u{9b}".repeat(LONGEST));
        let details = Error::Body(source.into()).api_error().details;
        assert!(details.starts_with("a\\nb\\u{9b}a"), "{details}");
        assert!(!details.contains('\n'), "{details}");
    }
}
