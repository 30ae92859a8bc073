//! The plugin's standard input.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sluice_cni::fuzz::stdin(input));
