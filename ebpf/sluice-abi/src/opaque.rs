//! Numbers that the verifier does not know.
//!
//! The verifier explores the rest of a program again for each state that differs in a known number on which a
//! later branch depends. The compiler creates such states: it keeps the result of a test of an address in a
//! register for later tests. So the facts of a decision and its verdict are combined with a zero whose value only
//! the processor knows, and so is each address between two stages. The verifier then explores the next stage once.

use core::hint::black_box;

/// Zero. `unknown` is any number that the verifier does not know, in each bit that matters: combined with itself it
/// is zero, which neither the verifier nor the compiler detects.
#[expect(
    clippy::inline_always,
    reason = "a program must not contain a BPF-to-BPF call"
)]
#[inline(always)]
#[must_use]
pub fn zero(unknown: u64) -> u64 {
    unknown ^ black_box(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_zero() {
        for unknown in [0, 1, u64::MAX] {
            assert_eq!(zero(unknown), 0);
        }
    }
}
