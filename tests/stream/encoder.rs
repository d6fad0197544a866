//! How the encoder answers misuse and failing writers, and what is left of its file.

use std::io::{self, ErrorKind, Read, Write};

use pulse::dtype::{Dtype, TensorSpec};
use pulse::error::{Advice, BaseMismatch};
use pulse::hash::{tensor_digest, Digest, LEAF_BYTES};
use pulse::stream::{EncoderOptions, Lineage};
use pulse::wire::FileKind;
use pulse::{Decoder, Encoder, Error, Limits, Result};
use testkit::applier::{apply, CODINGS};
use testkit::checkpoint::Checkpoint;

fn spec(dtype: Dtype, shape: &[u64]) -> TensorSpec {
    TensorSpec::new(dtype, shape).unwrap()
}

fn encoder() -> Encoder<Vec<u8>> {
    Encoder::new(Vec::new(), EncoderOptions::default()).unwrap()
}

fn snapshot() -> Encoder<Vec<u8>> {
    Encoder::snapshot(Vec::new(), EncoderOptions::default()).unwrap()
}

fn assert_misuse<T: std::fmt::Debug>(result: Result<T>, message: &str) {
    let error = result.expect_err(message);
    assert_eq!(error.to_string(), message);
    assert_eq!(error.kind(), "misuse");
}

/// A tensor that was not ended cannot be completed, and so neither can the file.
#[test]
fn every_tensor_is_ended() {
    let four = spec(Dtype::U8, &[4]);
    let message =
        "tensor 'a' was not ended, so the file cannot be completed; call end() on each tensor";
    let mut encoder = encoder();
    let mut writer = encoder.patched("a", &four).unwrap();
    writer.push(&[1; 4], &[2; 4]).unwrap();
    drop(writer);
    assert_misuse(encoder.added("b", &four), message);
    assert_misuse(encoder.finish(), message);
}

#[test]
fn a_tensor_is_pushed_once() {
    let four = spec(Dtype::U8, &[4]);
    let mut encoder = encoder();
    let mut writer = encoder.patched("a", &four).unwrap();
    writer.push(&[1; 4], &[1; 4]).unwrap();
    writer.end().unwrap();
    assert_misuse(
        encoder.added("a", &four),
        "tensor 'a' was already pushed; push each tensor once",
    );
    let message = "tensor 'b' is U8 [4] in base and target; call patched() instead of replaced()";
    assert_misuse(encoder.replaced("b", &four, &four), message);
    // Nothing of the refused calls was taken.
    encoder.finish().unwrap();
}

#[test]
fn bytes_are_neither_too_many_nor_too_few() {
    let four = spec(Dtype::U8, &[4]);
    let mut encoder = encoder();
    let mut writer = encoder.patched("a", &four).unwrap();
    writer.push(&[1, 2], &[1, 2]).unwrap();
    assert_misuse(writer.push(&[3, 4, 5], &[3, 5]), "tensor 'a': 5 base bytes pushed, expected 4");
    assert_misuse(
        writer.push(&[3, 4], &[3, 4, 5]),
        "tensor 'a': 5 target bytes pushed, expected 4",
    );
    // Nothing of the refused calls was taken: the tensor can still be completed.
    writer.push(&[3, 4], &[]).unwrap();
    writer.push(&[], &[3, 5]).unwrap();
    writer.end().unwrap();
    assert_eq!(encoder.finish().unwrap().1.footer.changes, 1);

    for (base, target, message) in [
        (&[1, 2][..], &[1, 2, 3, 4][..], "tensor 'a': 2 base bytes pushed, expected 4"),
        (&[1, 2, 3, 4], &[1, 2], "tensor 'a': 2 target bytes pushed, expected 4"),
    ] {
        let mut encoder = self::encoder();
        let mut writer = encoder.patched("a", &four).unwrap();
        writer.push(base, target).unwrap();
        assert_misuse(writer.end(), message);
        assert_eq!(encoder.finish().unwrap_err().kind(), "misuse");
    }
}

#[test]
fn neither_side_runs_past_the_block_that_the_other_is_in() {
    let large = spec(Dtype::U8, &[3 * LEAF_BYTES as u64]);
    let mut encoder =
        Encoder::new(Vec::new(), EncoderOptions::default().with_block_leaves(1)).unwrap();
    let mut writer = encoder.patched("a", &large).unwrap();
    writer.push(&[0; LEAF_BYTES], &[]).unwrap();
    assert_misuse(
        writer.push(&[0], &[]),
        "base and target must advance together: one side runs past the end of the block that the other is in",
    );
    // Some of these bytes were taken, so this one is lost.
    let message =
        "this encoder has already failed, so its file cannot be completed; create a new one";
    assert_misuse(writer.push(&[], &[0]), message);
    assert_misuse(encoder.finish(), message);
}

