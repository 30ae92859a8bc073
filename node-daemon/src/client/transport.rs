//! Requests to a running daemon over its socket, and why there is no answer.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use nix::unistd::geteuid;
use sluice_api::ApiError;
use tokio::{net::UnixStream, time::timeout};

use crate::config::ClientArgs;

/// The daemon cannot be reached. Commands exit with 3.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    /// The socket is for root.
    #[error(
        "user {uid} may not use {}: only root may use the daemon's socket; run the command as root",
        socket.display()
    )]
    Denied {
        /// The socket.
        socket: PathBuf,
        /// The user of this process.
        uid: u32,
    },
    /// The socket does not exist, or no process listens.
    #[error(
        "no daemon serves {}: start it with `sluiced run`, or name its socket with --socket. In a cluster, run \
         this command in the container `sluiced` of the node's Pod",
        socket.display()
    )]
    Absent {
        /// The socket.
        socket: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// Another error of the connection.
    #[error("cannot connect to the daemon at {}", socket.display())]
    Io {
        /// The socket.
        socket: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error(
        "the daemon at {} did not answer within {seconds} s; its log says what it waits for. Restart it if it \
         hangs: Pods stay intercepted meanwhile",
        socket.display()
    )]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// The timeout.
        seconds: u64,
    },
}

impl Unreachable {
    fn of(socket: &Path, source: io::Error) -> Self {
        let socket = socket.to_owned();
        match source.kind() {
            ErrorKind::PermissionDenied => Self::Denied {
                socket,
                uid: geteuid().as_raw(),
            },
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Self::Absent { socket, source },
            _ => Self::Io { socket, source },
        }
    }
}

/// A daemon's socket, and the time to wait for an answer.
pub(super) struct Client<'a> {
    socket: &'a Path,
    patience: Duration,
}

impl<'a> Client<'a> {
    pub(super) fn new(args: &'a ClientArgs) -> Self {
        Self {
            socket: &args.socket,
            patience: Duration::from_secs(args.timeout.into()),
        }
    }

    /// Likewise, for requests that the daemon holds back for a while.
    pub(super) fn wait_longer(self, more: Duration) -> Self {
        Self {
            patience: self.patience + more,
            ..self
        }
    }

    pub(super) fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        self.request(Method::GET, path, Vec::new())
    }

    pub(super) fn post(&self, path: &str, body: Vec<u8>) -> anyhow::Result<Bytes> {
        self.request(Method::POST, path, body)
    }

    fn request(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Bytes> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let answer = timeout(self.patience, self.exchange(method, path, body)).await;
            answer.map_err(|_| Unreachable::Silent {
                socket: self.socket.to_owned(),
                seconds: self.patience.as_secs(),
            })?
        })
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Bytes> {
        let stream = UnixStream::connect(self.socket).await;
        let stream = stream.map_err(|source| Unreachable::of(self.socket, source))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .body(Full::<Bytes>::from(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let api_error: ApiError = serde_json::from_slice(&body)
            .with_context(|| format!("the daemon answers {status}"))?;
        match &*api_error.details {
            "" => bail!(api_error.message),
            details => bail!("{}: {details}", api_error.message),
        }
    }
}

/// Sends one request to the daemon. Returns the body of a successful answer.
pub(crate) fn call(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
    patience: Duration,
) -> anyhow::Result<Bytes> {
    Client { socket, patience }.request(method, path, body)
}
