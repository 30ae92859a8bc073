//! One request to the daemon: HTTP/1.1 over its unix socket, within one deadline.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use daemon_api::Refusal;
use serde::{Serialize, de::DeserializeOwned};

use crate::Error;

/// Bytes of the longest answer: a refusal, or a list of attachments.
const MAX_ANSWER: u64 = 4 << 20;
/// Header lines of an answer; the daemon sends four.
const MAX_HEADERS: usize = 32;

/// The daemon, and the time that is left for it.
pub(crate) struct Daemon {
    socket: PathBuf,
    deadline: Instant,
}

impl Daemon {
    pub(crate) fn new(socket: &Path, timeout: Duration) -> Self {
        Self {
            socket: socket.to_owned(),
            deadline: Instant::now() + timeout,
        }
    }

    /// Sends a body, and reads what is expected of it.
    pub(crate) fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, Error> {
        let body = serde_json::to_string(body).map_err(Error::Json)?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: sluice\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        self.exchange(&(head + &body))
    }

    /// Reads.
    pub(crate) fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, Error> {
        self.exchange(&format!(
            "GET {path} HTTP/1.1\r\nhost: sluice\r\nconnection: close\r\n\r\n"
        ))
    }

    fn exchange<A: DeserializeOwned>(&self, request: &str) -> Result<A, Error> {
        let failed = |source| Error::Daemon {
            socket: self.socket.clone(),
            source,
        };
        let answer = self.within_the_deadline(request).map_err(failed)?;
        let (status, body) = split(&answer).map_err(failed)?;
        if (200..300).contains(&status) {
            // 204 has no body: it stands for `null`.
            let body = if body.is_empty() { b"null" } else { body };
            return serde_json::from_slice(body).map_err(|error| failed(garbage(error)));
        }
        match serde_json::from_slice::<Refusal>(body) {
            Ok(refusal) => Err(Error::Refused(refusal)),
            Err(_) => Err(failed(garbage(format!("status {status} without a reason")))),
        }
    }

    /// Talks on a thread of its own, which ends with the process: a connection waits without end
    /// where the queue of those to be accepted is full, and a slow reader makes every write wait.
    fn within_the_deadline(&self, request: &str) -> io::Result<Vec<u8>> {
        let (sender, answer) = mpsc::channel();
        let (socket, request) = (self.socket.clone(), request.to_owned());
        thread::Builder::new().spawn(move || sender.send(talk(&socket, &request)))?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        answer.recv_timeout(left).map_err(|_| late())?
    }
}

/// The whole answer, up to the end of the connection.
fn talk(socket: &Path, request: &str) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::with_capacity(1024);
    stream.take(MAX_ANSWER + 1).read_to_end(&mut answer)?;
    if answer.len() as u64 > MAX_ANSWER {
        return Err(garbage(format!(
            "the answer is longer than {MAX_ANSWER} bytes"
        )));
    }
    Ok(answer)
}

/// Status and body of an answer.
fn split(answer: &[u8]) -> io::Result<(u16, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) = head.parse(answer).map_err(garbage)? else {
        return Err(garbage("the answer ends within its head"));
    };
    let body = &answer[end..];
    let length = head
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let announced = match length {
        None => body.len(),
        Some(header) => std::str::from_utf8(header.value)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| garbage("the answer's length is not a number"))?,
    };
    if announced != body.len() {
        return Err(garbage(format!(
            "{announced} bytes were announced, {} came",
            body.len()
        )));
    }
    let status = head
        .code
        .ok_or_else(|| garbage("the answer has no status"))?;
    Ok((status, body))
}

fn late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "no answer within timeoutSeconds")
}

fn garbage(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_that_was_cut_short_is_not_taken() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull";
        assert_eq!(split(whole).unwrap(), (200, &b"null"[..]));
        for end in 0..whole.len() {
            assert!(split(&whole[..end]).is_err(), "{end} bytes");
        }
    }

    proptest! {
        #[test]
        fn answers_of_any_kind_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _either = split(&bytes);
        }
    }
}
