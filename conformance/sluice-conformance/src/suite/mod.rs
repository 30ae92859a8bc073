//! The conformance suite: the same connections with different subjects.

pub(crate) mod behind;
pub(crate) mod case;
pub(crate) mod command;
pub(crate) mod conn_spec;
pub(crate) mod diff;
pub(crate) mod expected_diff;
pub(crate) mod fixture;
pub(crate) mod generate;
pub(crate) mod observation;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod second_nic;
mod services;
pub(crate) mod subject;
pub(crate) mod test_pod;
