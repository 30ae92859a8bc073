//! Numbers that the verifier does not know.
//!
//! The verifier explores the rest of a program once for each set of numbers that it knows at a place and that
//! decide a later branch. The compiler makes such numbers: it keeps what one branch found out about an
//! address, in a register, for all later branches about it. Between two stages, an address is
//! therefore combined with a zero that only the processor knows, and the verifier explores the next stage once.

use core::hint::black_box;

/// Zero. `unknown` is any number that the verifier does not know: combined with itself it is zero, which
/// neither the verifier nor the compiler finds out.
#[inline(always)]
pub(crate) fn zero(unknown: u64) -> u64 {
    unknown ^ black_box(unknown)
}

/// As [`zero`], of 32 bits.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a part of a zero is zero")]
pub(crate) fn zero_word(unknown: u64) -> u32 {
    zero(unknown) as u32
}
