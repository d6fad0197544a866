//! One safetensors file: its header, validated strictly, and positioned reads of its tensors.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::checkpoint::json::{self, Object};
use crate::disk::content;
use crate::disk::lock::{try_lock, Access, Locked};
use crate::disk::mark::{Mark, MARK_BYTES};
use crate::disk::staged::{failed, parent};
use crate::disk::stamp::Stamp;
use crate::disk::{Disk, DiskFile};
use crate::dtype::{Dtype, TensorSpec};
use crate::error::{Content, Error, FileFault, Result};

/// Bytes of the length field at the start of a file.
const LENGTH_BYTES: usize = 8;
/// Largest header, as the reference implementation of safetensors has it.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Most bytes of all headers that a patch carries: one of the largest, with its length field.
const CARRIED_HEADERS_MAX: u64 = HEADER_BYTES_MAX + LENGTH_BYTES as u64;
/// Most dimensions that the rank field of a checkpoint digest can count.
const RANK_MAX: usize = 255;
const METADATA: &str = "__metadata__";

/// The headers that a patch carries (R80). They are counted together, not one by one: packed, a
/// header costs next to nothing.
#[derive(Debug, Default)]
pub(crate) struct CarriedHeaders {
    bytes: u64,
}

impl CarriedHeaders {
    /// Counts a header of `bytes` bytes, before it is held in memory.
    pub fn add(&mut self, bytes: u64) -> Result<(), FileFault> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > CARRIED_HEADERS_MAX {
            let (bytes, allowed) = (self.bytes, CARRIED_HEADERS_MAX);
            return Err(FileFault::HeadersTooLarge { bytes, allowed });
        }
        Ok(())
    }
}

/// A tensor as the header of a file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileTensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// How much of that goes before the name in the header.
    pub prefix_bytes: usize,
    pub spec: TensorSpec,
    /// Offset of its bytes in the file.
    pub offset: u64,
}

/// Header of a safetensors file: the length field, the JSON text, and what they say.
#[derive(Debug, Clone)]
pub(crate) struct FileHeader {
    /// Length field and JSON, byte for byte.
    pub bytes: Vec<u8>,
    /// In the order of their bytes in the file.
    pub tensors: Vec<FileTensor>,
    /// Size of the file.
    pub file_bytes: u64,
}

/// What the header says of a tensor; further keys are ignored.
#[derive(Default)]
struct RawTensor {
    dtype: Option<String>,
    shape: Option<Shape>,
    data_offsets: Option<(u64, u64)>,
}

impl<'de> Object<'de> for RawTensor {
    const IS: &'static str = "an object with dtype, shape and data_offsets";

    fn entry<A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        match key.as_str() {
            "dtype" => self.dtype = Some(map.next_value()?),
            "shape" => self.shape = Some(map.next_value()?),
            "data_offsets" => self.data_offsets = Some(map.next_value()?),
            _ => json::skip(map, 2)?,
        }
        Ok(())
    }
}

/// Dimensions, at most as many as any digest can take in: two bytes of JSON stand for eight in memory.
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dimensions;
        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an array of at most {RANK_MAX} dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(dim) = seq.next_element()? {
                    if shape.len() == RANK_MAX {
                        return Err(de::Error::invalid_length(RANK_MAX + 1, &self));
                    }
                    shape.push(dim);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(Dimensions)
    }
}

/// The free strings of a header: checked to be strings, and forgotten.
#[derive(Default)]
struct Strings;

impl<'de> Object<'de> for Strings {
    const IS: &'static str = "an object of strings";

    fn entry<A: MapAccess<'de>>(&mut self, _: String, map: &mut A) -> Result<(), A::Error> {
        map.next_value::<String>().map(|_| ())
    }
}

/// The tensors of the JSON object in order.
#[derive(Default)]
struct RawHeader(Vec<(String, RawTensor)>);

