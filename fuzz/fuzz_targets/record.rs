//! A Pod's record.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sluiced::fuzz::record(input));
