//! The server of the benchmark: as little as possible, so that it hides no difference.

use std::{
    cell::RefCell,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
};

use anyhow::{Result, ensure};
use clap::Args;
use sluice_testbed::agent::serve::READY;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

use crate::agent::grpc;

/// The block that a client of [`BULK`] gets repeatedly.
const CHUNK: usize = 64 << 10;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const LAST: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
/// First byte of a client that wants bytes without end.
pub(crate) const BULK: u8 = b'B';
/// First byte of an HTTP client. The server echoes the data of every other client.
const HTTP: u8 = b'G';
/// First byte of a client of HTTP/2 (RFC 9113, 3.4), which calls by gRPC.
const HTTP2: u8 = b'P';
/// The path of requests for each of which the server calls the next one.
pub(crate) const TREE_PATH: &str = "/tree";
/// The end of an answer.
const END: &[u8] = b"\r\n\r\nok";

/// Serve HTTP, gRPC, echo and bulk, selected by the first byte.
#[derive(Args)]
pub(crate) struct BenchServer {
    #[arg(long = "port", required = true)]
    ports: Vec<u16>,
    /// The next server of the call tree.
    #[arg(long)]
    next: Option<SocketAddr>,
}

/// The next server, and connections to it that are free.
#[derive(Default)]
struct Next {
    address: Option<SocketAddr>,
    free: RefCell<Vec<TcpStream>>,
}

impl BenchServer {
    /// Serves until it is ended.
    pub(crate) fn run(self) -> Result<()> {
        let next = Rc::new(Next {
            address: self.next,
            ..Next::default()
        });
        serve(&self.ports, move |stream| {
            let next = Rc::clone(&next);
            async move {
                // A client that goes away has seen enough.
                let _ = answer(stream, &next).await;
            }
        })
    }
}

/// Gives every connection to these ports to `work`, all in this thread.
pub(super) fn serve<F>(ports: &[u16], work: impl Fn(TcpStream) -> F + 'static) -> Result<()>
where
    F: Future<Output = ()> + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let work = Rc::new(work);
    LocalSet::new().block_on(&runtime, async {
        for port in ports {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).await?;
            let work = Rc::clone(&work);
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::task::spawn_local(work(stream));
                }
            });
        }
        println!("{READY}");
        std::future::pending::<Result<()>>().await
    })
}

async fn answer(mut stream: TcpStream, next: &Next) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; CHUNK];
    let mut length = stream.read(&mut buffer).await?;
    let first = buffer.first().copied();
    if length > 0 && first == Some(HTTP2) {
        buffer.truncate(length);
        return grpc::serve(buffer, stream).await;
    }
    while length > 0 {
        match first {
            Some(HTTP) if !http(&mut stream, &buffer[..length], next).await? => return Ok(()),
            Some(HTTP) => {}
            Some(BULK) => loop {
                stream.write_all(&buffer).await?;
            },
            _ => stream.write_all(&buffer[..length]).await?,
        }
        length = stream.read(&mut buffer).await?;
    }
    Ok(())
}

/// Answers requests that came whole, as small ones do. Whether another may follow.
async fn http(stream: &mut TcpStream, head: &[u8], next: &Next) -> Result<bool> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let last = head.contains("connection: close");
    let calls = head.starts_with(&format!("get {TREE_PATH} "));
    for _ in head.matches("\r\n\r\n") {
        if calls {
            next.call().await?;
        }
        stream.write_all(if last { LAST } else { ANSWER }).await?;
    }
    Ok(!last)
}

impl Next {
    /// Calls it, if there is one, and waits for its answer.
    async fn call(&self) -> Result<()> {
        let Some(address) = self.address else {
            return Ok(());
        };
        let free = self.free.borrow_mut().pop();
        let mut stream = match free {
            Some(stream) => stream,
            None => TcpStream::connect(address).await?,
        };
        stream.set_nodelay(true)?;
        let request = format!("GET {TREE_PATH} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(END) {
            let length = stream.read_buf(&mut answer).await?;
            ensure!(length > 0, "the next server closes");
        }
        ensure!(
            answer.starts_with(b"HTTP/1.1 200 "),
            "the next server fails"
        );
        self.free.borrow_mut().push(stream);
        Ok(())
    }
}