impl<'de> Object<'de> for RawHeader {
    const IS: &'static str = "an object with one entry for each tensor";

    fn entry<A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        if key == METADATA {
            map.next_value::<Strings>()?;
        } else {
            self.0.push((key, map.next_value()?));
        }
        Ok(())
    }
}

json::objects!(RawTensor, Strings, RawHeader);

impl FileHeader {
    /// Reads the header at the start of a file of `file_bytes` bytes.
    pub fn read(file: &DiskFile, file_bytes: u64) -> Result<Self> {
        let path = file.path();
        if file_bytes < LENGTH_BYTES as u64 {
            return Err(Error::bad_file(path, FileFault::TooShort { bytes: file_bytes }));
        }
        let mut length = [0; LENGTH_BYTES];
        file.read_exact_at(&mut length, 0).map_err(failed("reading", path))?;
        if let Some(mark) = Mark::of(length) {
            let journal = parent(path).join(mark.journal());
            let is_there = journal.exists();
            return Err(Error::Interrupted { path: path.into(), journal, is_there });
        }
        Self::read_marked(file, length, file_bytes)
    }

    /// Reads the header of a file that an update has marked, which once started with `head`.
    pub fn read_marked(file: &DiskFile, head: [u8; MARK_BYTES], file_bytes: u64) -> Result<Self> {
        let path = file.path();
        let json_bytes = u64::from_le_bytes(head);
        let most = file_bytes.saturating_sub(LENGTH_BYTES as u64).min(HEADER_BYTES_MAX);
        if json_bytes > most {
            return Err(Error::bad_file(path, FileFault::HeaderLength { found: json_bytes, most }));
        }
        let mut bytes = head.to_vec();
        // Within memory: at most as large as any header.
        bytes.resize(LENGTH_BYTES + json_bytes as usize, 0);
        file.read_exact_at(&mut bytes[LENGTH_BYTES..], LENGTH_BYTES as u64)
            .map_err(failed("reading", path))?;
        Self::parse(bytes, Some(file_bytes)).map_err(|fault| Error::bad_file(path, fault))
    }

    /// Reads a header; `file_bytes` is the size of its file, where there is one already.
    pub fn parse(bytes: Vec<u8>, file_bytes: Option<u64>) -> Result<Self, FileFault> {
        let bad = |what: String| FileFault::Header(what);
        let json = bytes
            .get(LENGTH_BYTES..)
            .filter(|json| json.len() as u64 == u64::from_le_bytes(first8(&bytes)));
        let json = json.ok_or_else(|| bad("its length field does not match its size".into()))?;
        if json.first() != Some(&b'{') {
            return Err(bad("it does not start with '{'".into()));
        }
        let RawHeader(raw) = json::parse(json).map_err(bad)?;
        let start = bytes.len() as u64;
        let mut tensors = Vec::with_capacity(raw.len());
        for (name, RawTensor { dtype, shape, data_offsets }) in raw {
            let lacks = |key| bad(format!("tensor '{name}' has no {key}"));
            let dtype = dtype.ok_or_else(|| lacks("dtype"))?;
            let Shape(shape) = shape.ok_or_else(|| lacks("shape"))?;
            let (begin, end) = data_offsets.ok_or_else(|| lacks("data_offsets"))?;
            let bytes = end
                .checked_sub(begin)
                .ok_or_else(|| bad(format!("tensor '{name}' ends before it starts")))?;
            let dtype = Dtype::from_name(&dtype);
            let spec = TensorSpec::with_bytes(dtype, &shape, bytes)
                .map_err(|error| bad(format!("tensor '{name}': {error}")))?;
            let offset = start
                .checked_add(begin)
                .ok_or_else(|| bad(format!("tensor '{name}' lies beyond any file")))?;
            tensors.push(FileTensor { name, prefix_bytes: 0, spec, offset });
        }
        tensors.sort_by_key(|tensor| (tensor.offset, tensor.spec.bytes()));
        let mut next = start;
        for tensor in &tensors {
            if tensor.offset != next {
                let what = if tensor.offset < next {
                    "overlaps the previous tensor"
                } else {
                    "leaves a gap before it"
                };
                return Err(bad(format!(
                    "tensor '{}' {what}: it starts at byte {}, expected {next}",
                    tensor.name, tensor.offset
                )));
            }
            next = next
                .checked_add(tensor.spec.bytes())
                .ok_or_else(|| bad(format!("tensor '{}' lies beyond any file", tensor.name)))?;
        }
        match file_bytes {
            Some(found) if found != next => Err(FileFault::Size { expected: next, found }),
            _ => Ok(FileHeader { bytes, tensors, file_bytes: next }),
        }
    }

