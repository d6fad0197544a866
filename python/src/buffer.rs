//! Memory of this package that Python views: new weights, indices, values.

use pyo3::prelude::*;

/// What it is made of: bytes, or numbers that Python takes for the bytes that they are.
#[derive(Debug)]
enum Owned {
    Bytes(Vec<u8>),
    U32(Vec<u32>),
    U64(Vec<u64>),
}

/// Memory that a tensor is a view of: what `load` makes, and what `sparse` lists.
#[pyclass(frozen, module = "pulse_codec._pulse")]
#[derive(Debug)]
pub(crate) struct Buffer(Owned);

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Buffer(Owned::Bytes(bytes))
    }
}

impl From<Vec<u32>> for Buffer {
    fn from(numbers: Vec<u32>) -> Self {
        Buffer(Owned::U32(numbers))
    }
}

impl From<Vec<u64>> for Buffer {
    fn from(numbers: Vec<u64>) -> Self {
        Buffer(Owned::U64(numbers))
    }
}

impl Buffer {
    /// Where it is, and how many bytes it has.
    pub fn place(&self) -> (*const u8, usize) {
        match &self.0 {
            Owned::Bytes(bytes) => (bytes.as_ptr(), bytes.len()),
            Owned::U32(numbers) => (numbers.as_ptr().cast(), size_of_val(numbers.as_slice())),
            Owned::U64(numbers) => (numbers.as_ptr().cast(), size_of_val(numbers.as_slice())),
        }
    }
}

#[pymethods]
impl Buffer {
    fn __len__(&self) -> usize {
        self.place().1
    }
}
