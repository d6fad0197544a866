//! What one of several producers makes of what it holds, so that `join` makes one patch of it.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::coding::{self, BlockOptions, Coding, EncodedBlock, ValueForm};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::hash::{Sha, TensorHasher, LEAF_BYTES};
use crate::parse::{self, Parse};
use crate::patch::{LocalFile, ReadAt};
use crate::stream::{BaseSide, EncoderOptions};
use crate::tensors::diff::{check_sampled, Encoded, Encoding};
use crate::tensors::pieces::{for_each_item, Buffers, Piece};
use crate::tensors::share::{Bounds, Digests, Edge, Share, Stored};
use crate::tensors::slices::Held;
use crate::tensors::{Control, DiffOptions, Slices, TensorSource};
use crate::varint;

/// How a part begins. No other version promises to read it.
const SIGNATURE: &[u8] = concat!("pulse part ", env!("CARGO_PKG_VERSION"), "\n").as_bytes();
/// What stands before the version.
const SIGNATURE_WORDS: usize = "pulse part ".len();
/// Length of the index, and SHA-256 of all before that digest.
const END_BYTES: u64 = 8 + 32;
/// A part is read in pieces of this size when it is checked.
const READ_BYTES: usize = 1 << 20;

/// A rank's part of a patch: what it made of the tensors and slices that it holds. [`join`] makes one
/// patch of the parts of all ranks, with the digests that a single producer would have found.
///
/// A part is no patch: nobody but `join` reads it, and only in the version of this crate that made
/// it. It holds encoded blocks and digests, and of a slice also the bytes of the two leaves of
/// 64 KiB that it shares with its neighbours. It begins with its version and ends with its SHA-256, so
/// that what arrived is what was sent; who made it has to be trusted, as a producer has.
///
/// [`join`]: crate::tensors::join
///
/// ```
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::tensors::{join, Control, DiffOptions, Part, Slices, TensorRef, Weights};
/// let full = TensorSpec::new(Dtype::U8, &[2, 3])?;
/// let row = TensorSpec::new(Dtype::U8, &[1, 3])?;
/// let mut parts = Vec::new();
/// for (rank, (before, after)) in [(b"abc", b"abd"), (b"def", b"def")].into_iter().enumerate() {
///     // On each rank: its own row of the tensor, and which one it is.
///     let base: Weights = [("w", TensorRef::new(row.clone(), before)?)].into_iter().collect();
///     let target: Weights = [("w", TensorRef::new(row.clone(), after)?)].into_iter().collect();
///     let first = 3 * rank as u64;
///     let slices = Slices::default().with("w", full.clone(), first..first + 3)?;
///     let (options, mut part) = (DiffOptions::default(), Vec::new());
///     Part::diff(Some(&base), &target, &slices, &mut part, options, Control::default())?;
///     parts.push(Part::from_bytes(part)?); // once it has travelled
/// }
/// let mut patch = Vec::new();
/// let report = join(parts, &mut patch, Default::default(), Control::default())?;
/// assert_eq!(report.summary.footer.changes, 1);
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
pub struct Part {
    source: Source,
    path: Option<PathBuf>,
    settings: Settings,
    shares: Vec<Share>,
}

#[derive(Debug)]
enum Source {
    File(LocalFile),
    Memory(Vec<u8>),
}

/// What the parts of a patch have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings {
    pub block: BlockOptions,
    pub block_leaves: u64,
    pub has_base: bool,
}

impl Settings {
    pub fn new(options: &EncoderOptions, has_base: bool) -> Self {
        Settings { block: options.block, block_leaves: options.block_leaves, has_base }
    }

    fn write(self, out: &mut Vec<u8>) {
        out.push(u8::from(self.has_base));
        varint::put(out, self.block_leaves);
        out.push(self.block.coding.code());
        out.push(match self.block.values {
            ValueForm::UlpStep => 0,
            ValueForm::Xor => 1,
            ValueForm::Overwrite => 2,
        });
        out.extend_from_slice(&self.block.level.to_le_bytes());
    }

