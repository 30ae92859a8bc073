//! Clients that do not stop: some keep their connections, others open new ones all the time.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{agent::serve::Greeting, interrupt::Interrupt};

const PATIENCE: Duration = Duration::from_secs(5);
/// Between two requests on a connection that stays open.
const THINK: Duration = Duration::from_millis(500);
/// Threads that open new connections.
const OPENERS: u32 = 8;
/// Failures that are reported in full.
const REPORTED: usize = 20;
/// An answer is shorter.
const ANSWER: usize = 1024;

/// Call servers until SIGTERM.
#[derive(Args)]
pub struct LoadGen {
    /// The servers, in turn.
    #[arg(long = "to", required = true)]
    to: Vec<SocketAddr>,
    /// Connections that stay open.
    #[arg(long)]
    open: usize,
    /// New connections a second.
    #[arg(long)]
    rate: u32,
    /// The longest time, in seconds.
    #[arg(long)]
    seconds: u64,
}

/// The results of the calls.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LoadResult {
    /// Seconds under load.
    pub seconds: f64,
    /// Connections that were open from the beginning to the end.
    pub kept: u64,
    /// Requests on them that were answered.
    pub requests: u64,
    /// Connections that were opened, used once and closed.
    pub opened: u64,
    /// Answers of a server that did not see its own proxy as the client.
    pub bypassed: u64,
    /// Calls that failed.
    pub failed: u64,
    /// What happened to the first of them.
    pub failures: Vec<String>,
}

#[derive(Default)]
struct Tally {
    kept: AtomicU64,
    requests: AtomicU64,
    opened: AtomicU64,
    bypassed: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl LoadGen {
    /// Prints an [`LoadResult`].
    pub fn run(self) -> Result<()> {
        let interrupt = Interrupt::install()?;
        let tally = Arc::new(Tally::default());
        let started = Instant::now();
        let end = started + Duration::from_secs(self.seconds);
        let going = move || interrupt.check().is_ok() && Instant::now() < end;
        thread::scope(|threads| {
            for (number, to) in self.to.iter().cycle().take(self.open).enumerate() {
                let (tally, going) = (&tally, going.clone());
                threads.spawn(move || tally.keep(*to, number, &going));
            }
            for (number, to) in (0..OPENERS).zip(self.to.iter().cycle()) {
                let (tally, going) = (&tally, going.clone());
                let pause = Duration::from_secs(1) * OPENERS / self.rate.max(1);
                threads.spawn(move || tally.open(*to, number * pause / OPENERS, pause, &going));
            }
        });
        let outcome = tally.outcome(started.elapsed());
        println!("{}", serde_json::to_string(&outcome)?);
        Ok(())
    }
}

impl Tally {
    /// One connection, many requests. Connections begin one after the other.
    fn keep(&self, to: SocketAddr, number: usize, going: &dyn Fn() -> bool) {
        thread::sleep(Duration::from_millis(
            u64::try_from(number).unwrap_or(0) * 2,
        ));
        let talk = || {
            let mut stream = connect(to)?;
            while going() {
                self.judge(&ask(&mut stream, to, "keep-alive")?);
                self.requests.fetch_add(1, Ordering::Relaxed);
                thread::sleep(THINK);
            }
            Ok(())
        };
        match talk() {
            Ok(()) => drop(self.kept.fetch_add(1, Ordering::Relaxed)),
            Err(error) => self.fail("a connection that was kept", to, &error),
        }
    }

    /// A new connection for each request, at even times: one that is late is not left out.
    fn open(&self, to: SocketAddr, late: Duration, pause: Duration, going: &dyn Fn() -> bool) {
        let mut next = Instant::now() + late;
        while going() {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next += pause;
            match connect(to).and_then(|mut stream| ask(&mut stream, to, "close")) {
                Ok(greeting) => {
                    self.judge(&greeting);
                    self.opened.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.fail("a new connection", to, &error),
            }
        }
    }

    /// A proxy hands requests to its own application from a loopback address.
    fn judge(&self, greeting: &Greeting) {
        let proxied = greeting.source.ip().is_loopback() || is_passthrough(greeting.source);
        self.bypassed
            .fetch_add(u64::from(!proxied), Ordering::Relaxed);
    }

    fn fail(&self, what: &str, to: SocketAddr, error: &io::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < REPORTED {
            failures.push(format!("{what} to {to}: {error}"));
        }
    }

    fn outcome(&self, took: Duration) -> LoadResult {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        LoadResult {
            seconds: took.as_secs_f64(),
            kept: read(&self.kept),
            requests: read(&self.requests),
            opened: read(&self.opened),
            bypassed: read(&self.bypassed),
            failed: read(&self.failed),
            failures: failures.clone(),
        }
    }
}

/// `::6`, which is no loopback address to the standard library.
fn is_passthrough(source: SocketAddr) -> bool {
    source.ip() == std::net::IpAddr::from([0, 0, 0, 0, 0, 0, 0, 6_u16])
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One request, and its answer, which comes in one piece or a few.
fn ask(stream: &mut TcpStream, to: SocketAddr, connection: &str) -> io::Result<Greeting> {
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {to}\r\nConnection: {connection}\r\n\r\n"
    )?;
    let mut answer = [0; ANSWER];
    let mut length = 0;
    loop {
        match stream.read(&mut answer[length..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => length += more,
        }
        if let Some(greeting) = greeting(&answer[..length]) {
            return Ok(greeting);
        }
    }
}

/// The body of an answer, once it is complete.
fn greeting(answer: &[u8]) -> Option<Greeting> {
    let text = std::str::from_utf8(answer).ok()?;
    let (_, body) = text.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}
