//! The control: Pods without any interception.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::{
    backend::{Backend, Counters, passthrough_address},
    pod_annotations::PodAnnotations,
};

/// Redirects no connection.
pub(crate) struct NoInterception;

impl Backend for NoInterception {
    fn entry(&self) -> Option<Value> {
        None
    }

    fn plugin(&self) -> Option<PathBuf> {
        None
    }

    /// What every sidecar's set-up does: the proxy's source towards its application exists.
    fn enroll(&self, netns: &Path, _settings: &PodAnnotations) -> Result<()> {
        passthrough_address(netns)
    }

    fn counters(&self) -> Result<Option<Counters>> {
        Ok(None)
    }

    fn stop(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
