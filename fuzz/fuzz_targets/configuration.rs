//! The daemon's configuration file.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &str| sluiced::fuzz::configuration(input));
