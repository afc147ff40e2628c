//! Must fail: on the seed `tweet.bin` at once, and on its own within seconds.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bootstorm::fuzzing::canary(octets));
