//! Writes every HTTP response.

use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};
use serde::Serialize;

use super::error::Error;

/// The answer of a route.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Json(Vec<u8>),
    Text(&'static str),
    /// Metrics in the `OpenMetrics` format.
    Metrics(String),
    /// Metrics in Prometheus' older text format.
    Classic(String),
    Nothing,
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Answer {
    pub(super) fn json(value: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(value).map_err(|error| Error::Answer(error.to_string()))?;
        Ok(Self::Json(body))
    }
}

/// Turns a route's answer or error into a response.
pub(super) fn respond(answer: Result<Answer, Error>) -> Response<Full<Bytes>> {
    let (kind, body) = match answer {
        Ok(Answer::Json(body)) => (JSON, body),
        Ok(Answer::Text(text)) => (TEXT, text.into()),
        Ok(Answer::Metrics(text)) => (OPEN_METRICS, text.into_bytes()),
        Ok(Answer::Classic(text)) => (CLASSIC, text.into_bytes()),
        Ok(Answer::Nothing) => ("", Vec::new()),
        Err(error) => return refusal(&error),
    };
    let status = if kind.is_empty() {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::OK
    };
    response(status, kind, body)
}

/// The response to a failed request.
pub(super) fn refusal(error: &Error) -> Response<Full<Bytes>> {
    // An error has only strings and a number: serialization cannot fail.
    let body = serde_json::to_vec(&error.api_error()).unwrap_or_default();
    let mut response = response(error.status(), JSON, body);
    if let Error::Method { allowed, .. } = error {
        let allowed = HeaderValue::from_str(allowed.as_str()).ok();
        response
            .headers_mut()
            .extend(allowed.map(|methods| (ALLOW, methods)));
    }
    response
}

fn response(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    if !kind.is_empty() {
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}
