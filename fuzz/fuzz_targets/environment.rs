//! The plugin's environment.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &str| sluice_cni::fuzz::environment(input));
