//! Ctrl-C and SIGTERM end the lab, which removes its state as after a full run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::sys::signal::{SigSet, Signal};

const PAUSE: Duration = Duration::from_millis(10);

/// Whether a signal arrived.
#[derive(Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over both signals. To be called before another thread runs, which would get them.
    pub fn install() -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect();
        signals.thread_block()?;
        let asked = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&asked);
        thread::spawn(move || {
            while signals.wait().is_ok() {
                flag.store(true, Ordering::Relaxed);
            }
        });
        Ok(Self(asked))
    }

    /// For a wait that must not be cut short.
    pub fn never() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    /// Fails once a signal arrived.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Waits until `done` says so; `Ok(false)` if `limit` passes first.
    pub fn wait(&self, limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
        let started = Instant::now();
        while !done()? {
            self.check()?;
            if started.elapsed() > limit {
                return Ok(false);
            }
            thread::sleep(PAUSE);
        }
        Ok(true)
    }
}
