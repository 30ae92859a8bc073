//! The server of the benchmark: as little as possible, so that it hides no difference.

use std::{net::Ipv4Addr, rc::Rc};

use anyhow::Result;
use clap::Args;
use sluice_testbed::agent::serve::READY;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

/// The block that a client of [`BULK`] gets repeatedly.
const CHUNK: usize = 64 << 10;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const LAST: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
/// First byte of a client that wants bytes without end.
pub(crate) const BULK: u8 = b'B';
/// First byte of an HTTP client. The server echoes the data of every other client.
const HTTP: u8 = b'G';

/// Serve HTTP, echo and bulk, selected by the first byte.
#[derive(Args)]
pub(crate) struct BenchServer {
    #[arg(long = "port", required = true)]
    ports: Vec<u16>,
}

impl BenchServer {
    /// Serves until it is ended.
    pub(crate) fn run(self) -> Result<()> {
        serve(&self.ports, |stream| async move {
            // A client that goes away has seen enough.
            let _ = answer(stream).await;
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

async fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; CHUNK];
    let mut length = stream.read(&mut buffer).await?;
    let first = buffer.first().copied();
    while length > 0 {
        match first {
            Some(HTTP) if !http(&mut stream, &buffer[..length]).await? => return Ok(()),
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
async fn http(stream: &mut TcpStream, head: &[u8]) -> Result<bool> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let last = head.contains("connection: close");
    for _ in head.matches("\r\n\r\n") {
        stream.write_all(if last { LAST } else { ANSWER }).await?;
    }
    Ok(!last)
}
