//! A gRPC server for one method a port. It reads no header: every call is of that method.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use nix::sched::{CloneFlags, setns};

use crate::node::Pod;

/// The answer to a call.
pub(super) enum Answer {
    /// One message, and the end of the stream.
    Message(Vec<u8>),
    /// One message of a stream that stays open.
    Watch(Vec<u8>),
    /// No message, and this status.
    Status(Status),
}

/// A status of gRPC.
#[derive(Clone, Copy)]
pub(super) enum Status {
    InvalidArgument = 3,
    NotFound = 5,
}

/// Serves calls at an address of a Pod. `answer` gets the request's message.
pub(super) fn serve(
    home: &Pod,
    address: &'static str,
    answer: impl Fn(&[u8]) -> Answer + Send + Sync + 'static,
) {
    let netns = File::open(home.path()).unwrap();
    let bind = move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind(address).unwrap()
    };
    let listener = thread::spawn(bind).join().unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || call(stream, &*answer));
        }
    });
}

/// Types and flags of frames (RFC 9113).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// The preface of a client, the head of a frame, and the head of a gRPC message.
const PREFACE: usize = 24;
const FRAME: usize = 9;
const MESSAGE: usize = 5;

/// Answers the calls of one connection. A request's message is short: it comes in one frame.
fn call(mut stream: TcpStream, answer: &dyn Fn(&[u8]) -> Answer) -> io::Result<()> {
    stream.read_exact(&mut [0; PREFACE])?;
    write_frame(&mut stream, SETTINGS, 0, 0, &[])?;
    loop {
        let mut head = [0; FRAME];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut body = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut body)?;
        match kind {
            SETTINGS | PING if flags & ACK == 0 => {
                let echo = if kind == PING { &body[..] } else { &[] };
                write_frame(&mut stream, kind, ACK, 0, echo)?;
            }
            DATA if body.len() >= MESSAGE => {
                let id = u32::from_be_bytes(id);
                respond(&mut stream, id, &answer(&body[MESSAGE..]))?;
            }
            _ => {}
        }
    }
}

/// `:status: 200`, `content-type: application/grpc`; then the messages; then `grpc-status`.
fn respond(stream: &mut TcpStream, id: u32, answer: &Answer) -> io::Result<()> {
    let content_type = b"\x88\x0f\x10\x10application/grpc";
    let status = |code: u8| [&b"\x00\x0bgrpc-status\x01"[..], &[b'0' + code]].concat();
    let (message, code) = match answer {
        Answer::Message(message) => (message, Some(0)),
        Answer::Watch(message) => (message, None),
        Answer::Status(code) => {
            let headers = [&content_type[..], &status(*code as u8)].concat();
            return write_frame(stream, HEADERS, END_HEADERS | END_STREAM, id, &headers);
        }
    };
    write_frame(stream, HEADERS, END_HEADERS, id, content_type)?;
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0], &length[..], message].concat();
    write_frame(stream, DATA, 0, id, &body)?;
    code.map_or(Ok(()), |code| {
        write_frame(stream, HEADERS, END_HEADERS | END_STREAM, id, &status(code))
    })
}

fn write_frame(
    stream: &mut TcpStream,
    kind: u8,
    flags: u8,
    id: u32,
    body: &[u8],
) -> io::Result<()> {
    let [_, a, b, c] = u32::try_from(body.len()).unwrap().to_be_bytes();
    let head = [a, b, c, kind, flags];
    stream.write_all(&[&head[..], &id.to_be_bytes(), body].concat())
}
