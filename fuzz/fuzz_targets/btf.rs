//! The kernel's type information.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sluiced::fuzz::btf(input));
