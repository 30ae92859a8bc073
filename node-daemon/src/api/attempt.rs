//! An ADD in progress. A refused Pod is recorded with its name, also if the request is aborted.

use sluice_api::{AddRequest, AddResponse, ApiError, code};

use super::error::Error;
use crate::refusals::{Refusal, Refusals, Subject};

/// An ADD whose outcome is not known yet. Dropped early if the runtime or the daemon gives up.
pub(super) struct Attempt {
    refusals: Refusals,
    /// `None` when the outcome is known.
    subject: Option<Subject>,
}

impl Attempt {
    pub(super) fn begin(refusals: &Refusals, request: &AddRequest) -> Self {
        Self {
            refusals: refusals.clone(),
            subject: Some(Subject::of(request)),
        }
    }

    /// Records the outcome if it is an error.
    pub(super) fn end(mut self, outcome: &Result<AddResponse, Error>) {
        let subject = self.subject.take();
        if let (Err(error), Some(subject)) = (outcome, subject) {
            let refusal = error.refusal();
            self.refusals.record(&subject, refusal, error.api_error());
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(subject) = self.subject.take() else {
            return;
        };
        let api_error = ApiError {
            code: code::TRY_AGAIN_LATER,
            message: "the ADD was not answered in time".to_owned(),
            details: String::new(),
        };
        self.refusals.record(&subject, Refusal::Timeout, api_error);
    }
}
