//! The client of the daemon: one HTTP/1.1 request over its unix socket, within one deadline.

use std::{
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};
use sluice_api::{ApiError, MAX_BODY};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::Error;

/// Maximum size of a response in bytes: an error, or a list of attachments.
const MAX_ANSWER: u64 = 4 << 20;
/// Maximum number of response headers; the daemon sends four.
const MAX_HEADERS: usize = 32;

/// The daemon's socket and the remaining time.
pub(crate) struct Daemon {
    socket: PathBuf,
    deadline: Instant,
}

impl Daemon {
    pub(crate) fn new(socket: &Path, deadline: Instant) -> Self {
        Self {
            socket: socket.to_owned(),
            deadline,
        }
    }

    /// Sends a POST request, and decodes the response.
    pub(crate) fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, Error> {
        let body = serde_json::to_string(body).map_err(Error::Json)?;
        // The daemon would end the connection before it has read everything, and its response would be
        // lost.
        if body.len() > MAX_BODY {
            return Err(Error::RequestTooLarge { bytes: body.len() });
        }
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: sluice\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        self.request(&(head + &body))
    }

    /// Sends a GET request, and decodes the response.
    pub(crate) fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, Error> {
        self.request(&format!(
            "GET {path} HTTP/1.1\r\nhost: sluice\r\nconnection: close\r\n\r\n"
        ))
    }

    fn request<A: DeserializeOwned>(&self, request: &str) -> Result<A, Error> {
        let failed = |source| Error::Daemon {
            socket: self.socket.clone(),
            source,
        };
        let answer = self.roundtrip(request).map_err(failed)?;
        let (status, body) = parse_response(&answer).map_err(failed)?;
        if (200..300).contains(&status) {
            // 204 has no body, which is equivalent to `null`.
            let body = if body.is_empty() { b"null" } else { body };
            return serde_json::from_slice(body).map_err(|error| failed(invalid_data(error)));
        }
        match serde_json::from_slice::<ApiError>(body) {
            Ok(api_error) => Err(Error::Refused(api_error)),
            Err(_) => Err(failed(invalid_data(format!(
                "status {status} without a reason"
            )))),
        }
    }

    /// Returns the whole response, up to the end of the connection.
    fn roundtrip(&self, request: &str) -> io::Result<Vec<u8>> {
        let mut stream = DeadlineStream::connect(&self.socket, self.deadline)?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::with_capacity(1024);
        stream.take(MAX_ANSWER + 1).read_to_end(&mut answer)?;
        if answer.len() as u64 > MAX_ANSWER {
            return Err(invalid_data(format!(
                "the answer is longer than {MAX_ANSWER} bytes"
            )));
        }
        Ok(answer)
    }
}

/// A connection on which no call blocks beyond a deadline: neither `connect` to a full queue, nor a
/// slow read or write.
struct DeadlineStream {
    socket: Socket,
    deadline: Instant,
}

impl DeadlineStream {
    fn connect(path: &Path, deadline: Instant) -> io::Result<Self> {
        let stream = Self {
            socket: Socket::new(Domain::UNIX, Type::STREAM, None)?,
            deadline,
        };
        // `connect` uses the send timeout (socket(7)).
        stream.socket.set_write_timeout(stream.remaining()?)?;
        let address = SockAddr::unix(path)?;
        stream.socket.connect(&address).map_err(as_timeout)?;
        Ok(stream)
    }

    /// The remaining time for one call.
    fn remaining(&self) -> io::Result<Option<Duration>> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(as_timeout(ErrorKind::WouldBlock.into()));
        }
        Ok(Some(remaining))
    }
}

impl Read for DeadlineStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.remaining()?)?;
        self.socket.read(buffer).map_err(as_timeout)
    }
}

impl Write for DeadlineStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.remaining()?)?;
        self.socket.write(bytes).map_err(as_timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Parses the status and the body of a response.
fn parse_response(answer: &[u8]) -> io::Result<(u16, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) = head.parse(answer).map_err(invalid_data)? else {
        return Err(invalid_data("the answer ends within its head"));
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
            .ok_or_else(|| invalid_data("the answer's length is not a number"))?,
    };
    if announced != body.len() {
        return Err(invalid_data(format!(
            "{announced} bytes were announced, {} came",
            body.len()
        )));
    }
    let status = head
        .code
        .ok_or_else(|| invalid_data("the answer has no status"))?;
    Ok((status, body))
}

/// Replaces the error of an expired timeout by a clear message.
fn as_timeout(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => {
            io::Error::new(ErrorKind::TimedOut, "no answer within timeoutSeconds")
        }
        _ => error,
    }
}

fn invalid_data(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn truncated_response_is_an_error() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull";
        assert_eq!(parse_response(whole).unwrap(), (200, &b"null"[..]));
        for end in 0..whole.len() {
            assert!(parse_response(&whole[..end]).is_err(), "{end} bytes");
        }
    }

    proptest! {
        #[test]
        fn answers_of_any_kind_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _either = parse_response(&bytes);
        }
    }
}
