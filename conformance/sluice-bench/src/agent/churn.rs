//! A client that opens short connections at an even pace, whatever becomes of them.

use std::{
    cell::Cell,
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

/// What became of the connections.
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

impl Churn {
    /// Does it, and prints what became of it.
    pub(crate) fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let churned = Rc::new(Cell::new(ChurnResult::default()));
        let begin = Instant::now();
        let local = LocalSet::new();
        local.block_on(&runtime, self.open(Rc::clone(&churned)));
        // Those that are still under way.
        runtime.block_on(local);
        let churned = ChurnResult {
            seconds: begin.elapsed().as_secs_f64(),
            ..churned.get()
        };
        println!("{}", serde_json::to_string(&churned)?);
        Ok(())
    }

    async fn open(self, churned: Rc<Cell<ChurnResult>>) {
        // A tick that comes late does not delay the others.
        let mut pace = interval(Duration::from_secs(1) / self.rate.max(1));
        for to in self.to.iter().copied().cycle().take(self.count as usize) {
            pace.tick().await;
            let churned = Rc::clone(&churned);
            tokio::task::spawn_local(async move {
                let outcome = timeout(PATIENCE, ask(to)).await;
                let outcome = outcome.unwrap_or_else(|late| Err(late.into()));
                churned.set(churned.get().with(&outcome));
            });
        }
    }
}

impl ChurnResult {
    fn with(mut self, outcome: &io::Result<()>) -> Self {
        let count = match outcome {
            Ok(()) => &mut self.answered,
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => &mut self.unavailable,
            Err(_) => &mut self.failed,
        };
        *count += 1;
        self
    }
}

async fn ask(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(QUESTION).await?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_exhaustion_is_counted_separately() {
        let outcomes = [
            Ok(()),
            Err(ErrorKind::AddrNotAvailable.into()),
            Err(ErrorKind::TimedOut.into()),
        ];
        let churned = outcomes
            .iter()
            .fold(ChurnResult::default(), ChurnResult::with);
        let counts = (churned.answered, churned.unavailable, churned.failed);
        assert_eq!(counts, (1, 1, 1));
    }
}