    /// Names the tensors anew: what `prefix` gives for the name in the header goes before it, and a '/',
    /// unless that is empty.
    pub fn set_prefixes<'a>(&mut self, prefix: impl Fn(&str) -> &'a str) {
        for tensor in &mut self.tensors {
            tensor.name.drain(..tensor.prefix_bytes);
            let prefix = match prefix(&tensor.name) {
                "" => String::new(),
                prefix => format!("{prefix}/"),
            };
            tensor.prefix_bytes = prefix.len();
            tensor.name.insert_str(0, &prefix);
        }
    }

    /// The names in the checkpoint of those tensors that are not named as in the header.
    pub fn prefixed(&self) -> BTreeSet<String> {
        let tensors = self.tensors.iter().filter(|tensor| tensor.prefix_bytes > 0);
        tensors.map(|tensor| tensor.name.clone()).collect()
    }

    /// The length field.
    pub fn first8(&self) -> [u8; LENGTH_BYTES] {
        first8(&self.bytes)
    }

    /// A header for tensors that come without one: largest elements first, then by name.
    pub fn canonical<'a>(tensors: impl Iterator<Item = (&'a str, &'a TensorSpec)>) -> Result<Self> {
        let bad = |what: String| Error::BadFile { path: None, fault: FileFault::Refused(what) };
        let mut sorted: Vec<_> = tensors.collect();
        sorted.sort_by_key(|(name, spec)| (std::cmp::Reverse(spec.dtype().element_bytes()), *name));
        let (mut json, mut begin) = (String::from("{"), 0u64);
        for (name, spec) in sorted {
            if name == METADATA {
                return Err(bad(format!(
                    "a tensor cannot be named {METADATA} in a safetensors file"
                )));
            }
            let end = begin.checked_add(spec.bytes()).ok_or_else(|| {
                bad("more than 2^64 bytes of tensors; no file can hold that".into())
            })?;
            // Quoted by serde_json, ordered here: the bytes must not depend on its features.
            let quoted = |text: &str| serde_json::Value::from(text).to_string();
            let comma = if json.len() > 1 { "," } else { "" };
            let (name, dtype, shape) = (quoted(name), quoted(spec.dtype().name()), spec.shape());
            json.push_str(&format!(
                "{comma}{name}:{{\"dtype\":{dtype},\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}"
            ));
            begin = end;
            if json.len() as u64 >= HEADER_BYTES_MAX - 8 {
                return Err(bad(format!(
                    "the header of the file would exceed {HEADER_BYTES_MAX} bytes, which no reader accepts"
                )));
            }
        }
        json.push('}');
        while json.len() % 8 != 0 {
            json.push(' ');
        }
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        Self::parse(bytes, None).map_err(|fault| Error::BadFile { path: None, fault })
    }
}