#[test]
fn a_snapshot_has_no_base() {
    let four = spec(Dtype::U8, &[4]);
    let message = "tensor 'a': a snapshot has no base; call added() for all of its tensors";
    assert_misuse(snapshot().patched("a", &four), message);
    assert_misuse(snapshot().replaced("a", &four, &spec(Dtype::I8, &[4])), message);
    assert_misuse(snapshot().deleted("a", &four), message);
    let message = "file 'f': a snapshot has no base; carry the file instead";
    assert_misuse(snapshot().keep_file("f", FileKind::Companion, b""), message);
    assert_misuse(snapshot().replace_file("f", b"old", b"new"), message);
    assert_misuse(snapshot().remove_file("f", b"old"), message);
}

#[test]
fn files_come_first_once_and_with_plain_names() {
    let mut encoder = encoder();
    encoder.carry_file("f", FileKind::Companion, b"").unwrap();
    assert_misuse(
        encoder.carry_file("f", FileKind::Tensors, b""),
        "file 'f' was already given; give each file once",
    );
    for name in ["../f", ""] {
        let advice = "use a plain name without / \\ : and control characters (SPEC.md §6.6)";
        let message = format!("{name:?} is not a legal file name; {advice}");
        assert_misuse(encoder.keep_file(name, FileKind::Companion, b""), &message);
    }
    assert_misuse(
        encoder.replace_file("h", b"same", b"same"),
        "file 'h' is the same in the base; keep it instead",
    );
    encoder.added("a", &spec(Dtype::U8, &[0])).unwrap().end().unwrap();
    assert_misuse(
        encoder.keep_file("g", FileKind::Companion, b""),
        "file 'g': files come before tensors; give all files first",
    );
    assert_misuse(
        encoder.carry_file("g", FileKind::Companion, b""),
        "file 'g': files come before tensors; give all files first",
    );
}

#[test]
fn the_writer_refuses_what_readers_would_refuse() {
    let four = spec(Dtype::U8, &[4]);
    let long = "n".repeat(4097);
    let message = format!(
        "tensor '{long}': name length 4097 exceeds the limit of 4096 that readers have; shorten it"
    );
    assert_misuse(encoder().added(&long, &four), &message);
    let deep = spec(Dtype::U8, &[1; 65]);
    assert_misuse(
        encoder().added("a", &deep),
        "tensor 'a': rank 65 exceeds the limit of 64 that readers have; shorten it",
    );
    let other = |name: &str| TensorSpec::with_bytes(Dtype::Other(name.into()), &[4], 2);
    let message =
        "tensor 'a': dtype name length 256 exceeds the limit of 255 that readers have; shorten it";
    assert_misuse(encoder().added("a", &other(&"x".repeat(256)).unwrap()), message);
    // A dtype with a code of its own, spelled out: the specification or the encoder refuses it.
    for name in ["BF16", ""] {
        let error =
            other(name).and_then(|spec| encoder().added("a", &spec).map(drop)).expect_err(name);
        assert_eq!(error.kind(), "misuse", "{name}: {error}");
    }
}

#[test]
fn options_that_readers_would_refuse_are_misuse() {
    let new = |options| Encoder::new(Vec::new(), options).map(|_| ());
    let options = EncoderOptions::default;
    assert_misuse(
        new(options().with_block_leaves(0)),
        "options: block size is 0; expected 1 to 1024 leaves",
    );
    assert_misuse(
        new(options().with_block_leaves(65)),
        "options: limit `block_leaves` exceeded: asked for 65, allowed 64",
    );
    assert_misuse(
        Encoder::snapshot(Vec::new(), options().with_lineage(Lineage::default().with_base_step(1)))
            .map(|_| ()),
        "options: header flags is 5; expected no base step and no base digest in a snapshot",
    );
    assert_misuse(
        new(options().with_metadata("k", "v".repeat(1 << 20))),
        "options: limit `metadata_bytes` exceeded: asked for 1048582, allowed 1048576",
    );
}

#[test]
fn an_announced_base_must_be_the_one_that_is_pushed() {
    let options = EncoderOptions::default().with_base_digest(Digest([7; 32]));
    let error = Encoder::new(Vec::new(), options).unwrap().finish().expect_err("another base");
    let expected = BaseMismatch::new(None, Digest([7; 32]), Checkpoint::default().digest());
    assert_eq!(format!("{error:?}"), format!("{:?}", Error::BaseMismatch(Box::new(expected))));
}

#[test]
fn shapes_that_do_not_fit_are_misuse() {
    assert_misuse(
        TensorSpec::new(Dtype::F64, &[1 << 61]),
        "shape [2305843009213693952] of F64 exceeds 2^64 bytes; check the shape",
    );
    assert_misuse(
        TensorSpec::with_bytes(Dtype::Bf16, &[3], 5),
        "shape [3] of BF16 does not have 5 bytes; check dtype and shape",
    );
    assert_misuse(
        TensorSpec::new(Dtype::Other("F4".into()), &[2]),
        "dtype F4 needs an explicit size in bytes; use TensorSpec::with_bytes",
    );
}

