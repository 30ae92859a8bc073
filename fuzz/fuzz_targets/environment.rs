//! The plugin's environment.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &str| cni_plugin::fuzz::environment(input));
