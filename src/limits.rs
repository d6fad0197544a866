//! What a reader is willing to spend on a file that it does not trust.

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
    /// Bytes of all metadata keys and values together.
    pub metadata_bytes: u64,
    /// Tensors in a patch.
    pub tensors: u64,
    /// Files that a patch describes.
    pub files: u64,
    /// Dimensions of a tensor.
    pub rank: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            section_bytes: 64 << 20,
            block_leaves: 64,
            name_bytes: 4096,
            names_bytes: 128 << 20,
            metadata_bytes: 1 << 20,
            tensors: 1 << 20,
            files: 1 << 16,
            rank: 64,
        }
    }
}

macro_rules! with {
    ($($method:ident $field:ident)*) => {$(
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
        with_metadata_bytes metadata_bytes
        with_tensors tensors
        with_files files
        with_rank rank
    }
}
