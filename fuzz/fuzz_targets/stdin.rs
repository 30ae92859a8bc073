//! The plugin's standard input.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| cni_plugin::fuzz::stdin(input));