    fn parse(i: &[u8]) -> Parse<'_, Settings> {
        let (rest, has_base) = parse::u8(i, "flags")?;
        parse::check(i, has_base <= 1, "flags", has_base.into(), "0 or 1")?;
        let (i, block_leaves) = parse::varint(rest, "block size")?;
        parse::check(
            rest,
            (1..=64).contains(&block_leaves),
            "block size",
            block_leaves,
            "1 to 64",
        )?;
        let (rest, code) = parse::u8(i, "coding")?;
        let coding = Coding::from_code(code).filter(|&coding| coding != Coding::Whole);
        parse::check(i, coding.is_some(), "coding", code.into(), "contextual or flat")?;
        let (i, form) = parse::u8(rest, "value form")?;
        let values = match form {
            0 => ValueForm::UlpStep,
            1 => ValueForm::Xor,
            _ => ValueForm::Overwrite,
        };
        parse::check(rest, form <= 2, "value form", form.into(), "0 to 2")?;
        let (i, bytes) = parse::take(i, 4, "level")?;
        let mut level = [0; 4];
        level.copy_from_slice(bytes);
        let level = i32::from_le_bytes(level);
        let block = BlockOptions { coding: coding.unwrap_or_default(), values, level };
        Ok((i, Settings { block, block_leaves, has_base: has_base == 1 }))
    }
}

/// For people: its options.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = if self.has_base { "with a base" } else { "without a base" };
        let BlockOptions { coding, values, level } = self.block;
        let coding = coding.name();
        write!(f, "{coding}, {values:?}, level {level}, {} leaves, {base}", self.block_leaves)
    }
}

