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
#[derive(Debug)]
pub(super) enum Answer {
    Json(Vec<u8>),
    Text(&'static str),
    Metrics(String),
    Nothing,
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Answer {
    pub(super) fn json(value: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(value).map_err(|error| Error::Answer(error.to_string()))?;
        Ok(Self::Json(body))
    }
}

/// Turns a route's answer or error into a response.
pub(super) fn respond(answer: Result<Answer, Error>) -> Response<Full<Bytes>> {
    let mut allow = None;
    let (status, kind, body) = match answer {
        Ok(Answer::Json(body)) => (StatusCode::OK, JSON, body),
        Ok(Answer::Text(text)) => (StatusCode::OK, TEXT, text.into()),
        Ok(Answer::Metrics(text)) => (StatusCode::OK, OPEN_METRICS, text.into_bytes()),
        Ok(Answer::Nothing) => (StatusCode::NO_CONTENT, "", Vec::new()),
        Err(error) => {
            if let Error::Method { allowed, .. } = &error {
                allow = HeaderValue::from_str(allowed.as_str()).ok();
            }
            // An error has only strings and a number: serialization cannot fail.
            let body = serde_json::to_vec(&error.api_error()).unwrap_or_default();
            (error.status(), JSON, body)
        }
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if !kind.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    headers.extend(allow.map(|methods| (ALLOW, methods)));
    response
}
