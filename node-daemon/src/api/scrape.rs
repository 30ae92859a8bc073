//! The HTTP port for collectors: metrics and the daemon's health. It serves no other path, to any peer.
//!
//! Its limits are apart from those of the unix socket, and its answers are reused for a second: peers
//! of this port cannot delay an ADD.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    header::{ACCEPT, HeaderMap},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use sluice_api::path;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::yield_now,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    error::Error,
    handler::Handler,
    lobby::{Eviction, Lobby},
    metrics,
    respond::{Answer, refusal, respond},
    routes::Route,
    server,
};
use crate::config::MetricsAddress;

/// The maximum number of connections. Beyond it, the oldest one is closed.
const CONNECTIONS: usize = 32;
/// Timeout for a whole connection.
const CONNECTION: Duration = Duration::from_secs(30);
/// An answer is reused for this time.
const REUSE: Duration = Duration::from_secs(1);
/// Pause before the address is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Media type of `OpenMetrics`, which a collector names in `Accept`.
const OPEN_METRICS: &str = "application/openmetrics-text";

const ROUTES: [(&str, Route); 3] = [
    (path::HEALTHZ, Route::Healthz),
    (path::READYZ, Route::Readyz),
    (path::METRICS, Route::Metrics),
];

/// The latest answer of each route.
#[derive(Default)]
struct Cache([Mutex<Option<Kept>>; ROUTES.len()]);

/// An answer, and its time.
type Kept = (Instant, Arc<Answered>);

/// An answer that can be given twice.
type Answered = Result<Answer, Error>;

/// Serves the address until the task is aborted. An address that cannot be used does not stop the
/// daemon: it is tried again.
pub(crate) async fn serve_metrics(address: MetricsAddress, handler: Handler) {
    let listener = bind(address).await;
    let cache = Arc::new(Cache::default());
    let lobby = Lobby::new(CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (seat, eviction) = lobby.enter();
                let (cache, handler) = (Arc::clone(&cache), handler.clone());
                tokio::spawn(async move {
                    serve(stream, &cache, &handler, eviction).await;
                    drop(seat);
                });
                yield_now().await;
            }
            Err(error) => {
                debug!(%error, "accept failed");
                sleep(server::PAUSE).await;
            }
        }
    }
}

async fn bind(address: MetricsAddress) -> TcpListener {
    let candidates = address.candidates();
    loop {
        let mut failed = None;
        for candidate in &candidates {
            match listen(*candidate).await {
                Ok((listener, address)) => {
                    info!(%address, "metrics served");
                    return listener;
                }
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            warn!(%address, %error, "metrics not served; retrying. Another address can be set with metrics-address");
        }
        sleep(RETRY).await;
    }
}

async fn listen(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn serve(stream: TcpStream, cache: &Cache, handler: &Handler, eviction: Eviction) {
    let service = service_fn(|request| cache.respond(request, handler));
    let connection = server::http().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        Ok(()) = eviction => debug!("oldest connection of a collector closed: the limit is reached"),
        done = timeout(CONNECTION, connection) => {
            if !matches!(done, Ok(Ok(()))) {
                debug!("connection of a collector ended early");
            }
        }
    }
}

impl Cache {
    async fn respond(
        &self,
        request: Request<Incoming>,
        handler: &Handler,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let open = wants_open_metrics(request.headers());
        let answer = match find(request.method(), request.uri().path()) {
            Ok((index, route)) => match &*self.answer(index, route, handler).await {
                Ok(Answer::Metrics(page)) if !open => Ok(Answer::Classic(metrics::classic(page))),
                Ok(answer) => Ok(answer.clone()),
                Err(error) => return Ok(refusal(error)),
            },
            Err(error) => Err(error),
        };
        Ok(respond(answer))
    }

    /// One request computes the answer, and the others wait for it.
    async fn answer(&self, index: usize, route: Route, handler: &Handler) -> Arc<Answered> {
        let mut latest = self.0[index].lock().await;
        if let Some((at, answer)) = &*latest
            && at.elapsed() < REUSE
        {
            return Arc::clone(answer);
        }
        let answer = Arc::new(handler.observe(route).await);
        *latest = Some((Instant::now(), Arc::clone(&answer)));
        answer
    }
}

fn find(method: &Method, path: &str) -> Result<(usize, Route), Error> {
    let mut routes = ROUTES.iter().enumerate();
    let (index, (path, route)) =
        routes
            .find(|(_, (known, _))| *known == path)
            .ok_or_else(|| Error::NotFound {
                path: path.to_owned(),
            })?;
    if method == Method::GET {
        return Ok((index, *route));
    }
    Err(Error::Method {
        path,
        allowed: Method::GET,
    })
}

fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    accepted.any(|value| value.contains(OPEN_METRICS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_serves_three_paths() {
        for (path, route) in ROUTES {
            assert_eq!(find(&Method::GET, path).unwrap().1, route);
            assert_eq!(find(&Method::POST, path).unwrap_err().status(), 405);
        }
        for path in [path::ADD, path::STATUS, path::PODS, path::REFUSED, "/"] {
            assert_eq!(find(&Method::GET, path).unwrap_err().status(), 404);
            assert_eq!(find(&Method::POST, path).unwrap_err().status(), 404);
        }
    }
}
