//! What the fuzz targets do with their bytes. `fuzz/run` runs them; docs/FUZZING.md says what each of them promises.
//! `tests/seeds.rs` runs the same over their seeds.
//!
//! A fuzzer does not guess a CRC or a SHA-256. So that the code behind them is reached, targets that read patches
//! seal them first: all sums are put right. The library itself checks them always.

mod apply;
mod blocks;
mod companions;
mod decode;
mod files;
mod headers;
mod layouts;
pub mod mutate;
mod random;
mod receiver;
mod reference;
mod roundtrip;
mod updates;

pub use apply::apply;
pub use blocks::{blocks, encoder, seeds as block_seeds};
pub use companions::companions;
pub use decode::{chunking, chunking_in_all_ways, decode};
pub use headers::headers;
pub use layouts::layouts;
pub use pulse_sync::fuzzing::{documents, ways};
pub use roundtrip::{roundtrip, roundtrip_in_all_ways};
pub use updates::updates;

/// Limits that keep a run short; the patches of `testvectors/` are within them.
fn limits() -> pulse::Limits {
    pulse::Limits::default()
        .with_section_bytes(1 << 20)
        .with_block_leaves(32)
        .with_name_bytes(512)
        .with_metadata_bytes(4096)
        .with_tensors(100)
        .with_files(20)
        .with_rank(8)
}
