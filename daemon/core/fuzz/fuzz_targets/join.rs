#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| piparallel_fuzz::join::run(data));
