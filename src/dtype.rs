//! Element types, spelled as safetensors spells them, and what the codings need to know of them.

use std::fmt;

use crate::error::{Error, Result};
pub use crate::word::Order;

/// Type of the elements of a tensor.
///
/// The known ones are those of safetensors whose elements are whole bytes. Any other name
/// (sub-byte types, types of the future) is [`Other`](Dtype::Other): its tensors travel as bytes.
///
/// ```
/// use pulse::dtype::Dtype;
/// assert_eq!(Dtype::from_name("BF16"), Dtype::Bf16);
/// assert_eq!(Dtype::Bf16.element_bytes(), 2);
/// assert_eq!(Dtype::from_name("F4").element_bytes(), 1); // travels as bytes
/// assert_eq!(Dtype::from_name("F4").name(), "F4");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names say it
#[non_exhaustive]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E4M3,
    F8E5M2,
    F8E8M0,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
    /// Any other dtype name; an element is one byte.
    Other(Box<str>),
}

type Row = (Dtype, &'static str, usize, Order);

/// One row per known dtype: wire code (SPEC.md §6.2), name, bytes per element, order.
/// The code is the index in this table plus one; code 0 is [`Dtype::Other`].
const TABLE: [Row; 17] = [
    (Dtype::Bool, "BOOL", 1, Order::Unsigned),
    (Dtype::U8, "U8", 1, Order::Unsigned),
    (Dtype::I8, "I8", 1, Order::Signed),
    (Dtype::F8E4M3, "F8_E4M3", 1, Order::Float { mantissa: 3 }),
    (Dtype::F8E5M2, "F8_E5M2", 1, Order::Float { mantissa: 2 }),
    (Dtype::F8E8M0, "F8_E8M0", 1, Order::Unsigned),
    (Dtype::I16, "I16", 2, Order::Signed),
    (Dtype::U16, "U16", 2, Order::Unsigned),
    (Dtype::F16, "F16", 2, Order::Float { mantissa: 10 }),
    (Dtype::Bf16, "BF16", 2, Order::Float { mantissa: 7 }),
    (Dtype::I32, "I32", 4, Order::Signed),
    (Dtype::U32, "U32", 4, Order::Unsigned),
    (Dtype::F32, "F32", 4, Order::Float { mantissa: 23 }),
    (Dtype::C64, "C64", 8, Order::Unsigned),
    (Dtype::F64, "F64", 8, Order::Float { mantissa: 52 }),
    (Dtype::I64, "I64", 8, Order::Signed),
    (Dtype::U64, "U64", 8, Order::Unsigned),
];

impl Dtype {
    /// The dtype of this safetensors name; [`Dtype::Other`] if it is not a known one.
    #[must_use]
    pub fn from_name(name: &str) -> Dtype {
        match TABLE.iter().find(|row| row.1 == name) {
            Some(row) => row.0.clone(),
            None => Dtype::Other(name.into()),
        }
    }

    /// The known dtype that an `Other` may spell: on the wire each dtype has one form only.
    fn known_by_name(self) -> Dtype {
        match self {
            Dtype::Other(name) => Dtype::from_name(&name),
            known => known,
        }
    }

    /// The known dtypes, in the order of their wire codes.
    pub fn known() -> impl Iterator<Item = Dtype> {
        TABLE.iter().map(|row| row.0.clone())
    }

    fn row(&self) -> Option<(usize, &'static Row)> {
        TABLE.iter().enumerate().find(|(_, row)| row.0 == *self)
    }

    /// The name as safetensors spells it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Dtype::Other(name) => name,
            known => known.row().map_or("", |(_, row)| row.1),
        }
    }

    /// Bytes of one element as the codings see it: 1, 2, 4 or 8.
    #[must_use]
    pub fn element_bytes(&self) -> usize {
        self.row().map_or(1, |(_, row)| row.2)
    }

    /// How the bits of an element are ordered as numbers (SPEC.md §7.1).
    #[must_use]
    pub fn order(&self) -> Order {
        self.row().map_or(Order::Unsigned, |(_, row)| row.3)
    }

    /// The code on the wire; 0 for [`Dtype::Other`].
    pub(crate) fn code(&self) -> u8 {
        self.row().map_or(0, |(i, _)| i as u8 + 1)
    }

    pub(crate) fn from_code(code: u8) -> Option<Dtype> {
        let row = TABLE.get(usize::from(code).checked_sub(1)?)?;
        Some(row.0.clone())
    }

    /// The value of an element for people, from its bits. `None` where there is no number to show.
    ///
    /// ```
    /// assert_eq!(pulse::dtype::Dtype::Bf16.display(0x3f80), Some("1".to_string()));
    /// assert_eq!(pulse::dtype::Dtype::I8.display(0xff), Some("-1".to_string()));
    /// ```
    #[must_use]
    pub fn display(&self, bits: u64) -> Option<String> {
        let low = bits.to_le_bytes();
        let [b0, b1, b2, b3, ..] = low;
        Some(match self {
            Dtype::Bool => (b0 != 0).to_string(),
            Dtype::U8 => b0.to_string(),
            Dtype::I8 => i8::from_le_bytes([b0]).to_string(),
            Dtype::I16 => i16::from_le_bytes([b0, b1]).to_string(),
            Dtype::U16 => u16::from_le_bytes([b0, b1]).to_string(),
            Dtype::F16 => half::f16::from_le_bytes([b0, b1]).to_string(),
            Dtype::Bf16 => half::bf16::from_le_bytes([b0, b1]).to_string(),
            Dtype::I32 => i32::from_le_bytes([b0, b1, b2, b3]).to_string(),
            Dtype::U32 => u32::from_le_bytes([b0, b1, b2, b3]).to_string(),
            Dtype::F32 => f32::from_le_bytes([b0, b1, b2, b3]).to_string(),
            Dtype::F64 => f64::from_le_bytes(low).to_string(),
            Dtype::I64 => i64::from_le_bytes(low).to_string(),
            Dtype::U64 => bits.to_string(),
            Dtype::F8E4M3 | Dtype::F8E5M2 | Dtype::F8E8M0 | Dtype::C64 | Dtype::Other(_) => {
                return None
            }
        })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a tensor is, apart from its name and its bytes.
///
/// ```
/// use pulse::dtype::{Dtype, TensorSpec};
/// let spec = TensorSpec::new(Dtype::Bf16, &[3, 4])?;
/// assert_eq!((spec.bytes(), spec.elements()), (24, 12));
/// assert_eq!(TensorSpec::new(Dtype::F32, &[])?.elements(), 1); // rank 0 is one scalar
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TensorSpec {
    dtype: Dtype,
    shape: Vec<u64>,
    bytes: u64,
}

impl TensorSpec {
    /// A tensor of a known dtype.
    ///
    /// # Errors
    /// [`Error::Misuse`] if its size exceeds 64 bits, or if the size does
    /// not follow from the dtype: use [`with_bytes`](Self::with_bytes) for [`Dtype::Other`].
    pub fn new(dtype: Dtype, shape: &[u64]) -> Result<Self> {
        let dtype = dtype.known_by_name();
        if let Dtype::Other(name) = &dtype {
            return Err(Error::misuse(format!(
                "dtype {name} needs an explicit size in bytes; use TensorSpec::with_bytes"
            )));
        }
        let bytes = known_bytes(&dtype, shape).ok_or_else(|| {
            Error::misuse(format!("shape {shape:?} of {dtype} exceeds 2^64 bytes; check the shape"))
        })?;
        Ok(TensorSpec { dtype, shape: shape.to_vec(), bytes })
    }

    /// A tensor whose size in bytes is given.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the dtype is a known one and the size is not that of the shape.
    pub fn with_bytes(dtype: Dtype, shape: &[u64], bytes: u64) -> Result<Self> {
        let dtype = dtype.known_by_name();
        let known = !matches!(dtype, Dtype::Other(_));
        if known && known_bytes(&dtype, shape) != Some(bytes) {
            return Err(Error::misuse(format!(
                "shape {shape:?} of {dtype} does not have {bytes} bytes; check dtype and shape"
            )));
        }
        Ok(TensorSpec { dtype, shape: shape.to_vec(), bytes })
    }

    /// Type of the elements.
    #[must_use]
    pub fn dtype(&self) -> &Dtype {
        &self.dtype
    }

    /// Dimensions; empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Refuses another number of bytes than a tensor like this one has.
    pub(crate) fn check_bytes(&self, tensor: &str, given: usize) -> Result<()> {
        if given as u64 == self.bytes {
            return Ok(());
        }
        let expected = self.bytes;
        Err(Error::misuse(format!("{given} bytes given for {tensor} {self}, expected {expected}")))
    }

    /// Elements as the codings see them: bytes for [`Dtype::Other`].
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.bytes / self.dtype.element_bytes() as u64
    }
}

