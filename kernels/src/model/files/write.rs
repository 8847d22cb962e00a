//! Weights of any source to the files of a Hugging Face directory: in f32, bf16 or f16, in one file or in shards.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use burn::tensor::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Map, Value, json};

use super::source::TensorSource;
use super::{INDEX_FILE, WEIGHTS_FILE, file_shape, write_whole};
use crate::KernelError;
use crate::model::config::DecoderConfig;

/// How numbers are stored in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatType {
    /// 4 bytes.
    F32,
    /// 2 bytes, the upper half of an f32.
    Bf16,
    /// 2 bytes, at most 65504.
    F16,
}

impl FloatType {
    /// All types.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// The word for it in `config.json`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// Bytes of a number.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    const fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    /// Appends numbers, rounded to the nearest. Returns the first one that the type has no place for.
    pub(super) fn encode(self, numbers: &[f32], bytes: &mut Vec<u8>) -> Result<(), f32> {
        match self {
            Self::F32 => bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
            Self::Bf16 => {
                bytes.extend(numbers.iter().flat_map(|number| bf16::from_f32(*number).to_le_bytes()));
            }
            Self::F16 => {
                bytes.extend(numbers.iter().flat_map(|number| f16::from_f32(*number).to_le_bytes()));
                let lost = |number: &&f32| number.is_finite() && f16::from_f32(**number).is_infinite();
                return numbers.iter().find(lost).map_or(Ok(()), |number| Err(*number));
            }
        }
        Ok(())
    }
}

/// The form of the files.
#[derive(Clone, Copy, Debug)]
pub struct WeightFormat {
    /// How numbers are stored.
    pub dtype: FloatType,
    /// A file of more bytes is cut into shards of at most so many, where one tensor is not larger.
    pub shard_bytes: u64,
}

/// A parameter on its way into a file.
struct Part {
    /// Its name here.
    parameter: String,
    /// Its name in the file.
    name: String,
    shape: [usize; 2],
    bytes: u64,
}

/// Writes `model.safetensors`, or shards with their index, to a directory that is there.
///
/// # Errors
/// Names the file that cannot be written, or what is wrong with the source.
pub fn write_weights(
    dir: &Path,
    config: &DecoderConfig,
    source: &mut dyn TensorSource,
    format: WeightFormat,
) -> Result<(), KernelError> {
    let shards = shards(config, format);
    if let [whole] = shards.as_slice() {
        return write_shard(&dir.join(WEIGHTS_FILE), whole, source, format.dtype);
    }
    let (mut places, mut total) = (Map::new(), 0);
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        write_shard(&dir.join(&name), shard, source, format.dtype)?;
        places.extend(shard.iter().map(|part| (part.name.clone(), json!(name))));
        total += shard.iter().map(|part| part.bytes).sum::<u64>();
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": Value::Object(places)});
    write_whole(&dir.join(INDEX_FILE), |file| file.write_all(format!("{index:#}\n").as_bytes()))
}

/// Which parameters go into which file, in their order.
fn shards(config: &DecoderConfig, format: WeightFormat) -> Vec<Vec<Part>> {
    let (mut shards, mut filled) = (vec![Vec::new()], 0);
    for (parameter, shape) in config.shapes().named() {
        let bytes = (shape[0] * shape[1] * format.dtype.bytes()) as u64;
        if filled + bytes > format.shard_bytes && filled > 0 {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        let name = config.family.file_name(&parameter);
        let last = shards.last_mut().expect("there is a first shard");
        last.push(Part { parameter, name, shape: *shape, bytes });
    }
    shards
}

fn write_shard(
    path: &Path,
    parts: &[Part],
    source: &mut dyn TensorSource,
    dtype: FloatType,
) -> Result<(), KernelError> {
    // What the source says is told as it is, and not as an error of the file that is written.
    let mut refused = None;
    let written = write_whole(path, |file| {
        let tensors = parts.iter().map(|part| (part.name.clone(), file_shape(&part.name, part.shape)));
        write_header(file, tensors.collect(), dtype.dtype())?;
        for part in parts {
            if let Err(error) = write_part(path, file, part, source, dtype) {
                refused = Some(error);
                return Err(io::Error::other("stopped"));
            }
        }
        Ok(())
    });
    refused.map_or(written, Err)
}

fn write_part(
    path: &Path,
    file: &mut BufWriter<File>,
    part: &Part,
    source: &mut dyn TensorSource,
    dtype: FloatType,
) -> Result<(), KernelError> {
    let (mut bytes, mut written) = (Vec::new(), 0);
    source.read(&part.parameter, part.shape, &mut |numbers| {
        bytes.clear();
        dtype.encode(numbers, &mut bytes).map_err(|number| {
            let (name, word) = (&part.name, dtype.word());
            KernelError::content(
                path,
                format!("tensor `{name}` holds {number}, for which {word} has no place; bf16 has one"),
            )
        })?;
        written += bytes.len() as u64;
        file.write_all(&bytes).map_err(|source| KernelError::file(path, source))
    })?;
    assert_eq!(written, part.bytes, "`{}` has as many numbers as its shape", part.parameter);
    Ok(())
}

/// Writes the beginning of a safetensors file: the header's length and the header, which says where tensors of these
/// names and shapes follow.
pub(super) fn write_header(
    file: &mut impl Write,
    tensors: Vec<(String, Vec<usize>)>,
    dtype: Dtype,
) -> io::Result<()> {
    let mut start = 0;
    let infos = tensors.into_iter().map(|(name, shape)| {
        let end = start + dtype.bitsize() / 8 * shape.iter().product::<usize>();
        let data_offsets = (start, end);
        start = end;
        (name, TensorInfo { dtype, shape, data_offsets })
    });
    // transformers looks for this entry to know that the tensors are laid out as PyTorch has them.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos.collect()).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    // Tensors start at a multiple of eight bytes, as readers that map the file expect.
    header.resize(header.len().next_multiple_of(8), b' ');
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)
}

#[cfg(test)]
mod tests;
