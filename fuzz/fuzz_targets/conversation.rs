//! A sender and a receiver through a network that the fuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bootstorm::fuzzing::conversation(octets));
