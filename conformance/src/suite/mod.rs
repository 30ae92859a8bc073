//! The conformance suite: the same connections with different subjects.

pub(crate) mod ask;
pub(crate) mod command;
pub(crate) mod diff;
pub(crate) mod generate;
pub(crate) mod guest;
mod junit;
pub(crate) mod known;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod side;
pub(crate) mod stage;
pub(crate) mod view;
