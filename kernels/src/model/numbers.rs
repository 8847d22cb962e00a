//! The numbers of one parameter on the CPU, in the form in which they are stored.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::flex::Rows;
use crate::gemm::PackedMatrix;

/// Takes the next numbers of a parameter.
pub(crate) type WriteNumbers<'a> = dyn FnMut(&[f32]) -> std::io::Result<()> + 'a;

/// Numbers of a part of a parameter that is unpacked: enough for all threads, and nothing beside a model.
const PART_NUMBERS: usize = 1 << 20;

/// Where the numbers of a parameter are. A clone shares them.
#[derive(Clone)]
pub(crate) enum Numbers {
    /// In f32, row-major.
    Rows(Rows),
    /// In a packed factor, rounded to its precision.
    Packed(PackedRows),
}

/// Rows of a matrix that are columns of a packed factor, beside those of other matrices.
#[derive(Clone)]
pub(crate) struct PackedRows {
    pub(crate) factor: Arc<PackedMatrix>,
    pub(crate) columns: Range<usize>,
}

impl Numbers {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.slice().len(),
            Self::Packed(PackedRows { factor, columns }) => columns.len() * factor.inner(),
        }
    }

    /// All of them, row-major.
    pub(crate) fn all(&self) -> Cow<'_, [f32]> {
        match self {
            Self::Rows(rows) => Cow::Borrowed(rows.slice()),
            Self::Packed(PackedRows { factor, columns }) => Cow::Owned(factor.weights(columns.clone())),
        }
    }

    /// The right factor of `x w^T` in f32, for rows `w` of so many numbers each.
    pub(crate) fn right_factor(&self, width: usize) -> PackedMatrix {
        match self {
            Self::Rows(rows) => PackedMatrix::transposed(rows.slice(), width, self.len() / width),
            Self::Packed(PackedRows { factor, columns }) => factor.widened(columns.clone()),
        }
    }

    /// Some rows of so many numbers each.
    pub(crate) fn rows(&self, rows: Range<usize>, width: usize) -> Cow<'_, [f32]> {
        match self {
            Self::Rows(all) => Cow::Borrowed(&all.slice()[rows.start * width..rows.end * width]),
            Self::Packed(PackedRows { factor, columns }) => {
                assert!(width == factor.inner() && rows.end <= columns.len(), "rows of the matrix");
                Cow::Owned(factor.weights(columns.start + rows.start..columns.start + rows.end))
            }
        }
    }

    /// One row.
    pub(crate) fn copy_row(&self, row: usize, to: &mut [f32]) {
        match self {
            Self::Rows(rows) => to.copy_from_slice(&rows.slice()[row * to.len()..][..to.len()]),
            Self::Packed(PackedRows { factor, columns }) => {
                assert!(row < columns.len(), "a row of the matrix");
                factor.copy_column(columns.start + row, to);
            }
        }
    }

    /// Those of a norm or a bias, which no product reads.
    ///
    /// # Panics
    /// If they are packed.
    pub(crate) fn into_rows(self) -> Rows {
        match self {
            Self::Rows(rows) => rows,
            Self::Packed(_) => panic!("norms and biases are not packed"),
        }
    }

    /// Hands them out, row-major, some rows at a time.
    pub(crate) fn in_parts(&self, write: &mut WriteNumbers<'_>) -> std::io::Result<()> {
        match self {
            Self::Rows(rows) => write(rows.slice()),
            Self::Packed(PackedRows { factor, columns }) => {
                let rows = (PART_NUMBERS / factor.inner()).max(1);
                columns
                    .clone()
                    .step_by(rows)
                    .try_for_each(|first| write(&factor.weights(first..(first + rows).min(columns.end))))
            }
        }
    }
}
