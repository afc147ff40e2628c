//! What is typed on a command line: understood and written again, or refused with a reason.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bootstorm::fuzzing::cli(octets));
