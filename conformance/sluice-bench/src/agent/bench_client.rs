//! The client of the benchmark for what wrk cannot do.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::agent::{bench_result::BenchResult, bench_server::BULK};

const CHUNK: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

/// Load a server for a while.
#[derive(Args)]
pub(crate) struct BenchClient {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    millis: u64,
    /// Send messages of so many bytes and wait for each to come back.
    #[arg(long, conflicts_with = "streams")]
    size: Option<u32>,
    /// Receive on so many connections as fast as it goes.
    #[arg(long, default_value_t = 1)]
    streams: u16,
}

impl BenchClient {
    /// Runs, and prints the observations.
    pub(crate) fn run(self) -> Result<()> {
        let driven = match self.size {
            Some(size) => self.round_trips(usize::try_from(size)?)?,
            None => self.bulk()?,
        };
        println!("{}", serde_json::to_string(&driven)?);
        Ok(())
    }

    fn round_trips(&self, size: usize) -> Result<BenchResult> {
        let mut stream = self.connect()?;
        let (message, mut echo) = (vec![b'e'; size], vec![0; size]);
        let mut micros = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < self.limit() {
            let sent = Instant::now();
            stream.write_all(&message)?;
            stream.read_exact(&mut echo)?;
            micros.push(sent.elapsed().as_secs_f64() * 1e6);
        }
        Ok(BenchResult::since(begin, micros))
    }

    fn bulk(&self) -> Result<BenchResult> {
        let begin = Instant::now();
        let counts = thread::scope(|scope| {
            let streams: Vec<_> = (0..self.streams)
                .map(|_| scope.spawn(|| self.receive(begin)))
                .collect();
            let counts = streams.into_iter().map(|stream| {
                let ended = stream.join().map_err(|_| anyhow!("a stream panicked"));
                ended.flatten()
            });
            counts.collect::<Result<Vec<u64>>>()
        })?;
        Ok(BenchResult {
            count: counts.iter().sum(),
            seconds: begin.elapsed().as_secs_f64(),
            micros: Vec::new(),
        })
    }

    fn receive(&self, begin: Instant) -> Result<u64> {
        let mut stream = self.connect()?;
        stream.write_all(&[BULK])?;
        let (mut buffer, mut count) = (vec![0; CHUNK], 0);
        while begin.elapsed() < self.limit() {
            count += stream.read(&mut buffer)? as u64;
        }
        Ok(count)
    }

    fn connect(&self) -> Result<Polled> {
        let stream = TcpStream::connect_timeout(&self.to, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Polled(stream))
    }

    fn limit(&self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

/// A connection as event loops have them: what waits is `poll(2)`, and no other call.
struct Polled(TcpStream);

impl Polled {
    fn wait(&self, events: PollFlags) -> io::Result<()> {
        let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::NONE);
        match poll(&mut [PollFd::new(self.0.as_fd(), events)], patience)? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

impl Read for Polled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::POLLIN)?;
        self.0.read(buffer)
    }
}

impl Write for Polled {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self.0.write(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.wait(PollFlags::POLLOUT)?;
                self.0.write(buffer)
            }
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
