//! The daemon's answers, on which the checks are based.

use std::{io, os::unix::net::UnixStream, path::Path, time::Duration};

use anyhow::Context as _;
use hyper::Method;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use sluice_api::{AuditRequest, AuditResponse, PodView, Status, path};

use crate::client;

/// Whether the daemon can be reached.
#[derive(Debug)]
pub(super) enum Reached {
    /// It answers.
    Yes {
        /// Its process id, if it is in the same PID namespace.
        pid: Option<i32>,
    },
    /// Nothing listens on the socket.
    NotRunning(io::Error),
    /// It accepts connections, and does not answer.
    Hung,
}

impl Reached {
    pub(super) fn by(socket: &Path, timeout: Duration) -> Self {
        let stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error) => return Self::NotRunning(error),
        };
        let peer = getsockopt(&stream, PeerCredentials).ok();
        // A liveness request needs neither the manager nor the kernel.
        match client::call(socket, Method::GET, path::HEALTHZ, Vec::new(), timeout) {
            Ok(_) => Self::Yes {
                pid: peer.map(|peer| peer.pid()).filter(|pid| *pid > 0),
            },
            Err(_) => Self::Hung,
        }
    }
}

/// The answers.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) status: Status,
    pub(super) pods: Vec<PodView>,
    pub(super) audit: AuditResponse,
    pub(super) metrics: Samples,
}

impl Answers {
    pub(super) fn of(socket: &Path, timeout: Duration) -> anyhow::Result<Self> {
        let get = |path| {
            client::call(socket, Method::GET, path, Vec::new(), timeout).with_context(|| path)
        };
        let audit = serde_json::to_vec(&AuditRequest::default())?;
        let audit = client::call(socket, Method::POST, path::AUDIT, audit, timeout)?;
        Ok(Self {
            status: serde_json::from_slice(&get(path::STATUS)?)?,
            pods: serde_json::from_slice(&get(path::PODS)?)?,
            audit: serde_json::from_slice(&audit)?,
            metrics: Samples(String::from_utf8_lossy(&get(path::METRICS)?).into_owned()),
        })
    }
}

/// A page of metrics.
#[derive(Debug)]
pub(super) struct Samples(pub(super) String);

impl Samples {
    /// The sum of the samples whose name and labels begin so.
    pub(super) fn sum(&self, begin: &str) -> f64 {
        self.all(begin).map(|(_, value)| value).sum()
    }

    /// The samples whose name and labels begin so.
    pub(super) fn all<'a>(&'a self, begin: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let samples = self.0.lines().filter(move |line| line.starts_with(begin));
        samples.filter_map(|line| {
            let (labels, value) = line.rsplit_once(' ')?;
            Some((labels, value.parse().ok()?))
        })
    }
}