#[test]
fn an_encoder_that_is_dropped_leaves_a_file_that_is_refused() {
    for (coding, options) in CODINGS {
        let mut patch = Vec::new();
        let mut encoder = Encoder::new(&mut patch, options()).unwrap();
        let four = spec(Dtype::U8, &[4]);
        let mut writer = encoder.patched("a", &four).unwrap();
        writer.push(&[1; 4], &[2; 4]).unwrap();
        writer.end().unwrap();
        drop(encoder);
        let error = apply(&Checkpoint::default(), &*patch).expect_err("no footer");
        assert_eq!(error.kind(), "truncated", "{coding}");
    }
}

/// Counts calls; takes three bytes at a time, and fails once `room` is used up.
#[derive(Debug, Default)]
struct Sink {
    bytes: Vec<u8>,
    room: usize,
    flushes: usize,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() >= self.room {
            return Err(io::Error::new(ErrorKind::StorageFull, "no space left"));
        }
        let taken = bytes.len().min(3);
        self.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushes += 1;
        Ok(())
    }
}

/// Encodes a tensor of four bytes.
fn encode<W: Write>(writer: W) -> Result<W> {
    let four = spec(Dtype::U8, &[4]);
    let mut encoder = Encoder::new(writer, EncoderOptions::default())?;
    let mut tensor = encoder.patched("a", &four)?;
    tensor.push(&[1; 4], &[2; 4])?;
    tensor.end()?;
    encoder.finish().map(|(writer, _)| writer)
}

#[test]
fn flush_passes_through_and_finish_flushes() {
    let mut encoder =
        Encoder::new(Sink { room: usize::MAX, ..Sink::default() }, EncoderOptions::default())
            .unwrap();
    encoder.flush().unwrap();
    encoder.flush().unwrap();
    assert_eq!(encoder.get_ref().flushes, 2);
    encoder.get_mut().flushes = 10;
    assert_eq!(encoder.finish().unwrap().0.flushes, 11);
}

#[test]
fn short_writes_lose_nothing() {
    let sink = encode(Sink { room: usize::MAX, ..Sink::default() }).unwrap();
    assert_eq!(sink.bytes, encode(Vec::new()).unwrap());
}

#[test]
fn a_writer_that_fails_at_any_byte_is_an_io_error() {
    let whole = encode(Vec::new()).unwrap();
    for room in 0..whole.len() - 3 {
        let mut sink = Sink { room, ..Sink::default() };
        let error = encode(&mut sink).expect_err("a full disk");
        assert_eq!(error.kind(), "io");
        assert!(error.to_string().ends_with(": no space left"), "{error}");
        assert_eq!(error.advice(), Some(Advice::MakeRoom));
        let source = std::error::Error::source(&error).expect("the cause");
        assert_eq!(source.downcast_ref::<io::Error>().unwrap().kind(), ErrorKind::StorageFull);
    }
}

/// Has nothing to give at every other call.
struct Hesitant<'a>(&'a [u8], bool);

impl Read for Hesitant<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let most = out.len().min(11);
        self.0.read(&mut out[..most])
    }
}

#[test]
fn a_reader_that_would_block_can_be_asked_again() {
    let patch = encode(Vec::new()).unwrap();
    let mut decoder = Decoder::new(Hesitant(&patch, false), Limits::default());
    let (mut events, mut waits) = (0, 0);
    loop {
        match decoder.next_event() {
            Ok(Some(_)) => events += 1,
            Ok(None) => break,
            Err(error) => {
                assert_eq!(error.kind(), "io", "{error}");
                waits += 1;
            }
        }
    }
    // Header, tensor, block, trailer, index, footer.
    assert_eq!(events, 6);
    assert!(waits > patch.len() / 11);
}

#[test]
fn the_typed_error_is_found_inside_an_io_error() {
    let error = apply(&Checkpoint::default(), &b"not a patch"[..]).expect_err("no patch");
    let error = io::Error::from(error);
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    let inner =
        error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).expect("the typed error");
    assert_eq!(inner.kind(), "signature");
}

#[test]
fn a_block_decoder_says_how_it_is_misused() {
    let patch = encode(Vec::new()).unwrap();
    let mut decoder = Decoder::new(patch.as_slice(), Limits::default());
    let mut seen = false;
    while let Some(event) = decoder.next_event().unwrap() {
        let pulse::Event::Block(block) = event else { continue };
        assert_misuse(
            block.apply(&mut [1; 3]),
            "3 bytes given, but the block covers 4; give the bytes of range()",
        );
        let message = "tensor 'a' has 3 bytes, but the block ends at 4; give the whole tensor";
        assert_misuse(block.apply_within(&mut [1; 3]), message);
        let mut decoder = block.decode().unwrap();
        assert_misuse(
            decoder.apply(&mut [1; 5]),
            "chunk of 5 elements, but the block has only 4 left; give no more",
        );
        let mut weights = [1; 4];
        decoder.apply(&mut weights).unwrap();
        assert_eq!(tensor_digest(&weights), tensor_digest(&[2; 4]));
        assert_misuse(
            decoder.apply_to(&[1], &mut Vec::new()),
            "chunk of 1 elements, but the block has only 0 left; give no more",
        );
        seen = true;
    }
    assert!(seen);
}
