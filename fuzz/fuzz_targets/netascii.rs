//! Text in netascii, both directions, any cut.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bootstorm::fuzzing::netascii(octets));
