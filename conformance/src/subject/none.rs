//! The control: Pods without any interception.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;

use crate::subject::{Counters, Subject};

/// Diverts nothing.
pub(crate) struct Nothing;

impl Subject for Nothing {
    fn entry(&self) -> Option<Value> {
        None
    }

    fn plugin(&self) -> Option<PathBuf> {
        None
    }

    fn counters(&self) -> Result<Option<Counters>> {
        Ok(None)
    }

    fn stop(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
