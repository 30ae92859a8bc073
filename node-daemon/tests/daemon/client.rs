//! An HTTP client that writes raw bytes: the daemon must also handle malformed requests.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde::de::DeserializeOwned;
use sluice_api::ApiError;

/// A response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    /// The body of a success.
    pub(crate) fn ok<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_str(&self.body).expect("a known body")
    }

    /// The body of an error with this HTTP status.
    pub(crate) fn api_error(&self, status: u16) -> ApiError {
        assert_eq!(self.status, status, "{self:?}");
        serde_json::from_str(&self.body).expect("a refusal")
    }
}

pub(crate) fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("a connection");
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).expect("a time limit");
    stream
}

pub(crate) fn send(socket: &Path, method: &str, path: &str, body: &str) -> Reply {
    exchange(connect(socket), &request(method, path, body))
}

/// `None` if no daemon listens.
pub(crate) fn try_send(socket: &Path, method: &str, path: &str, body: &str) -> Option<Reply> {
    let stream = UnixStream::connect(socket).ok()?;
    Some(exchange(stream, &request(method, path, body)))
}

fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: node\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Sends raw bytes. The daemon may stop reading before all of them are sent.
pub(crate) fn exchange(mut stream: UnixStream, bytes: &str) -> Reply {
    drop(stream.write_all(bytes.as_bytes()));
    read(stream)
}

/// Reads until the daemon closes the connection.
pub(crate) fn read(mut stream: UnixStream) -> Reply {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    let trouble = loop {
        match stream.read(&mut part) {
            Ok(0) => break None,
            Ok(length) => bytes.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A reset after the response means that the daemon did not read the whole request,
            // which is allowed.
            Err(error) => break bytes.is_empty().then(|| error.to_string()),
        }
    };
    let text = trouble.unwrap_or_else(|| String::from_utf8(bytes).expect("text"));
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Reply {
        status: status.unwrap_or(0),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}
