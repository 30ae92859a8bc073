//! A configuration that the installer edits.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &str| sluice_install::fuzz::conflist(input));
