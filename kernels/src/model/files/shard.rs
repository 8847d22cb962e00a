//! One file of safetensors: its header, and its tensors as f32, whole or some rows at a time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::f16;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::{experts, file_shape, shard_header};
use crate::KernelError;

/// The limit of the safetensors format: a longer header is a broken file, not a big model.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// Numbers that are read at a time where a tensor is read in parts: enough for all threads to pack, and nothing beside a
/// model.
const PART_NUMBERS: usize = 512 << 10;
/// A multiple of the columns of a panel, whatever the processor.
const SEAM_ROWS: usize = 64;

/// One safetensors file whose header was read and agrees with the file's length.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    file: File,
    pub(super) metadata: Metadata,
    /// Where the header ends and the tensors begin.
    tensors_start: u64,
}

impl Shard {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// If it is not one of safetensors, or not as long as its header says.
    pub(super) fn open(path: &Path) -> Result<Self, KernelError> {
        let failed = |source| KernelError::file(path, source);
        let mut file = File::open(path).map_err(failed)?;
        let file_bytes = file.metadata().map_err(failed)?.len();
        let broken = |reason: String| KernelError::content(path, reason);
        if file_bytes < 8 {
            return Err(broken(format!("is truncated: {file_bytes} bytes are no safetensors file")));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(failed)?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > HEADER_BYTES_MAX {
            return Err(broken(format!(
                "is no safetensors file: its header would have {header_bytes} bytes"
            )));
        }
        let tensors_start = 8 + header_bytes;
        if file_bytes < tensors_start {
            return Err(broken(format!(
                "is truncated: it has {file_bytes} bytes, its header alone {tensors_start}"
            )));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(failed)?;
        let metadata = shard_header::parse(&header).map_err(broken)?;
        let metadata = experts::apart(metadata).map_err(broken)?;
        let shard = Self { path: path.to_owned(), file, metadata, tensors_start };
        shard.check_length(file_bytes)?;
        Ok(shard)
    }

    fn check_length(&self, file_bytes: u64) -> Result<(), KernelError> {
        let promised = self.tensors_start + self.metadata.data_len() as u64;
        if file_bytes == promised {
            return Ok(());
        }
        if file_bytes > promised {
            let reason = format!("has {file_bytes} bytes, of which its header explains {promised}");
            return Err(KernelError::content(&self.path, reason));
        }
        let ends_late = |name: &String| {
            self.metadata
                .info(name)
                .is_some_and(|info| self.tensors_start + info.data_offsets.1 as u64 > file_bytes)
        };
        let first = self.metadata.offset_keys().into_iter().find(ends_late).unwrap_or_default();
        let reason = format!("is truncated in tensor `{first}`: it has {file_bytes} bytes of {promised}");
        Err(KernelError::content(&self.path, reason))
    }

    /// Where a tensor lies and how its bytes become f32, if it has the shape and a type that is read.
    pub(super) fn check_tensor(
        &self,
        name: &str,
        shape: [usize; 2],
    ) -> Result<(Convert, (usize, usize)), KernelError> {
        let info = self.metadata.info(name).expect("the name comes from this header");
        let expected = file_shape(name, shape);
        if info.shape != expected {
            let reason =
                format!("tensor `{name}` has shape {:?}, but the config asks for {expected:?}", info.shape);
            return Err(KernelError::content(&self.path, reason));
        }
        let convert = converter(info.dtype).ok_or_else(|| {
            let reason = format!("tensor `{name}` is {:?}; read are F32, BF16 and F16", info.dtype);
            KernelError::content(&self.path, reason)
        })?;
        Ok((convert, info.data_offsets))
    }

    /// Reads one tensor as f32 after a look at its shape and type. Its bytes are in memory some rows at a time.
    pub(super) fn read(&self, name: &str, shape: [usize; 2]) -> Result<Vec<f32>, KernelError> {
        self.check_tensor(name, shape)?;
        let mut numbers = Vec::with_capacity(shape[0] * shape[1]);
        for rows in row_parts(shape) {
            numbers.extend_from_slice(&self.read_rows(name, shape, rows)?);
        }
        Ok(numbers)
    }

    /// Reads some rows of a tensor as f32 after a look at its shape and type.
    pub(super) fn read_rows(
        &self,
        name: &str,
        shape: [usize; 2],
        rows: Range<usize>,
    ) -> Result<Vec<f32>, KernelError> {
        let (convert, (start, end)) = self.check_tensor(name, shape)?;
        let row_bytes = (end - start) / shape[0].max(1);
        let mut bytes = vec![0; rows.len() * row_bytes];
        let place = SeekFrom::Start(self.tensors_start + (start + rows.start * row_bytes) as u64);
        let mut file = &self.file;
        let read = file.seek(place).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|source| KernelError::file(&self.path, source))?;
        let numbers = convert(&bytes);
        match numbers.iter().find(|number| !number.is_finite()) {
            None => Ok(numbers),
            Some(number) => {
                let reason = format!("tensor `{name}` holds {number}, which no weight can be");
                Err(KernelError::content(&self.path, reason))
            }
        }
    }
}

/// Parts of the rows of a tensor, in which it is read where it is not to be in memory as a whole.
pub(super) fn row_parts([rows, width]: [usize; 2]) -> impl Iterator<Item = Range<usize>> {
    let fit = PART_NUMBERS / width.max(1);
    // Whole panels of any width are packed without a seam.
    let each = if fit > SEAM_ROWS { fit - fit % SEAM_ROWS } else { fit.max(1) };
    (0..rows).step_by(each).map(move |first| first..(first + each).min(rows))
}

/// Bytes of a file to numbers.
pub(super) type Convert = fn(&[u8]) -> Vec<f32>;

/// How the bytes of a type become f32; `None` for types that are no plain floats.
fn converter(dtype: Dtype) -> Option<Convert> {
    match dtype {
        Dtype::F32 => {
            Some(|bytes| bytes.as_chunks().0.iter().map(|each| f32::from_le_bytes(*each)).collect())
        }
        // A bf16 is the upper half of an f32.
        Dtype::BF16 => Some(|bytes| {
            let halves = bytes.as_chunks().0.iter().map(|each| u32::from(u16::from_le_bytes(*each)));
            halves.map(|bits| f32::from_bits(bits << 16)).collect()
        }),
        Dtype::F16 => {
            Some(|bytes| bytes.as_chunks().0.iter().map(|each| f16::from_le_bytes(*each).to_f32()).collect())
        }
        _ => None,
    }
}
