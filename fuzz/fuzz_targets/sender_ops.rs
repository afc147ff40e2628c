//! A sender driven by any events.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bootstorm::fuzzing::sender_ops(octets));
