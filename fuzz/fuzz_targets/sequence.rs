//! A sequence of requests to the daemon. Needs root.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sluiced::fuzz::sequence(input));
