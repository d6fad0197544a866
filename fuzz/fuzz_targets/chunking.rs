#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate, Corpus};

fuzz_target!(|data: &[u8]| -> Corpus {
    if bodies::chunking(data) {
        Corpus::Keep
    } else {
        Corpus::Reject
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    bodies::mutate::patch(data, size, max_size, seed, fuzzer_mutate)
});