impl Part {
    /// Makes this rank's part of the patch that leads from `base` to `target`, or without a base of a
    /// snapshot, and writes it to `out`: a file, a socket, a `Vec`. Gives back its size in bytes.
    ///
    /// `base` and `target` are what this rank alone answers for: each tensor, and each element
    /// of a tensor that `slices` declares to be shared, must come from exactly one rank. A tensor that
    /// several ranks hold is given by one of them. A tensor that only `base` has is deleted by the patch.
    ///
    /// Encoding and hashing happen here, on all threads; `join` has little left to do. Of the options
    /// of the encoder, those of blocks count and must be the same on all ranks; run, steps and metadata
    /// are those that `join` is given. Digests on trust are those of whole tensors, also for slices;
    /// the sample is one that this rank has whole.
    ///
    /// # Errors
    /// [`Error::Misuse`] for options and tensors that readers would refuse, and for slices that do
    /// not fit their tensors; [`Error::BaseMismatch`] if digests on trust are not those of the base;
    /// [`Error::Cancelled`], [`Error::Io`].
    pub fn diff(
        base: Option<&dyn TensorSource>,
        target: &dyn TensorSource,
        slices: &Slices,
        out: impl Write,
        options: DiffOptions,
        control: Control<'_>,
    ) -> Result<u64> {
        let base_side = options.base_side(base.is_some())?;
        // Refuses what the writer of the patch would refuse.
        base_side.header(&options.encoder)?;
        let settings = Settings::new(&options.encoder, base.is_some());
        let held = slices.held(base, target)?;
        let sample = match (&base_side, base) {
            (BaseSide::Trusted(trusted), Some(base)) if options.sample => {
                let is_whole = |name: &str| base.spec(name).is_some() && !slices.contains(name);
                trusted.sample(base, is_whole)
            }
            _ => None,
        };
        let is_trusted =
            |name: &str| base_side.trusted_digest(name).is_some() && Some(name) != sample;
        let full = options.encoder.block_bytes();
        let pieces =
            held.iter().flat_map(|held| held.pieces(full).into_iter().map(move |it| (held, it)));

        let mut writer = Writer::new(out)?;
        let mut leaves = [Vec::new(), Vec::new()];
        let mut shares: Vec<Share> = Vec::new();
        let work = |own: &mut Making, group: &[(&Held<'_>, Piece<'_>)]| {
            own.make(group, base, target, settings.block, &is_trusted)
        };
        let size = |(_, piece): &(&Held<'_>, Piece<'_>)| piece.bytes();
        let made = for_each_item(pieces, size, full, control, Making::default, work, |it, made| {
            let (held, piece) = it;
            if piece.first {
                shares.push(Share::of(held));
            }
            // The first piece of a tensor came first.
            let Some(share) = shares.last_mut() else { return Ok(()) };
            match made {
                Made::Leaves(encoded) => {
                    leaves[0].extend(encoded.base_leaves);
                    if let Some(block) = &encoded.block {
                        let first = piece.start / LEAF_BYTES as u64;
                        let end = first + encoded.target_leaves.len() as u64;
                        share.blocks.push((first..end, writer.store(block)?));
                    }
                    leaves[1].extend(encoded.target_leaves);
                }
                Made::Edge { base, target } => {
                    let mut store = |block: Option<EncodedBlock>| {
                        block.map(|block| writer.store(&block)).transpose()
                    };
                    let edge = Edge { base: store(base)?, target: store(target)? };
                    let is_head =
                        share.cut().head.start == piece.start && share.cut().head.end > piece.start;
                    *(if is_head { &mut share.head } else { &mut share.tail }) = edge;
                }
            }
            if piece.last {
                let name = share.name.clone();
                let [base_leaves, target_leaves] = leaves.each_mut().map(std::mem::take);
                let digests = |leaves| held.digests(leaves);
                let trusted = base_side.trusted_digest(&name);
                let found = match trusted.filter(|_| is_trusted(&name)) {
                    Some(trusted) => Digests::Tensor(trusted),
                    None => digests(base_leaves),
                };
                if let (true, Some(expected), Digests::Tensor(found)) =
                    (Some(name.as_str()) == sample, trusted, &found)
                {
                    check_sampled(&name, expected, *found)?;
                }
                share.base_digests = share.base.as_ref().map(|_| found);
                share.target_digests = share.target.as_ref().map(|_| digests(target_leaves));
            }
            Ok(())
        });
        if matches!(made, Ok(()) | Err(Error::Io { .. } | Error::BaseMismatch(_))) {
            // A part of what never was must not be complete.
            base.into_iter().chain([target]).try_for_each(|source| source.check_unchanged())?;
        }
        made?;
        writer.finish(settings, &shares)
    }

