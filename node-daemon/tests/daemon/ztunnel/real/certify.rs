//! Linkerd's identity service for one proxy: it answers every call with the same certificate.
//!
//! The call is gRPC over HTTP/2. The service reads no header, and answers a stream once it ends.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
};

use nix::sched::{CloneFlags, setns};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::node::Pod;

/// Where it listens, on loopback.
pub(super) const ADDRESS: &str = "127.0.0.1:8090";
/// The name of every proxy.
pub(super) const NAME: &str = "baker.shop.serviceaccount.identity.linkerd.cluster.local";
/// 2100-01-01, in seconds.
const VALID_UNTIL: i64 = 4_102_444_800;

/// `io.linkerd.proxy.identity.CertifyResponse`.
#[derive(Clone, PartialEq, Message)]
struct Certified {
    #[prost(bytes = "vec", tag = "1")]
    leaf: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    valid_until: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

/// Serves a proxy of a Pod, writes the proxy's documents into a directory, and returns the trust anchor.
pub(super) fn serve(home: &Pod, directory: &Path) -> String {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let anchor = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    fs::write(directory.join("key.p8"), key.serialize_der()).unwrap();
    let request = params.serialize_request(&key).unwrap();
    fs::write(directory.join("csr.der"), request.der()).unwrap();
    fs::write(directory.join("token"), "token").unwrap();
    let answer = Certified {
        leaf: leaf.der().to_vec(),
        valid_until: Some(Timestamp {
            seconds: VALID_UNTIL,
        }),
    };
    let answer = answer.encode_to_vec();
    let netns = File::open(home.path()).unwrap();
    let bind = move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind(ADDRESS).unwrap()
    };
    let listener = thread::spawn(bind).join().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || call(stream, &answer));
        }
    });
    anchor
}

/// Types and flags of frames (RFC 9113).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Answers the calls of one connection.
fn call(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.read_exact(&mut [0; 24])?;
    write_frame(&mut stream, SETTINGS, 0, 0, &[])?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut body = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut body)?;
        match kind {
            SETTINGS | PING if flags & ACK == 0 => {
                let echo = if kind == PING { &body[..] } else { &[] };
                write_frame(&mut stream, kind, ACK, 0, echo)?;
            }
            DATA if flags & END_STREAM != 0 => {
                respond(&mut stream, u32::from_be_bytes(id), answer)?;
            }
            _ => {}
        }
    }
}

/// `:status: 200`, `content-type: application/grpc`, one message, `grpc-status: 0`.
fn respond(stream: &mut TcpStream, id: u32, answer: &[u8]) -> io::Result<()> {
    let content_type = b"\x88\x0f\x10\x10application/grpc";
    write_frame(stream, HEADERS, END_HEADERS, id, content_type)?;
    let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
    write_frame(stream, DATA, 0, id, &[&[0], &length[..], answer].concat())?;
    let status = b"\x00\x0bgrpc-status\x010";
    write_frame(stream, HEADERS, END_HEADERS | END_STREAM, id, status)
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
