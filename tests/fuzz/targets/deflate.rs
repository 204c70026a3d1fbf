#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringwire_fuzz::deflate::run(data));
