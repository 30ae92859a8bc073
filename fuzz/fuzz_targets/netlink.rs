//! A reply of the kernel over netlink.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sluiced::fuzz::netlink(input));
