//! The control: Pods without any interception.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::{
    settings::Settings,
    subject::{Counters, Subject, passthrough_address},
};

/// Diverts nothing.
pub(crate) struct Nothing;

impl Subject for Nothing {
    fn entry(&self) -> Option<Value> {
        None
    }

    fn plugin(&self) -> Option<PathBuf> {
        None
    }

    /// What every sidecar's set-up does: the proxy's source towards its application exists.
    fn enrol(&self, netns: &Path, _settings: &Settings) -> Result<()> {
        passthrough_address(netns)
    }

    fn counters(&self) -> Result<Option<Counters>> {
        Ok(None)
    }

    fn stop(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
