//! Accepts connections, one request each, and bounds their number and their time.
//!
//! A connection passes three limits. Until its request has arrived, it waits in the [`Lobby`]. With
//! the request it needs one of [`PLACES`], or is refused at once. Then it waits for one of [`ANSWERS`].
//! Peers that send slowly, or nothing, therefore hold only the first.

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
    lobby::{Eviction, Lobby, Seat},
    respond::{Answer, respond},
    routes::{Asked, BODY, Handler, Route, label},
    socket::Socket,
};

/// Connections whose request has not arrived, at one time.
const SILENT: usize = 64;
/// Requests that have arrived, at one time. More are refused.
const PLACES: usize = 512;
/// Requests that are answered at one time. More wait.
const ANSWERS: usize = 64;
/// Watches among them, each of which waits for events.
const WATCHES: usize = 16;
/// For a request's header to arrive.
const HEADER: Duration = Duration::from_secs(5);
/// Bytes of the longest header, and header lines: the plugin sends four.
const HEADER_BYTES: usize = 16 * 1024;
const HEADER_LINES: usize = 32;
/// For an answer, after the request has arrived. The kubelet gives a plugin more.
const ANSWER: Duration = Duration::from_secs(30);
/// For requests to be finished after the daemon was told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept: out of descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
struct Limits {
    handler: Handler,
    places: Semaphore,
    answers: Semaphore,
    watches: Semaphore,
}

/// Serves the socket until `stop`, and finishes the requests that are under way.
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
                // What a peer has sent already is read before others can evict it.
                yield_now().await;
            }
            Err(error) => {
                warn!(%error, "accept failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

struct Connection {
    limits: Arc<Limits>,
    seat: Seat,
}

impl Connection {
    async fn serve(self, stream: UnixStream, watcher: Watcher, eviction: Eviction) {
        let peer = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
        let service = service_fn(|request| self.respond(request, peer));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER)
            .max_buf_size(HEADER_BYTES)
            .max_headers(HEADER_LINES)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
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
            warn!(
                path,
                code = api_error.code,
                details = api_error.details,
                "{error}"
            );
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

    /// Watches wait long, and must not keep others from being answered.
    async fn turn(&self, route: Route) -> Result<SemaphorePermit<'_>, Error> {
        let Limits {
            answers, watches, ..
        } = &*self.limits;
        if route == Route::Events {
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
