//! Accepts connections, one request each, and bounds their number and their time.

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
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tracing::{debug, warn};

use super::{
    error::Error,
    respond::respond,
    routes::{Desk, label},
    socket::Socket,
};

/// Connections at one time. More wait in the socket's backlog.
const CONNECTIONS: usize = 64;
/// For a request's header to arrive.
const HEADER: Duration = Duration::from_secs(5);
/// For an answer, the arrival of the body included. The kubelet gives a plugin more.
const ANSWER: Duration = Duration::from_secs(30);
/// For requests to be finished after the daemon was told to stop.
const FAREWELL: Duration = Duration::from_secs(10);
/// After a failed accept: out of descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves the socket until `stop`, and finishes the requests that are under way.
pub(crate) async fn serve(socket: &Socket, desk: Desk, stop: impl Future<Output = ()>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let open = GracefulShutdown::new();
    tokio::select! {
        () = stop => {}
        () = accept(socket, &free, &open, &desk) => {}
    }
    if timeout(FAREWELL, open.shutdown()).await.is_err() {
        warn!("requests under way were cut off");
    }
}

async fn accept(socket: &Socket, free: &Arc<Semaphore>, open: &GracefulShutdown, desk: &Desk) {
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(free).acquire_owned().await {
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                let connection = Connection {
                    desk: desk.clone(),
                    _permit: permit,
                };
                tokio::spawn(connection.serve(stream, open.watcher()));
            }
            Err(error) => {
                warn!(%error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

struct Connection {
    desk: Desk,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: UnixStream, watcher: Watcher) {
        let peer = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
        let service = service_fn(|request| self.answer(request, peer));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        match timeout(HEADER + ANSWER, watcher.watch(connection)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "connection ended early"),
            Err(_) => debug!("connection cut off"),
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: u32,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let begin = Instant::now();
        let path = label(request.uri().path());
        let outcome = if peer == 0 {
            let late = Error::Timeout {
                seconds: ANSWER.as_secs(),
            };
            let answered = timeout(ANSWER, self.desk.answer(request)).await;
            answered.unwrap_or(Err(late))
        } else {
            Err(Error::Peer { uid: peer })
        };
        if let Err(error) = &outcome {
            let refusal = error.refusal();
            self.desk.metrics.refuse(path, refusal.code);
            warn!(
                path,
                code = refusal.code,
                details = refusal.details,
                "{error}"
            );
        }
        let response = respond(outcome);
        self.desk
            .metrics
            .count(path, response.status().as_u16(), begin.elapsed());
        Ok(response)
    }
}
