//! A Pod's annotations.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &str| sluiced::fuzz::annotations(input));
