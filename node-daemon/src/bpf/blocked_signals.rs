//! Holds back a thread's signals: a pending one interrupts the kernel's verifier.

use nix::sys::signal::{SigSet, SigmaskHow};

/// Blocks the signals of this thread while it exists.
pub(super) struct BlockedSignals {
    before: Option<SigSet>,
}

impl BlockedSignals {
    pub(super) fn begin() -> Self {
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok();
        Self { before }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        let _always = self.before.map(|before| before.thread_set_mask());
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal::SIGUSR1;

    use super::*;

    #[test]
    fn earlier_mask_returns() {
        let is_blocked = || SigSet::thread_get_mask().unwrap().contains(SIGUSR1);
        assert!(!is_blocked());
        let outer = BlockedSignals::begin();
        let inner = BlockedSignals::begin();
        drop(inner);
        assert!(is_blocked());
        drop(outer);
        assert!(!is_blocked());
    }
}
