//! What a reader is willing to spend on a file that it does not trust.

use crate::error::Fault;

/// Limits of a reader. Every decoder takes them in its constructor; the defaults are finite
/// and large enough for any model of today (SPEC.md §10).
///
/// ```
/// use pulse::Limits;
/// let small = Limits::default().with_section_bytes(1 << 16).with_tensors(1000);
/// assert_eq!(small.tensors, 1000);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of the payload of one section.
    pub section_bytes: u64,
    /// Leaves of 64 KiB in one block; bounds the elements of a block as well.
    pub block_leaves: u64,
    /// Bytes of a tensor name, a file name or a dtype name.
    pub name_bytes: u64,
    /// Bytes of all tensor names together: front coding lets a few bytes stand for a long name.
    pub names_bytes: u64,
    /// Bytes of all tensor names together, for each byte of the patch that was read; the first MiB is
    /// free. Names of models are shared in part, never in this proportion.
    pub name_expansion: u64,
    /// Bytes of all metadata keys and values together.
    pub metadata_bytes: u64,
    /// Tensors in a patch.
    pub tensors: u64,
    /// Files that a patch describes.
    pub files: u64,
    /// Dimensions of a tensor.
    pub rank: u64,
    /// Blocks of all tensors together: readers that come back to blocks remember where each is.
    pub blocks: u64,
    /// Bytes that a patch says its target has: those of its tensors and of the files it carries,
    /// and those that the footer names. A few kilobytes of zstd can fill a disk: where a patch is
    /// not trusted, set this to what is expected.
    pub target_bytes: u64,
    /// Bytes that a patch unpacks to without its base, for each byte of it that was read: bytes of the
    /// tensors and files that it carries whole and, where blocks of changes are unpacked with no base
    /// at hand, 64 for each change. The first 256 MiB are free. So the target, and the time to make
    /// it, are bounded by base and patch; a patch to a large checkpoint of zeros needs a greater limit.
    pub expansion: u64,
}

/// What [`Limits::expansion`] leaves free.
pub(crate) const FREE_BYTES: u64 = 256 << 20;
/// What [`Limits::name_expansion`] leaves free.
pub(crate) const FREE_NAME_BYTES: u64 = 1 << 20;
/// What a change counts for that is unpacked without its base: about the time of so many bytes hashed.
#[cfg(feature = "parallel")]
pub(crate) const CHANGE_BYTES: u64 = 64;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            section_bytes: 64 << 20,
            block_leaves: 64,
            name_bytes: 4096,
            names_bytes: 128 << 20,
            name_expansion: 8,
            metadata_bytes: 1 << 20,
            tensors: 1 << 20,
            files: 1 << 16,
            rank: 64,
            blocks: 1 << 24,
            target_bytes: 16 << 40,
            expansion: 1024,
        }
    }
}

macro_rules! with {
    ($($method:ident $field:ident)*) => {
        /// The names of all limits, which are those of the fields.
        pub const NAMES: &[&str] = &[$(stringify!($field)),*];

        /// Replaces the limit of this name; `None` if there is no such limit.
        ///
        /// ```
        /// use pulse::Limits;
        /// assert_eq!(Limits::default().with("tensors", 1000), Some(Limits::default().with_tensors(1000)));
        /// assert_eq!(Limits::default().with("tensor", 1000), None);
        /// ```
        #[must_use]
        pub fn with(mut self, name: &str, value: u64) -> Option<Self> {
            match name {
                $(stringify!($field) => self.$field = value,)*
                _ => return None,
            }
            Some(self)
        }
        $(
        #[doc = concat!("Replaces [`", stringify!($field), "`](Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $method(mut self, $field: u64) -> Self {
            self.$field = $field;
            self
        }
    )*};
}

impl Limits {
    with! {
        with_section_bytes section_bytes
        with_block_leaves block_leaves
        with_name_bytes name_bytes
        with_names_bytes names_bytes
        with_name_expansion name_expansion
        with_metadata_bytes metadata_bytes
        with_tensors tensors
        with_files files
        with_rank rank
        with_blocks blocks
        with_target_bytes target_bytes
        with_expansion expansion
    }
}

/// What a file has used up of the limits that hold for all of it. Readers and writers keep the same
/// account, so that no writer makes what readers refuse.
#[derive(Debug, Default)]
pub(crate) struct Used {
    files: u64,
    tensors: u64,
    names_bytes: u64,
    blocks: u64,
    target_bytes: u64,
    unpacked_bytes: u64,
}

impl Used {
    /// One more file, of which the patch carries this many bytes.
    pub fn file(&mut self, limits: &Limits, carried_bytes: u64) -> Result<(), Fault> {
        spend("files", &mut self.files, 1, limits.files)?;
        spend("target_bytes", &mut self.target_bytes, carried_bytes, limits.target_bytes)
    }

    /// One more tensor, which has this many bytes in the target.
    pub fn tensor(&mut self, limits: &Limits, name: &str, target_bytes: u64) -> Result<(), Fault> {
        spend("tensors", &mut self.tensors, 1, limits.tensors)?;
        spend("names_bytes", &mut self.names_bytes, name.len() as u64, limits.names_bytes)?;
        spend("target_bytes", &mut self.target_bytes, target_bytes, limits.target_bytes)
    }

    /// More bytes that the patch carries whole, of which `read` bytes were read. A reader's account
    /// only: what a reader is told to expect, a writer may write.
    pub fn unpacked(&mut self, limits: &Limits, bytes: u64, read: u64) -> Result<(), Fault> {
        self.unpacked_bytes = self.unpacked_bytes.saturating_add(bytes);
        check_expansion(self.unpacked_bytes, read, limits)
    }

    /// What the names that came so far may be in all, once so many bytes of the patch were read.
    pub fn names(&self, limits: &Limits, read: u64) -> Result<(), Fault> {
        check_name_expansion(self.names_bytes, read, limits)
    }

    /// One more block.
    pub fn block(&mut self, limits: &Limits) -> Result<(), Fault> {
        spend("blocks", &mut self.blocks, 1, limits.blocks)
    }
}

fn spend(limit: &'static str, used: &mut u64, more: u64, allowed: u64) -> Result<(), Fault> {
    *used = used.saturating_add(more);
    check(limit, *used, allowed)
}

/// A fault if so many bytes are too many for a patch of which `read` bytes were read.
pub(crate) fn check_expansion(bytes: u64, read: u64, limits: &Limits) -> Result<(), Fault> {
    check_ratio("expansion", bytes, FREE_BYTES, read, limits.expansion)
}

/// The same for the names of its tensors.
pub(crate) fn check_name_expansion(bytes: u64, read: u64, limits: &Limits) -> Result<(), Fault> {
    check_ratio("name_expansion", bytes, FREE_NAME_BYTES, read, limits.name_expansion)
}

fn check_ratio(
    limit: &'static str,
    bytes: u64,
    free: u64,
    read: u64,
    allowed: u64,
) -> Result<(), Fault> {
    check(limit, bytes.saturating_sub(free).div_ceil(read.max(1)), allowed)
}

/// A fault unless `asked` is allowed.
pub(crate) fn check(limit: &'static str, asked: u64, allowed: u64) -> Result<(), Fault> {
    if asked <= allowed {
        Ok(())
    } else {
        Err(Fault::Limit { limit, asked, allowed })
    }
}
