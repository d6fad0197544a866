//! What fuzzing found, each under a name of its own.

use pulse::coding::{BlockEncoder, BlockOptions, Coding, EncodedBlock};
use pulse::dtype::Dtype;

/// The bytes of a seed of the target `blocks`.
fn seed(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../seeds/blocks/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A block as the encoder makes it.
fn block(base: &[u8], target: &[u8]) -> EncodedBlock {
    let options = BlockOptions::default().with_coding(Coding::Flat);
    BlockEncoder::new(options).encode(&Dtype::U8, base, target).unwrap().unwrap()
}

/// libzstd words its refusal of some frames by the buffers that it has from frames before: the same
/// bytes then were two errors, one in a new thread and another later.
#[test]
fn a_damaged_frame_is_the_same_error_after_other_frames() {
    // 7 bytes of coding, dtype and sizes, 120 bytes of a base, and the payload: gaps and values, both compressed.
    let seed = seed("damaged-frame-after-others");
    let mut damaged = block(&[0], &[1]);
    damaged.changes = 294;
    damaged.payload = seed[127..].to_vec();
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

/// A block of a frame is not larger than the window of the frame (RFC 8878, 3.1.1.2.4). libzstd looks at that only
/// where it decodes in steps: a frame that says its content size was decoded at once, and taken.
#[test]
fn a_frame_with_a_block_larger_than_its_window_is_refused_with_its_content_size_too() {
    // Again 127 bytes before the payload; its values are 296 u64 in a frame with a window of 1792 bytes, which has
    // its head at 28 and goes to the end.
    let seed = seed("block-larger-than-its-window");
    let (gaps, frame) = seed[127..].split_at(28 + 1);
    let (head, frame) = frame.split_at(2);
    assert_eq!((head, &frame[..6]), (&[0x93, 0x04][..], &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x06][..]));
    let mut decoded = block(&[0], &[1]);
    decoded.changes = 296;
    // Descriptor: content size in two bytes, 256 less than it is.
    let size = (296 * 8 - 256u16).to_le_bytes();
    let with_size = [&frame[..4], &[0x40], &frame[5..6], &size, &frame[6..]].concat();
    for frame in [frame, &with_size] {
        let head = frame.len() << 1 | 1;
        decoded.payload = [gaps, &[head as u8 | 0x80, (head >> 7) as u8], frame].concat();
        let error = decoded.decode(&Dtype::C64, 300).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), "stream", "{error}");
    }
}