/// Size in bytes of a tensor of a known dtype; `None` if it exceeds 64 bits.
fn known_bytes(dtype: &Dtype, shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(dtype.element_bytes() as u64, |bytes, &dim| bytes.checked_mul(dim))
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_a_bijection() {
        for (i, dtype) in Dtype::known().enumerate() {
            assert_eq!(usize::from(dtype.code()), i + 1);
            assert_eq!(Dtype::from_code(dtype.code()), Some(dtype.clone()));
            assert_eq!(Dtype::from_name(dtype.name()), dtype);
        }
        assert_eq!(Dtype::from_code(0), None);
        assert_eq!(Dtype::from_code(18), None);
    }

    #[test]
    fn sizes_are_checked() {
        assert!(TensorSpec::new(Dtype::F64, &[1 << 31, 1 << 31]).is_err());
        assert_eq!(TensorSpec::new(Dtype::F64, &[1 << 31, 1 << 31, 0]).unwrap().bytes(), 0);
        assert_eq!(TensorSpec::new(Dtype::U8, &[(1 << 32) + 5]).unwrap().elements(), (1 << 32) + 5);
        assert!(TensorSpec::with_bytes(Dtype::Bf16, &[3], 5).is_err());
        assert!(TensorSpec::with_bytes(Dtype::Other("F4".into()), &[3], 2).is_ok());
        assert_eq!(
            TensorSpec::with_bytes(Dtype::Other("BF16".into()), &[4], 8).unwrap().dtype(),
            &Dtype::Bf16
        );
        assert!(TensorSpec::with_bytes(Dtype::Other("BF16".into()), &[4], 2).is_err());
        assert!(TensorSpec::new(Dtype::Other("F4".into()), &[3]).is_err());
    }

    #[test]
    fn values_are_shown_as_numbers() {
        assert_eq!(Dtype::F16.display(0x3c00).unwrap(), "1");
        assert_eq!(Dtype::F32.display(u64::from(1.5f32.to_bits())).unwrap(), "1.5");
        assert_eq!(Dtype::I64.display(u64::MAX).unwrap(), "-1");
        assert_eq!(Dtype::C64.display(0), None);
    }
}
