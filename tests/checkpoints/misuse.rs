//! Callers whose sources and readers break their promises get an error, never a panic; so do odd
//! numbers of everything that has one.

use std::collections::BTreeMap;
use std::io::{self, Read};

use pulse::dtype::{Dtype, TensorSpec};
use pulse::error::Fault;
use pulse::patch::{FnSource, ReadAt, Tail};
use pulse::stream::{EncoderOptions, Receiver};
use pulse::tensors::{diff, Control, DiffOptions, TensorRef, TensorSource, Weights};
use pulse::{Decoder, Error, Limits, Patch, Result};

use testkit::files::{stepped, weights};
use testkit::held::refs;

const ELEMENTS: u64 = 70_000;

fn spec() -> TensorSpec {
    TensorSpec::new(Dtype::Bf16, &[ELEMENTS]).unwrap()
}

/// A source of two tensors of which one breaks the rules of [`TensorSource`].
struct Odd {
    spec: TensorSpec,
    bytes: Vec<u8>,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    /// Slices have so many bytes too few or too many.
    Slice(isize),
    /// Listed, but without a spec.
    NoSpec,
    /// Listed twice.
    Twice,
    /// It cannot be read.
    Fails,
    /// It does as it should.
    Good,
}

impl TensorSource for Odd {
    fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
        let names: &[&str] = if self.how == How::Twice { &["a", "b", "b"] } else { &["a", "b"] };
        names.iter().map(|name| (*name, &self.spec)).collect()
    }

    fn spec(&self, name: &str) -> Option<&TensorSpec> {
        (name == "a" || self.how != How::NoSpec).then_some(&self.spec)
    }

    fn read(&self, _: &str, start: u64, buffer: &mut [u8]) -> Result<()> {
        if self.how == How::Fails {
            return Err(Error::Misuse("no".into()));
        }
        let start = start as usize;
        buffer.copy_from_slice(&self.bytes[start..start + buffer.len()]);
        Ok(())
    }

    fn slice(&self, name: &str, start: u64, bytes: usize) -> Option<&[u8]> {
        let How::Slice(more) = self.how else { return None };
        let bytes = if name == "b" { bytes.saturating_add_signed(more) } else { bytes };
        let all = &self.bytes[start as usize..];
        Some(&all[..bytes.min(all.len())])
    }
}

fn odd(how: How) -> Odd {
    // More bytes than the tensor has, so that a slice can be too long.
    Odd { spec: spec(), bytes: weights(1, ELEMENTS as usize + 64), how }
}

#[test]
fn a_source_that_breaks_its_promises_is_an_error() {
    let good = odd(How::Good);
    for how in [
        How::Slice(-1),
        How::Slice(1),
        How::Slice(-1000),
        How::Slice(isize::MIN),
        How::Fails,
        How::NoSpec,
        How::Twice,
        How::Slice(0),
    ] {
        let odd = odd(how);
        let (base, target) = (Some(&odd as &dyn TensorSource), &odd as &dyn TensorSource);
        for threads in [1, 3] {
            let control = Control::threads(threads);
            for (base, target) in
                [(base, &good as &dyn TensorSource), (Some(&good), target), (None, target)]
            {
                let made = diff(base, target, io::sink(), DiffOptions::default(), control);
                let is_harmless = matches!(how, How::Twice | How::NoSpec | How::Slice(0));
                match made {
                    Ok(_) => assert!(is_harmless, "{how:?}"),
                    Err(error) => assert_eq!(error.kind(), "misuse", "{how:?}: {error}"),
                }
            }
        }
    }
}

/// Tensors as a receiver in memory holds them.
type Held = BTreeMap<String, (TensorSpec, Vec<u8>)>;

/// A patch of two tensors, and its base.
fn patch() -> (Vec<u8>, Held) {
    let base = weights(1, ELEMENTS as usize);
    let target = stepped(&base, 2, 99);
    let named = |bytes| -> Weights<'_> {
        ["a", "b"].map(|name| (name, TensorRef::new(spec(), bytes).unwrap())).into_iter().collect()
    };
    let mut patch = Vec::new();
    diff(
        Some(&named(&base)),
        &named(&target),
        &mut patch,
        DiffOptions::default(),
        Control::threads(1),
    )
    .unwrap();
    let held = ["a", "b"].map(|name| (name.to_string(), (spec(), base.clone())));
    (patch, held.into())
}

