//! Any datagram: parsed, shown, written again.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bootstorm::fuzzing::packet(octets));