    /// Opens a part in a file and checks all of it. The blocks stay there until `join` asks for
    /// them, so that a snapshot of any size is joined in little memory.
    ///
    /// # Errors
    /// [`Error::Part`] if it is damaged, or of another version of this crate; [`Error::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let source = Source::File(LocalFile::open(path)?);
        Self::new(source, Some(path.into()))
    }

    /// As [`open`](Self::open), for a part in memory.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(part: Vec<u8>) -> Result<Self> {
        Self::new(Source::Memory(part), None)
    }

    fn new(source: Source, path: Option<PathBuf>) -> Result<Self> {
        let settings = Settings::new(&EncoderOptions::default(), false);
        let mut part = Part { source, path, settings, shares: Vec::new() };
        let bytes = part.source.read_at().len()?;
        let least = SIGNATURE.len() as u64 + END_BYTES;
        let (signature, rest) = (part.read(0, SIGNATURE.len().min(bytes as usize))?, bytes);
        if signature.get(..SIGNATURE_WORDS) != SIGNATURE.get(..SIGNATURE_WORDS) {
            return Err(part.error("it is no part of a patch"));
        }
        if signature != SIGNATURE {
            let version =
                |of: &[u8]| String::from_utf8_lossy(&of[SIGNATURE_WORDS..]).trim_end().to_string();
            let (found, own) = (version(&signature), version(SIGNATURE));
            return Err(part.error(format!(
                "it was made by version {found} of this library, and this is {own}"
            )));
        }
        if rest < least {
            return Err(part.error(format!("it is damaged: {bytes} bytes are too few")));
        }
        part.check_digest(bytes)?;
        // Room for these was checked.
        let end = bytes - END_BYTES;
        let mut index_bytes = [0; 8];
        index_bytes.copy_from_slice(&part.read(end, 8)?);
        let index_bytes = u64::from_le_bytes(index_bytes);
        let Some(start) =
            end.checked_sub(index_bytes).filter(|&start| start >= SIGNATURE.len() as u64)
        else {
            return Err(part.error(format!("it is damaged: an index of {index_bytes} bytes")));
        };
        // No more than the part has.
        let index = part.read(start, index_bytes as usize)?;
        let parsed = parse::all(&index, "index", |i| parse_index(i, start));
        (part.settings, part.shares) = parsed.map_err(|bad| {
            part.error(format!("byte {} of it: {}", end - bad.rest as u64, bad.fault))
        })?;
        Ok(part)
    }

    fn check_digest(&self, bytes: u64) -> Result<()> {
        let mut sha = Sha::default();
        let (mut at, end) = (0, bytes - 32);
        let mut buffer = vec![0; end.min(READ_BYTES as u64) as usize];
        while at < end {
            let piece = &mut buffer[..(end - at).min(READ_BYTES as u64) as usize];
            self.source.read_at().read_exact_at(piece, at)?;
            sha.update(piece);
            at += piece.len() as u64;
        }
        let mut expected = Digest::default();
        expected.0.copy_from_slice(&self.read(end, 32)?);
        let found = sha.finish();
        if expected != found {
            return Err(
                self.error(format!("it is damaged: its SHA-256 is {found}, expected {expected}"))
            );
        }
        Ok(())
    }

    fn read(&self, at: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut read = vec![0; bytes];
        self.source.read_at().read_exact_at(&mut read, at)?;
        Ok(read)
    }

    pub(super) fn settings(&self) -> Settings {
        self.settings
    }

    pub(super) fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// A block, as it was stored.
    pub(super) fn block(&self, stored: &Stored) -> Result<EncodedBlock> {
        let range = &stored.payload;
        // Within the part, which was read in full before.
        let payload = self.read(range.start, (range.end - range.start) as usize)?;
        if crc32fast::hash(&payload) != stored.crc {
            return Err(self.error("it changed after it was opened"));
        }
        Ok(EncodedBlock::new(stored.coding, stored.changes, None, payload))
    }

    /// Something is wrong with this part.
    pub(super) fn error(&self, what: impl Into<String>) -> Error {
        Error::Part { file: self.path.clone(), what: what.into() }
    }
}

impl Source {
    fn read_at(&self) -> &dyn ReadAt {
        match self {
            Source::File(file) => file,
            Source::Memory(bytes) => bytes,
        }
    }
}

fn parse_index(i: &[u8], payloads_end: u64) -> Parse<'_, (Settings, Vec<Share>)> {
    let (mut i, settings) = Settings::parse(i)?;
    let bounds = Bounds { block_leaves: settings.block_leaves, payloads_end };
    let mut shares: Vec<Share> = Vec::new();
    while !i.is_empty() {
        let previous = shares.last().map_or("", |share| share.name.as_str());
        let (rest, share) = Share::parse(i, previous, bounds)?;
        let legal = shares.is_empty() || share.name.as_str() > previous;
        parse::check(i, legal, "tensor name", shares.len() as u64, "ascending names")?;
        let legal = settings.has_base || share.base.is_none();
        parse::check(i, legal, "base of a tensor", shares.len() as u64, "none in a snapshot")?;
        shares.push(share);
        i = rest;
    }
    Ok((i, (settings, shares)))
}

impl Share {
    fn of(held: &Held<'_>) -> Share {
        Share {
            name: held.pair.name.into(),
            base: held.pair.base.cloned(),
            target: held.pair.target.cloned(),
            range: held.range(),
            base_digests: None,
            target_digests: None,
            blocks: Vec::new(),
            head: Edge::default(),
            tail: Edge::default(),
        }
    }
}

