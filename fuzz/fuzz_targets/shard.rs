//! A whole shard in the simulated network, among peers that the fuzzer plays.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bootstorm::fuzzing::shard(octets));