/// Opens a tensor file by its name, and locks it.
pub(crate) fn open_locked(path: &Path, disk: &Disk, access: Access) -> Result<(DiskFile, Locked)> {
    let io = |error| Error::io_at("opening", path, error);
    // Looked at before it is opened: opening a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(Error::bad_file(path, FileFault::NotRegular));
    }
    let file = match access {
        Access::Read => disk.open(path).map_err(io)?,
        Access::Change => disk
            .open_to_change(path)
            .map_err(|error| Error::io_at("opening for writing", path, error))?,
    };
    let locked =
        file.held().and_then(|file| try_lock(file, access)).map_err(failed("locking", path))?;
    // Before it was locked, another file may have taken its name.
    let is_named = access == Access::Read || file.has_its_name();
    if locked == Locked::Busy || !is_named {
        return Err(Error::Busy { path: path.into() });
    }
    Ok((file, locked))
}

fn first8(bytes: &[u8]) -> [u8; 8] {
    let mut first = [0; 8];
    if let Some(found) = bytes.get(..8) {
        first.copy_from_slice(found);
    }
    first
}

/// Says what the file is, if it has no header because it is something else.
fn recognised(path: &Path, error: Error) -> Error {
    use FileFault::{Header, HeaderLength, TooShort};
    match error {
        Error::BadFile { fault: Header(_) | HeaderLength { .. } | TooShort { .. }, .. } => {
            match content::look(path) {
                None | Some(Content::Safetensors) => error,
                Some(content) => Error::bad_file(path, FileFault::NoCheckpoint(content)),
            }
        }
        other => other,
    }
}

/// An open safetensors file.
#[derive(Debug)]
pub(crate) struct TensorFile {
    /// Name in its directory; empty if the checkpoint is one file.
    pub name: String,
    pub header: FileHeader,
    file: Arc<DiskFile>,
    stamp: Stamp,
}

impl TensorFile {
    /// Opens a file and locks it for that access, and says whether the file system has locks.
    pub fn open(path: &Path, name: &str, disk: &Disk, access: Access) -> Result<(Self, Locked)> {
        let (file, locked) = open_locked(path, disk, access)?;
        let metadata = file.metadata().map_err(failed("opening", path))?;
        let header =
            FileHeader::read(&file, metadata.len()).map_err(|error| recognised(path, error))?;
        let (file, stamp) = (Arc::new(file), Stamp::of(&metadata));
        Ok((TensorFile { name: name.into(), header, file, stamp }, locked))
    }

    /// A file whose header is known, although it may not start with its length now.
    pub fn with_header(name: &str, header: FileHeader, file: Arc<DiskFile>) -> Result<Self> {
        let metadata = file.metadata().map_err(failed("opening", file.path()))?;
        Ok(TensorFile { name: name.into(), header, file, stamp: Stamp::of(&metadata) })
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Closes it until it is read: see [`DiskFile::park`].
    pub fn park(&mut self) -> Result<()> {
        // Nobody else has it yet.
        let file = Arc::get_mut(&mut self.file).map_or(Ok(()), DiskFile::park);
        file.map_err(failed("opening", self.path()))
    }

    pub fn disk_file(&self) -> &Arc<DiskFile> {
        &self.file
    }

    /// Whether the file, open and by its name, is what it was when it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.stamp.check(self.path(), self.file.held().ok())
    }

    /// Fills `buffer` from the bytes at `offset` of the file.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|error| {
            Error::io_at(
                format!("reading {} bytes at byte {offset} of", buffer.len()),
                self.path(),
                error,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, data: u64) -> Result<FileHeader, FileFault> {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        let file_bytes = bytes.len() as u64 + data;
        FileHeader::parse(bytes, Some(file_bytes))
    }

