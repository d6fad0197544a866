//! The bodies of the fuzz targets over their seeds and over the test vectors.

use std::fs;
use std::path::Path;

/// Runs a body over every file of a directory; gives back how many there were.
fn run(body: fn(&[u8]), directory: &str) -> usize {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut paths: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    // A checkpoint of the vectors may be a directory. Two that unpack a quarter of a gigabyte before
    // they are refused would take a minute in all ways.
    let is_slow = |path: &Path| path.to_string_lossy().ends_with("-expansion-limit.pulse");
    paths.retain(|path| path.is_file() && !is_slow(path));
    paths.sort();
    for path in &paths {
        // Shown if the body panics.
        println!("{}", path.display());
        body(&fs::read(path).unwrap());
    }
    paths.len()
}

/// Runs a body over its seeds, of which there must be some.
fn run_seeds(body: fn(&[u8]), target: &str) {
    assert!(run(body, &format!("../seeds/{target}")) > 0, "{target} has no seeds");
}

#[test]
fn any_checkpoints_come_back() {
    run_seeds(bodies::roundtrip_in_all_ways, "roundtrip");
}

#[test]
fn any_block_is_encoded_as_the_reference_decodes_it() {
    run_seeds(bodies::encoder, "encoder");
}

#[test]
fn blocks_that_a_fuzzer_found_decode_as_the_reference_does() {
    run_seeds(bodies::blocks, "blocks");
}

#[test]
fn patches_that_a_fuzzer_found_are_read_alike_in_every_way() {
    run_seeds(bodies::decode, "decode");
    run_seeds(bodies::chunking_in_all_ways, "chunking");
}

#[test]
fn patches_that_a_fuzzer_found_are_applied_or_refused_alike_in_every_way() {
    run_seeds(bodies::apply, "apply");
}

#[test]
fn checkpoints_that_a_fuzzer_found_are_read_as_their_headers_say() {
    run_seeds(bodies::headers, "headers");
}

#[test]
fn directories_are_read_as_the_table_of_the_specification_says() {
    run_seeds(bodies::layouts, "layouts");
}

#[test]
fn companions_are_where_the_tables_of_the_specification_say() {
    run_seeds(bodies::companions, "companions");
}

#[test]
fn an_update_in_place_is_base_or_target_or_marked_whatever_happens() {
    run_seeds(bodies::updates, "updates");
}

#[test]
fn blocks_of_every_dtype_and_coding_decode_as_the_reference_does() {
    let seeds = bodies::block_seeds();
    assert!(!seeds.is_empty());
    for (number, mut seed) in seeds.into_iter().enumerate() {
        bodies::blocks(&seed);
        // What is wrong must be wrong for both. Every third byte, each time others: so many take long.
        for at in (number % 3..seed.len()).step_by(3) {
            seed[at] ^= 1 << (at % 8);
            bodies::blocks(&seed);
            seed[at] ^= 1 << (at % 8);
        }
    }
}

#[test]
fn checkpoints_are_read_as_their_headers_say() {
    assert!(run(bodies::headers, "../../testvectors/checkpoints") > 0);
}

#[test]
fn vectors_hold_under_every_body_that_reads_patches() {
    for directory in ["../../testvectors/good", "../../testvectors/malformed"] {
        for body in [bodies::decode, bodies::chunking_in_all_ways, bodies::apply] {
            assert!(run(body, directory) > 0);
        }
    }
}

#[test]
fn changed_sections_are_sealed_again() {
    let vector = fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testvectors/good/spec-example.pulse"),
    )
    .unwrap();
    let mut changed = 0;
    for seed in 0..1000 {
        let mut data = [vector.clone(), vec![0; 1000]].concat();
        let capacity = data.len();
        let flip = |bytes: &mut [u8], size: usize, _: usize| {
            bytes[seed as usize % size.max(1)] ^= 1;
            size
        };
        let size = bodies::mutate::patch(&mut data, vector.len(), capacity, seed, flip);
        changed += usize::from(data[..size] != vector);
        bodies::apply(&data[..size]);
        bodies::decode(&data[..size]);
    }
    assert!(changed > 500, "only {changed} were changed");
}

#[test]
fn documents_of_a_feed_are_read_as_they_are_written() {
    run_seeds(bodies::documents, "documents");
}

#[test]
fn ways_through_a_feed_are_the_cheapest() {
    run_seeds(bodies::ways, "ways");
}
