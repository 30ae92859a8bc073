//! Numbers that the verifier does not know.
//!
//! The verifier explores the rest of a program again for each state that differs in a known number on which a
//! later branch depends. The compiler creates such states: it keeps the result of a test of an address in a
//! register for later tests. Between two stages, the programs therefore combine each address with a zero
//! whose value only the processor knows. The verifier then explores the next stage once.

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
