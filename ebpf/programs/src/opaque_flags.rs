//! Boolean facts whose values are opaque to the verifier.
//!
//! The verifier explores every combination of known facts, so a decision that depends on n facts takes
//! up to 2 to the n paths. Opaque facts take one path.

use core::hint::black_box;

/// The inputs of an outbound decision.
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
    GroupExcluded,
    BeforeProxy,
}

/// A set of facts that are true.
#[derive(Clone, Copy)]
pub(crate) struct OpaqueFlags(u64);

impl OpaqueFlags {
    /// The empty set. `unknown` is any number that is unknown to the verifier: combined with itself it
    /// is zero, which neither the verifier nor the compiler detects.
    #[inline(always)]
    pub(crate) fn new(unknown: u64) -> Self {
        Self(unknown ^ black_box(unknown))
    }

    /// Adds a fact if it is true.
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
