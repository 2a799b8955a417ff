#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| scanlogin::fuzzing::sealed_token(data));
