//! Unary calls of gRPC: the client of the benchmark, and its server, which returns what it gets.

use std::{
    convert::Infallible,
    io::Cursor,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use clap::Args;
use hyper::{
    Request, body::Incoming, http::uri::PathAndQuery, server::conn::http2, service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{io::AsyncReadExt as _, net::TcpStream, task::JoinSet};
use tonic::{
    client, server,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::agent::bench_result::BenchResult;

const METHOD: &str = "/sluice.bench.Echo/Call";
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes in a message, about as many as an identifier and a few fields.
const SIZE: usize = 64;

/// Call a server that returns each message, on one connection.
#[derive(Args)]
pub(crate) struct GrpcClient {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    millis: u64,
    /// So many calls at a time.
    #[arg(long, default_value_t = 1)]
    calls: u16,
}

/// The message of both directions.
#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(bytes = "vec", tag = "1")]
    body: Vec<u8>,
}

type Codec = ProstCodec<Message, Message>;

impl GrpcClient {
    /// Calls, and prints the observations.
    pub(crate) fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let driven = runtime.block_on(self.drive())?;
        println!("{}", serde_json::to_string(&driven)?);
        Ok(())
    }

    async fn drive(&self) -> Result<BenchResult> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.to))?;
        let endpoint = endpoint.tcp_nodelay(true).connect_timeout(PATIENCE);
        let channel = endpoint.timeout(PATIENCE).connect().await?;
        // The connections between the proxies come with the first call.
        call(channel.clone(), Duration::ZERO).await?;
        let begin = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..self.calls {
            callers.spawn(call(channel.clone(), Duration::from_millis(self.millis)));
        }
        let mut micros = Vec::new();
        while let Some(ended) = callers.join_next().await {
            micros.extend(ended??);
        }
        Ok(BenchResult::since(begin, micros))
    }
}

/// Calls at least once, again and again for so long. What each call took, in µs; fails with the first that fails.
async fn call(channel: Channel, duration: Duration) -> Result<Vec<f64>> {
    let mut grpc = client::Grpc::new(channel);
    let message = Message {
        body: vec![b'e'; SIZE],
    };
    let mut micros = Vec::new();
    let begin = Instant::now();
    loop {
        let sent = Instant::now();
        grpc.ready().await?;
        let request = tonic::Request::new(message.clone());
        let path = PathAndQuery::from_static(METHOD);
        let answer: tonic::Response<Message> = grpc.unary(request, path, Codec::default()).await?;
        if answer.get_ref() != &message {
            return Err(anyhow!("another message came back"));
        }
        micros.push(sent.elapsed().as_secs_f64() * 1e6);
        if begin.elapsed() >= duration {
            return Ok(micros);
        }
    }
}

/// Serves a connection, of which `begin` has been read.
pub(super) async fn serve(begin: Vec<u8>, stream: TcpStream) -> Result<()> {
    let (rest, write) = stream.into_split();
    let stream = tokio::io::join(Cursor::new(begin).chain(rest), write);
    let answer = service_fn(|request: Request<Incoming>| async move {
        let mut grpc = server::Grpc::new(Codec::default());
        Ok::<_, Infallible>(grpc.unary(tower::service_fn(echo), request).await)
    });
    let connection = http2::Builder::new(TokioExecutor::new());
    Ok(connection
        .serve_connection(TokioIo::new(stream), answer)
        .await?)
}

async fn echo(request: tonic::Request<Message>) -> Result<tonic::Response<Message>, tonic::Status> {
    Ok(tonic::Response::new(request.into_inner()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn messages_come_back_also_behind_bytes_that_were_read() -> Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let to = listener.local_addr()?;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            let mut begin = vec![0; 3];
            stream.read_exact(&mut begin).await?;
            serve(begin, stream).await
        });
        let client = GrpcClient {
            to,
            millis: 50,
            calls: 4,
        };
        let driven = client.drive().await?;
        assert!(driven.count >= 4 && driven.micros.len() as u64 == driven.count);
        Ok(())
    }
}
