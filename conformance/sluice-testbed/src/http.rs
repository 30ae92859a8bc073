//! `GET` and `POST` over a unix socket: the daemon's API and the proxies' readiness.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};

const PATIENCE: Duration = Duration::from_secs(3);

/// The body of the answer to a `GET` that succeeds.
pub fn get(socket: &Path, path: &str) -> Result<String> {
    send(socket, "GET", path, "")
}

/// The body of the answer to a `POST` that succeeds.
pub fn post(socket: &Path, path: &str, body: &str) -> Result<String> {
    send(socket, "POST", path, body)
}

fn send(socket: &Path, method: &str, path: &str, body: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Envoy refuses HTTP/1.0. No reader here expects a body in chunks.
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("{method} {path}"))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("an answer without a head")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!(
            "{method} {path}: {}",
            head.lines().next().unwrap_or_default()
        );
    }
    Ok(body.to_owned())
}
