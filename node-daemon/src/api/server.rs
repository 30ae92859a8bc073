//! Accepts connections with one request each, and bounds their number and time.
//!
//! A connection passes three limits. Until its request has arrived, it waits in the [`Lobby`]. The
//! request then needs one of [`PLACES`], or is refused at once. Then it waits for one of
//! [`ANSWERS`]. Slow or silent peers therefore occupy only the first.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use tokio::{
    net::UnixStream,
    sync::{Semaphore, SemaphorePermit},
    task::yield_now,
    time::{Instant, timeout},
};
use tracing::{debug, warn};

use super::{
    error::Error,
    handler::Handler,
    lobby::{Eviction, Lobby, Seat},
    respond::{Answer, respond},
    routes::{Asked, BODY, Route, label},
    socket::Socket,
};

/// The maximum number of connections whose request has not arrived.
const SILENT: usize = 64;
/// The maximum number of requests that have arrived. More are refused.
const PLACES: usize = 512;
/// The maximum number of requests that are processed concurrently. More wait.
const ANSWERS: usize = 64;
/// The maximum number of concurrent watches, which wait for events.
const WATCHES: usize = 16;
/// Timeout for a request's header.
const HEADER: Duration = Duration::from_secs(5);
/// The maximum size of the header in bytes, and of header lines: the plugin sends four.
const HEADER_BYTES: usize = 16 * 1024;
const HEADER_LINES: usize = 32;
/// Timeout for an answer, after the request has arrived. The kubelet's timeout for plugins is
/// longer.
const ANSWER: Duration = Duration::from_secs(30);
/// Timeout for requests in progress when the daemon stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, most likely for lack of file descriptors.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// The limits of all connections.
struct Limits {
    handler: Handler,
    places: Semaphore,
    answers: Semaphore,
    watches: Semaphore,
}

/// Serves the socket until `stop`, then completes the requests in progress.
pub(crate) async fn serve(socket: &Socket, handler: Handler, stop: impl Future<Output = ()>) {
    let limits = Arc::new(Limits {
        handler,
        places: Semaphore::new(PLACES),
        answers: Semaphore::new(ANSWERS),
        watches: Semaphore::new(WATCHES),
    });
    let open = GracefulShutdown::new();
    tokio::select! {
        () = stop => {}
        () = accept(socket, &limits, &open) => {}
    }
    if timeout(DRAIN_TIMEOUT, open.shutdown()).await.is_err() {
        warn!("requests in progress were aborted at shutdown");
    }
}

async fn accept(socket: &Socket, limits: &Arc<Limits>, open: &GracefulShutdown) {
    let lobby = Lobby::new(SILENT);
    loop {
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                let (seat, eviction) = lobby.enter();
                let limits = Arc::clone(limits);
                let connection = Connection { limits, seat };
                tokio::spawn(connection.serve(stream, open.watcher(), eviction));
                // Data that a peer has already sent is read before other connections can evict it.
                yield_now().await;
            }
            Err(error) => {
                warn!(%error, "accept failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The limits of a connection, which serves one request.
pub(super) fn http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADER_LINES)
        .keep_alive(false);
    builder
}

struct Connection {
    limits: Arc<Limits>,
    seat: Seat,
}

impl Connection {
    async fn serve(self, stream: UnixStream, watcher: Watcher, eviction: Eviction) {
        let peer = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
        let service = service_fn(|request| self.respond(request, peer));
        let connection = http().serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            Ok(()) = eviction => debug!("idle connection closed: the limit of connections is reached"),
            done = timeout(HEADER + BODY + ANSWER, watcher.watch(connection)) => match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "connection ended early"),
                Err(_) => debug!("connection cut off"),
            },
        }
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        peer: u32,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let begin = Instant::now();
        let path = label(request.uri().path());
        let outcome = self.outcome(request, peer).await;
        let metrics = &self.limits.handler.metrics;
        if let Err(error) = &outcome {
            let api_error = error.api_error();
            metrics.count_error(path, api_error.code);
            // A refused ADD is logged with its Pod.
            if !error.is_recorded(path) {
                warn!(
                    path,
                    code = api_error.code,
                    details = api_error.details,
                    "{error}"
                );
            }
        }
        let response = respond(outcome);
        metrics.count(path, response.status().as_u16(), begin.elapsed());
        Ok(response)
    }

    async fn outcome(&self, request: Request<Incoming>, peer: u32) -> Result<Answer, Error> {
        if peer != 0 {
            return Err(Error::Peer { uid: peer });
        }
        let asked = Asked::read(request).await?;
        self.seat.leave();
        let Limits {
            handler, places, ..
        } = &*self.limits;
        let _place = places.try_acquire().map_err(|_| Error::Busy {
            what: "requests",
            limit: PLACES,
        })?;
        let timed_out = Error::Timeout {
            seconds: ANSWER.as_secs(),
        };
        let answered = timeout(ANSWER, async {
            let _turn = self.turn(asked.route()).await?;
            handler.answer(asked).await
        });
        answered.await.unwrap_or(Err(timed_out))
    }

    /// Watches wait long, and must not block other requests.
    async fn turn(&self, route: Route) -> Result<SemaphorePermit<'_>, Error> {
        let Limits {
            answers, watches, ..
        } = &*self.limits;
        if matches!(route, Route::Events | Route::Programs) {
            return watches.try_acquire().map_err(|_| Error::Busy {
                what: "watches",
                limit: WATCHES,
            });
        }
        // Never closed.
        answers.acquire().await.map_err(|_| Error::Busy {
            what: "requests",
            limit: ANSWERS,
        })
    }
}
