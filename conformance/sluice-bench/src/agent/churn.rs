//! A client that opens short connections at an even pace, whatever becomes of them.

use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::LocalSet,
    time::{interval, timeout},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// The server closes first: its end waits in `TIME_WAIT`, and the client's port is free at once.
const QUESTION: &[u8] = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n";

/// Call servers in turn.
#[derive(Args)]
pub(crate) struct Churn {
    #[arg(long = "to", required = true)]
    to: Vec<SocketAddr>,
    /// Connections in a second.
    #[arg(long)]
    rate: u32,
    #[arg(long)]
    count: u32,
}

/// The counts of the connections' outcomes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ChurnResult {
    /// Those that got an answer.
    pub(crate) answered: u32,
    /// Those for which there was no port.
    pub(crate) unavailable: u32,
    /// Those that failed otherwise.
    pub(crate) failed: u32,
    pub(crate) seconds: f64,
}

/// What the client prints.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ChurnOutput {
    pub(crate) counts: ChurnResult,
    /// From the time at which a connection is due until the first byte of its answer, in µs.
    pub(crate) micros: Vec<f64>,
}

impl Churn {
    /// Does it, and prints what became of it.
    pub(crate) fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let churned = Rc::new(RefCell::new(ChurnOutput::default()));
        let begin = Instant::now();
        let local = LocalSet::new();
        local.block_on(&runtime, self.open(Rc::clone(&churned)));
        // Those that are still under way.
        runtime.block_on(local);
        let mut churned = churned.take();
        churned.counts.seconds = begin.elapsed().as_secs_f64();
        println!("{}", serde_json::to_string(&churned)?);
        Ok(())
    }

    async fn open(self, churned: Rc<RefCell<ChurnOutput>>) {
        // A tick that comes late does not delay the others.
        let mut pace = interval(Duration::from_secs(1) / self.rate.max(1));
        for to in self.to.iter().copied().cycle().take(self.count as usize) {
            let due = pace.tick().await;
            let churned = Rc::clone(&churned);
            tokio::task::spawn_local(async move {
                let outcome = timeout(PATIENCE, ask(to)).await;
                let outcome = outcome.unwrap_or_else(|late| Err(late.into()));
                let took = outcome.map(|first_byte| first_byte.duration_since(due.into_std()));
                churned.borrow_mut().record(&took);
            });
        }
    }
}

impl ChurnOutput {
    fn record(&mut self, outcome: &io::Result<Duration>) {
        let counts = &mut self.counts;
        match outcome {
            Ok(took) => {
                counts.answered += 1;
                self.micros.push(took.as_secs_f64() * 1e6);
            }
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => counts.unavailable += 1,
            Err(_) => counts.failed += 1,
        }
    }
}

/// When the first byte of the answer came.
async fn ask(to: SocketAddr) -> io::Result<Instant> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(QUESTION).await?;
    let mut answer = vec![0; 1];
    stream.read_exact(&mut answer).await?;
    let first_byte = Instant::now();
    stream.read_to_end(&mut answer).await?;
    Ok(first_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_exhaustion_is_counted_separately() {
        let outcomes = [
            Ok(Duration::from_micros(70)),
            Err(ErrorKind::AddrNotAvailable.into()),
            Err(ErrorKind::TimedOut.into()),
        ];
        let mut churned = ChurnOutput::default();
        for outcome in &outcomes {
            churned.record(outcome);
        }
        let ChurnOutput {
            counts: churned,
            micros,
        } = churned;
        assert_eq!(micros, [70.0]);
        let counts = (churned.answered, churned.unavailable, churned.failed);
        assert_eq!(counts, (1, 1, 1));
    }
}