/// Says another length than there are bytes.
struct Lying<'a>(&'a [u8], u64);

impl ReadAt for Lying<'_> {
    fn len(&self) -> Result<u64> {
        Ok(self.1)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

#[test]
fn a_source_that_lies_about_its_length_is_an_error() {
    let (patch, _) = patch();
    let length = patch.len() as u64;
    for said in [
        0,
        1,
        9,
        10,
        151,
        152,
        200,
        length - 1,
        length + 1,
        length + 100_000,
        u64::MAX - 1,
        u64::MAX,
    ] {
        Tail::new(Lying(&patch, said), Limits::default()).map(|_| ()).unwrap_err();
        let source = FnSource::new(said, |buffer: &mut [u8], offset| {
            let rest = patch.get(offset as usize..).unwrap_or_default();
            match rest.get(..buffer.len()) {
                Some(bytes) => buffer.copy_from_slice(bytes),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            Ok(())
        });
        Tail::new(source, Limits::default()).map(|_| ()).unwrap_err();
    }
    // Bytes that were never filled in are wrong bytes, and found so.
    let idle = FnSource::new(length, |_: &mut [u8], _| Ok(()));
    Tail::new(idle, Limits::default()).map(|_| ()).unwrap_err();
    Tail::new(Lying(&patch, length), Limits::default()).unwrap();
}

/// Says that it read more than it was asked for, or less than it could.
struct Boasting<'a>(&'a [u8], usize);

impl Read for Boasting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.read(buffer)?.saturating_add(self.1))
    }
}

#[test]
fn a_reader_that_says_it_read_more_than_was_asked_is_an_error() {
    let (patch, _) = patch();
    for more in [1, 1000, usize::MAX] {
        let mut decoder = Decoder::new(Boasting(&patch, more), Limits::default());
        let error = decoder.next_event().unwrap_err();
        assert_eq!(error.kind(), "misuse", "{error}");
    }
}

/// Anything may be pushed, in pieces of any size.
#[test]
fn a_receiver_that_is_pushed_too_little_says_so() {
    let (patch, mut held) = patch();
    for length in [0, 1, 8, 9, 10, 100, patch.len() - 1] {
        let mut receiver = Receiver::in_memory(&mut held, Limits::default()).unwrap();
        receiver.push(&patch[..length]).unwrap();
        let error = receiver.finish().unwrap_err();
        assert!(
            matches!(&error, Error::Corrupt(corrupt) if matches!(corrupt.fault, Fault::Truncated { .. })),
            "{error}"
        );
    }
}

#[test]
fn odd_numbers_are_clamped_or_refused() {
    let (bytes, held) = patch();
    let base = refs(&held);
    for threads in [0, 1, 7, 1_000_000_000, usize::MAX] {
        let control = Control::threads(threads);
        diff(Some(&base), &base, io::sink(), DiffOptions::default(), control).unwrap();
    }
    for options in [
        EncoderOptions::default().with_block_leaves(0),
        EncoderOptions::default().with_block_leaves(u64::MAX),
        EncoderOptions::default().with_level(i32::MAX),
        EncoderOptions::default().with_level(i32::MIN),
    ] {
        let made = diff(Some(&base), &base, io::sink(), options.into(), Control::threads(1));
        // A level beyond those of zstd is the nearest one.
        if let Err(error) = made {
            assert_eq!(error.kind(), "misuse", "{error}");
        }
    }
    for limit in Limits::NAMES {
        for value in [0, 1, u64::MAX] {
            let limits = Limits::default().with(limit, value).unwrap();
            match Patch::from_bytes(bytes.clone(), limits) {
                Ok(_) => assert!(
                    value > 0 || !["tensors", "blocks", "target_bytes"].contains(limit),
                    "{limit}"
                ),
                Err(error) => {
                    assert!(value < u64::MAX && error.kind() == "limit", "{limit}: {error}")
                }
            }
        }
    }
    for shape in [&[u64::MAX, u64::MAX][..], &[u64::MAX, 0], &[1 << 32, 1 << 32], &[0; 300]] {
        // None of these panics; what does not fit is refused.
        if let Ok(spec) = TensorSpec::new(Dtype::F64, shape) {
            assert_eq!(spec.bytes(), 0, "{shape:?}");
        }
    }
}
