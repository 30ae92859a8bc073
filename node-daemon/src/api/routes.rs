//! The routes of the API, and the bodies of requests.

use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    Method, Request,
    body::{Bytes, Incoming},
};
use serde::de::DeserializeOwned;
use sluice_api::{MAX_BODY, path};
use tokio::time::timeout;

use super::error::Error;

/// Timeout for the whole body.
pub(super) const BODY: Duration = Duration::from_secs(5);

/// The routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Add,
    Del,
    Check,
    Gc,
    Explain,
    Events,
    Audit,
    Connections,
    Programs,
    Status,
    Pods,
    Refused,
    Healthz,
    Readyz,
    Metrics,
}

const ROUTES: [(&str, Method, Route); 15] = [
    (path::ADD, Method::POST, Route::Add),
    (path::DEL, Method::POST, Route::Del),
    (path::CHECK, Method::POST, Route::Check),
    (path::GC, Method::POST, Route::Gc),
    (path::EXPLAIN, Method::POST, Route::Explain),
    (path::EVENTS, Method::POST, Route::Events),
    (path::AUDIT, Method::POST, Route::Audit),
    (path::CONNECTIONS, Method::POST, Route::Connections),
    (path::PROGRAMS, Method::POST, Route::Programs),
    (path::STATUS, Method::GET, Route::Status),
    (path::PODS, Method::GET, Route::Pods),
    (path::REFUSED, Method::GET, Route::Refused),
    (path::HEALTHZ, Method::GET, Route::Healthz),
    (path::READYZ, Method::GET, Route::Readyz),
    (path::METRICS, Method::GET, Route::Metrics),
];

/// The path as a metric's label: a known one, or `other`.
pub(super) fn label(path: &str) -> &'static str {
    ROUTES
        .iter()
        .find(|(known, ..)| *known == path)
        .map_or("other", |(known, ..)| known)
}

/// The route of a request.
fn find(path: &str, method: &Method) -> Result<Route, Error> {
    let (path, allowed, route) = ROUTES
        .iter()
        .find(|(known, ..)| *known == path)
        .ok_or_else(|| Error::NotFound {
            path: path.to_owned(),
        })?;
    if method == allowed {
        return Ok(*route);
    }
    Err(Error::Method {
        path,
        allowed: allowed.clone(),
    })
}

/// A request that has arrived.
pub(super) struct Asked {
    route: Route,
    /// Empty for a `GET`.
    body: Bytes,
}

impl Asked {
    /// Finds the route, and reads the body if the route has one.
    pub(super) async fn read(request: Request<Incoming>) -> Result<Self, Error> {
        let route = find(request.uri().path(), request.method())?;
        let body = if request.method() == Method::POST {
            read(request.into_body()).await?
        } else {
            Bytes::new()
        };
        Ok(Self { route, body })
    }

    pub(super) fn route(&self) -> Route {
        self.route
    }

    /// The body as a value.
    pub(super) fn decode<T: DeserializeOwned>(&self) -> Result<T, Error> {
        decode(&self.body)
    }
}

async fn read(body: Incoming) -> Result<Bytes, Error> {
    let body = Limited::new(body, MAX_BODY).collect();
    let body = timeout(BODY, body).await.map_err(|_| Error::BodyTimeout {
        seconds: BODY.as_secs(),
    })?;
    let whole = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Error::TooLarge
        } else {
            Error::Body(error)
        }
    })?;
    Ok(whole.to_bytes())
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(Error::Json)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_api::{AddRequest, Attachment, PodAddress, PodName};

    use super::*;

    fn add(name: String, ip: std::net::IpAddr) -> AddRequest {
        AddRequest {
            attachment: Attachment {
                network: "pods".to_owned(),
                container_id: name.clone(),
                ifname: "eth0".to_owned(),
            },
            netns: "/run/netns/pod".to_owned(),
            addresses: vec![PodAddress {
                ip,
                interface: "eth0".to_owned(),
            }],
            pod: PodName::default(),
            annotations: Some([(name.clone(), name)].into()),
            manifest: None,
        }
    }

    proptest! {
        #[test]
        fn bodies_of_any_kind_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _either = decode::<AddRequest>(&body);
        }

        #[test]
        fn cut_request_body_is_rejected(
            name in ".*",
            ip: std::net::IpAddr,
            cut: prop::sample::Index,
        ) {
            let written = add(name, ip);
            let body = serde_json::to_vec(&written).unwrap();
            prop_assert_eq!(&decode::<AddRequest>(&body).unwrap(), &written);
            let refused = decode::<AddRequest>(&body[..cut.index(body.len())]).unwrap_err();
            prop_assert_eq!(refused.status(), 400);
        }
    }

    #[test]
    fn every_path_takes_one_method() {
        for (path, method, route) in ROUTES {
            assert_eq!(find(path, &method).unwrap(), route);
            let refused = find(path, &Method::PUT).unwrap_err();
            assert_eq!(refused.status(), 405);
            assert_eq!(label(path), path);
        }
    }

    #[test]
    fn unknown_paths_share_a_label() {
        assert_eq!(find("/v2/add", &Method::POST).unwrap_err().status(), 404);
        assert_eq!(label("/v2/add"), "other");
    }
}
