#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringwire_fuzz::extension_header::run(data));
