//! Facts of which the verifier does not know whether they are true.
//!
//! It follows every combination of what it knows, so that a decision that depends on n facts is
//! walked through up to 2 to the n times. What it does not know it follows once.

use core::hint::black_box;

/// What an outbound decision depends on.
#[repr(u32)]
pub(crate) enum Fact {
    LocalAddr,
    PortExcluded,
    Datagram,
    CapturesDns,
    InboundListed,
    NetworkExcluded,
    PortListed,
    NetworkListed,
    Bypass,
}

/// A set of facts that are true.
#[derive(Clone, Copy)]
pub(crate) struct OpaqueFlags(u64);

impl OpaqueFlags {
    /// None. `unknown` may be any number that the verifier does not know: combined with itself it
    /// is zero, which the verifier does not see, and neither does the compiler.
    #[inline(always)]
    pub(crate) fn new(unknown: u64) -> Self {
        Self(unknown ^ black_box(unknown))
    }

    /// Adds a fact, once, if it is true.
    #[inline(always)]
    pub(crate) fn set_if(self, fact: Fact, is_true: bool) -> Self {
        Self(self.0 ^ (u64::from(is_true) << fact as u32))
    }

    /// Whether a fact is true.
    #[inline(always)]
    pub(crate) fn has(self, fact: Fact) -> bool {
        self.0 & (1 << fact as u32) != 0
    }
}
