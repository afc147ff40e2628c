//! A receiver driven by any events.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bootstorm::fuzzing::receiver_ops(octets));