    #[test]
    fn headers_are_validated_strictly() {
        let tensor = |begin, end| {
            format!(r#"{{"dtype":"U8","shape":[{}],"data_offsets":[{begin},{end}]}}"#, end - begin)
        };
        let two = |a: String, b: String| format!(r#"{{"a":{a},"b":{b}}}"#);
        assert_eq!(parse(&two(tensor(4, 6), tensor(0, 4)), 6).unwrap().tensors[0].name, "b");
        assert_eq!(parse("{}", 0).unwrap().tensors, []);
        let further = r#"{"a":{"dtype":"U8","note":[{"a":1e3}],"shape":[4],"data_offsets":[0,4]}}"#;
        assert_eq!(parse(further, 4).unwrap().tensors.len(), 1);
        assert_eq!(parse(r#"{"__metadata__":{"k":"v"}}  "#, 0).unwrap().tensors, []);
        for (json, data, why) in [
            (two(tensor(0, 4), tensor(3, 6)), 6, "overlaps"),
            (two(tensor(0, 4), tensor(5, 6)), 6, "gap"),
            (two(tensor(1, 4), tensor(4, 6)), 6, "gap"),
            (two(tensor(0, 4), tensor(4, 6)), 7, "file of"),
            (two(tensor(0, 4), tensor(4, 6)), 5, "file of"),
            (format!(r#"{{"a":{},"a":{}}}"#, tensor(0, 4), tensor(4, 6)), 6, "\"a\" is duplicated"),
            (r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}"#.into(), 0, "ends before"),
            (r#"{"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,4]}}"#.into(), 4, "8 bytes"),
            (
                r#"{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#.into(),
                4,
                "duplicate",
            ),
            (r#"{"a":{"dtype":"U8","shape":[4]}}"#.into(), 4, "no data_offsets"),
            (r#"{"a":{"dtype":"U8","data_offsets":[0,4]}}"#.into(), 4, "no shape"),
            (r#"{"a":{"shape":[4],"data_offsets":[0,4]}}"#.into(), 4, "no dtype"),
            (r#"{"a":["U8",[4],[0,4]]}"#.into(), 4, "an object with dtype"),
            (r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[-0,4]}}"#.into(), 4, "invalid type"),
            (
                r#"{"a":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}}"#.into(),
                4,
                "invalid type",
            ),
            (
                r#"{"a":{"dtype":"U8","shape":[4e0],"data_offsets":[0,4]}}"#.into(),
                4,
                "invalid type",
            ),
            (r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4,4]}}"#.into(), 4, "trailing"),
            (
                r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"n":{"k":1,"k":1}}}"#.into(),
                4,
                "\"k\" is duplicated",
            ),
            (r#"{"__metadata__":{"k":"v","k":"v"}}"#.into(), 0, "\"k\" is duplicated"),
            (r#"{"__metadata__":{"k":1}}"#.into(), 0, "string"),
            (r#"{"__metadata__":["k"]}"#.into(), 0, "object of strings"),
            (
                format!(
                    r#"{{"a":{{"dtype":"U8","shape":[{}1],"data_offsets":[0,1]}}}}"#,
                    "1,".repeat(255)
                ),
                1,
                "255 dim",
            ),
            (" {}".into(), 0, "start with"),
            ("[]".into(), 0, "start with"),
            ("{}x".into(), 0, "trailing"),
        ] {
            let found = parse(&json, data).map(|_| ()).unwrap_err().to_string();
            assert!(found.contains(why) || why == "8 bytes", "{json}: {found}");
        }
    }

    #[test]
    fn a_canonical_header_reads_back() {
        let spec = |dtype, shape: &[u64]| TensorSpec::new(dtype, shape).unwrap();
        let tensors = [
            ("b", spec(Dtype::U8, &[3])),
            ("quo\"te", spec(Dtype::F64, &[])),
            ("a", spec(Dtype::U8, &[0])),
        ];
        let header =
            FileHeader::canonical(tensors.iter().map(|(name, spec)| (*name, spec))).unwrap();
        let names: Vec<_> = header.tensors.iter().map(|tensor| &*tensor.name).collect();
        assert_eq!(names, ["quo\"te", "a", "b"]);
        assert_eq!(header.bytes.len() % 8, 0);
        assert_eq!(header.file_bytes, header.bytes.len() as u64 + 11);
    }
}