impl Held<'_> {
    /// What there is to say of leaves: of all of a tensor, its digest.
    fn digests(&self, leaves: Vec<Digest>) -> Digests {
        if self.slice.is_some() {
            return Digests::Leaves(leaves);
        }
        let mut hasher = TensorHasher::new();
        leaves.iter().for_each(|leaf| hasher.push_leaf(leaf));
        Digests::Tensor(hasher.finish())
    }
}

/// What a thread keeps while it makes a part.
#[derive(Debug, Default)]
struct Making {
    encoding: Encoding,
    buffers: Buffers,
    scratch: coding::Scratch,
}

/// What became of a piece.
#[derive(Debug)]
enum Made {
    Leaves(Encoded),
    Edge { base: Option<EncodedBlock>, target: Option<EncodedBlock> },
}

impl Making {
    fn make(
        &mut self,
        group: &[(&Held<'_>, Piece<'_>)],
        base: Option<&dyn TensorSource>,
        target: &dyn TensorSource,
        options: BlockOptions,
        is_trusted: &impl Fn(&str) -> bool,
    ) -> Result<Vec<Made>> {
        let of_leaves = group.iter().filter(|(held, piece)| !held.is_edge(piece));
        let pieces: Vec<Piece<'_>> = of_leaves.map(|&(_, piece)| piece).collect();
        let encoded = self.encoding.encode(&pieces, base, Some(target), options, is_trusted)?;
        let mut encoded = encoded.into_iter().map(Made::Leaves);
        let mut made = Vec::with_capacity(group.len());
        for (held, piece) in group {
            if held.is_edge(piece) {
                made.push(self.edge(piece, base, target, options)?);
            } else {
                made.extend(encoded.next());
            }
        }
        Ok(made)
    }

    /// A part of a leaf travels as bytes, packed.
    fn edge(
        &mut self,
        piece: &Piece<'_>,
        base: Option<&dyn TensorSource>,
        target: &dyn TensorSource,
        options: BlockOptions,
    ) -> Result<Made> {
        let (bases, targets) = self.buffers.read(&[*piece], base, Some(target))?;
        let (bases, targets) = (bases.concat(), targets.concat());
        let scratch = &mut self.scratch;
        let of_base = piece
            .pair
            .base
            .map(|spec| coding::encode_whole(spec.dtype(), options, &bases, scratch));
        let of_target = piece.pair.target.and_then(|spec| match of_base {
            Some(_) => coding::encode(spec.dtype(), None, options, &bases, &targets, scratch),
            None => Some(coding::encode_whole(spec.dtype(), options, &targets, scratch)),
        });
        Ok(Made::Edge { base: of_base, target: of_target })
    }
}

/// Writes a part: payloads as they come, then the index that says what they are.
struct Writer<W> {
    out: W,
    sha: Sha,
    at: u64,
}

impl<W: Write> Writer<W> {
    fn new(out: W) -> Result<Self> {
        let mut writer = Writer { out, sha: Sha::default(), at: 0 };
        writer.put(SIGNATURE)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|error| Error::io("writing the part", error))?;
        self.sha.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn store(&mut self, block: &EncodedBlock) -> Result<Stored> {
        let start = self.at;
        self.put(&block.payload)?;
        let crc = crc32fast::hash(&block.payload);
        let (coding, changes) = (block.coding, block.changes);
        Ok(Stored { coding, changes, payload: start..self.at, crc })
    }

    fn finish(mut self, settings: Settings, shares: &[Share]) -> Result<u64> {
        let mut index = Vec::new();
        settings.write(&mut index);
        let mut previous = "";
        for share in shares {
            share.write(previous, &mut index);
            previous = &share.name;
        }
        self.put(&index)?;
        self.put(&(index.len() as u64).to_le_bytes())?;
        let digest = self.sha.clone().finish();
        self.put(&digest.0)?;
        self.out.flush().map_err(|error| Error::io("writing the part", error))?;
        Ok(self.at)
    }
}
