//! Any options: ours against a naive reader, and the answers to them.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bootstorm::fuzzing::options_differential(octets));
