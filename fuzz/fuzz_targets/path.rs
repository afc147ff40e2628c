//! Names of files, against a model of the tree that is served.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bootstorm::fuzzing::path(octets));
