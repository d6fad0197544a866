//! What fuzzing found, each under a name of its own.

use pulse::coding::{BlockEncoder, BlockOptions, Coding, EncodedBlock};
use pulse::dtype::Dtype;

/// A block as the encoder makes it.
fn block(base: &[u8], target: &[u8]) -> EncodedBlock {
    let options = BlockOptions::default().with_coding(Coding::Flat);
    BlockEncoder::new(options).encode(&Dtype::U8, base, target).unwrap().unwrap()
}

/// libzstd words its refusal of some frames by the buffers that it has from frames before: the same
/// bytes then were two errors, one in a new thread and another later.
#[test]
fn a_damaged_frame_is_the_same_error_after_other_frames() {
    // Gaps of one byte, stored; values of one byte, in a frame whose block ends after its literals.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 38, 0, 0x15, 0, 0, 0x11, 0x01];
    let mut damaged = block(&[0], &[1]);
    damaged.changes = 294;
    damaged.payload =
        [&[0x21, 0xcc, 0x04][..], &[0; 294], &[frame.len() as u8 * 2 + 1], &frame].concat();
    let error = move || damaged.decode(&Dtype::I8, 300).unwrap_err().to_string();
    let error_here = error.clone();
    let at_first = std::thread::spawn(error).join().unwrap();
    let other_frames = || {
        // Large enough for a large buffer, regular enough for zstd.
        let (base, target) = (vec![0; 1 << 20], vec![1; 1 << 20]);
        block(&base, &target).decode(&Dtype::U8, 1 << 20).unwrap();
        error_here()
    };
    let later = std::thread::scope(|scope| scope.spawn(other_frames).join().unwrap());
    assert_eq!(later, at_first);
    assert!(at_first.contains("values: "), "{at_first}");
}
