//! Where the elements of a block lie in the rows and columns of their tensor (SPEC.md §7.6).

use crate::dtype::{Dtype, TensorSpec};

/// A block of a matrix: its tensor has rows, of which the columns are the last dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Matrix {
    columns: u32,
    /// Column of the first element of the block.
    first: u32,
}

impl Matrix {
    /// Most columns: signs take a few bytes of memory for each.
    pub const COLUMNS_MAX: u64 = 1 << 16;

    /// The block that starts at this byte; `None` if the tensor is no matrix, or too wide a one.
    pub fn of(spec: &TensorSpec, start: u64) -> Option<Matrix> {
        let [_, .., columns] = *spec.shape() else { return None };
        let matrix = Matrix::from_rows(spec.dtype(), columns)?;
        let first = start / spec.dtype().element_bytes() as u64 % columns;
        // Less than the columns.
        Some(Matrix { first: first as u32, ..matrix })
    }

    /// A block that starts with a row. The shape of a dtype without a code says nothing of its bytes.
    pub fn from_rows(dtype: &Dtype, columns: u64) -> Option<Matrix> {
        let legal = (1..=Self::COLUMNS_MAX).contains(&columns);
        let legal = legal && !matches!(dtype, Dtype::Other(_));
        legal.then_some(Matrix { columns: columns as u32, first: 0 })
    }

    pub fn columns(self) -> u32 {
        self.columns
    }

    /// The element's number, counted from the start of the row in which the block starts.
    #[inline(always)]
    pub fn number_in_rows(self, element: u64) -> u64 {
        u64::from(self.first) + element
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_has_rows_of_few_columns() {
        let of =
            |shape: &[u64], start| Matrix::of(&TensorSpec::new(Dtype::Bf16, shape).unwrap(), start);
        assert_eq!(of(&[], 0), None);
        assert_eq!(of(&[100], 0), None);
        assert_eq!(of(&[8, 100], 0), Matrix::from_rows(&Dtype::Bf16, 100));
        assert_eq!(of(&[2, 4, 100], 406), Some(Matrix { columns: 100, first: 3 }));
        assert_eq!(of(&[1, 65_536], 0), Matrix::from_rows(&Dtype::Bf16, 65_536));
        assert_eq!(of(&[1, 65_537], 0), None);
        assert_eq!(of(&[5, 0], 0), None);
        let other = TensorSpec::with_bytes(Dtype::from_name("F4"), &[8, 100], 400).unwrap();
        assert_eq!(Matrix::of(&other, 0), None);
    }
}
