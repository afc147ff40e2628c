//! Any packet that can be built: written, then parsed.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bootstorm::fuzzing::round_trip(octets));
