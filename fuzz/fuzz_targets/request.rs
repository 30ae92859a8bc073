//! The body of a request to the daemon.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sluiced::fuzz::request(input));
