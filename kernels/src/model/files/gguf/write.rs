//! Writes a decoder as a GGUF file: the keys of its architecture, those of its tokenizer, which the caller brings, and
//! the tensors one after the other.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use burn::tensor::f16;

use super::architecture::{Architecture, TensorName};
use super::metadata::MetaValue;
use super::rotary;
use crate::KernelError;
use crate::model::config::DecoderConfig;
use crate::model::files::source::{TakeNumbers, TensorSource};
use crate::model::files::write::FloatType;
use crate::model::files::write_whole;

const ALIGNMENT: u64 = 32;

/// Numbers of a block of Q8_0, and its bytes.
const BLOCK: usize = 32;
const BLOCK_BYTES: usize = 34;

/// How the matrices of a file are stored. Norms and biases are f32 in all of them, as llama.cpp wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufFormat {
    /// Plain numbers.
    Float(FloatType),
    /// Blocks of 32 numbers of 8 bits with a scale; rows that are no whole blocks are f16.
    Q8_0,
}

/// The numbers that formats and types have in files.
mod numbers {
    pub(super) const F32: u32 = 0;
    pub(super) const F16: u32 = 1;
    pub(super) const BF16: u32 = 30;
    pub(super) const Q8_0: u32 = 8;
    /// `general.file_type`.
    pub(super) const FILE_F32: i128 = 0;
    pub(super) const FILE_F16: i128 = 1;
    pub(super) const FILE_Q8_0: i128 = 7;
    pub(super) const FILE_BF16: i128 = 32;
}

impl GgufFormat {
    fn file_type(self) -> i128 {
        match self {
            Self::Float(FloatType::F32) => numbers::FILE_F32,
            Self::Float(FloatType::F16) => numbers::FILE_F16,
            Self::Float(FloatType::Bf16) => numbers::FILE_BF16,
            Self::Q8_0 => numbers::FILE_Q8_0,
        }
    }

    /// How a matrix with rows of so many numbers is stored.
    fn of_rows(self, columns: usize) -> Self {
        match self {
            Self::Q8_0 if !columns.is_multiple_of(BLOCK) => Self::Float(FloatType::F16),
            format => format,
        }
    }

    fn type_number(self) -> u32 {
        match self {
            Self::Float(FloatType::F32) => numbers::F32,
            Self::Float(FloatType::F16) => numbers::F16,
            Self::Float(FloatType::Bf16) => numbers::BF16,
            Self::Q8_0 => numbers::Q8_0,
        }
    }

    fn bytes_of(self, count: usize) -> u64 {
        let bytes = match self {
            Self::Float(dtype) => count * dtype.bytes(),
            Self::Q8_0 => count / BLOCK * BLOCK_BYTES,
        };
        bytes as u64
    }

    /// Appends whole blocks. Returns the first number that the type has no place for.
    fn encode(self, numbers: &[f32], bytes: &mut Vec<u8>) -> Result<(), f32> {
        match self {
            Self::Float(dtype) => dtype.encode(numbers, bytes),
            Self::Q8_0 => numbers.chunks_exact(BLOCK).try_for_each(|block| encode_q8_0(block, bytes)),
        }
    }
}

/// A block as ggml's reference makes it.
fn encode_q8_0(block: &[f32], bytes: &mut Vec<u8>) -> Result<(), f32> {
    let largest = block.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let stored = f16::from_f32(scale);
    if !stored.is_finite() {
        return Err(largest);
    }
    bytes.extend(stored.to_le_bytes());
    bytes.extend(block.iter().map(|number| ((number * inverse).round() as i8).cast_unsigned()));
    Ok(())
}

/// A tensor on its way into a file.
struct Part {
    /// The parameters that it holds, one behind the other; none are the factors of rotary frequencies.
    parameters: Vec<String>,
    name: String,
    /// Of each of them.
    shape: [usize; 2],
    dims: Vec<u64>,
    format: GgufFormat,
}

impl Part {
    fn bytes(&self) -> u64 {
        self.format.bytes_of(self.shape[0] * self.shape[1] * self.parameters.len().max(1))
    }
}

/// Writes a file, whole or not at all. `keys` are those of the tokenizer and all that the architecture has no key for.
///
/// # Errors
/// If no GGUF file of the family can be read again, if the source fails, or if the file cannot be written.
pub fn write_gguf(
    path: &Path,
    config: &DecoderConfig,
    source: &mut dyn TensorSource,
    keys: &[(String, MetaValue)],
    format: GgufFormat,
) -> Result<(), KernelError> {
    let refuse = |reason: String| KernelError::content(path, reason);
    let architecture = Architecture::of_model_type(config.family.model_type).map_err(refuse)?;
    let mut all = vec![
        ("general.architecture".to_owned(), MetaValue::Text(architecture.name.to_owned())),
        ("general.type".to_owned(), MetaValue::Text("model".to_owned())),
        ("general.file_type".to_owned(), MetaValue::Integer(format.file_type())),
        ("general.quantization_version".to_owned(), MetaValue::Integer(2)),
    ];
    all.extend(architecture.keys(config).map_err(refuse)?);
    all.extend_from_slice(keys);
    let factors = rotary::factors(config);
    let parts = parts(config, format, factors.len())?;
    let mut refused = None;
    let written = write_whole(path, |file| {
        write_header(file, &all, &parts)?;
        for part in &parts {
            let mut ordered = Ordered { architecture, config, source };
            let written = match part.parameters.as_slice() {
                [] => write_numbers(path, file, part, &factors),
                several => several.iter().try_for_each(|one| write_part(path, file, part, one, &mut ordered)),
            };
            if let Err(error) = written {
                refused = Some(error);
                return Err(io::Error::other("stopped"));
            }
            pad(file, part.bytes())?;
        }
        Ok(())
    });
    refused.map_or(written, Err)
}

fn parts(config: &DecoderConfig, format: GgufFormat, factors: usize) -> Result<Vec<Part>, KernelError> {
    let mut parts: Vec<Part> = Vec::new();
    let plain = GgufFormat::Float(FloatType::F32);
    if factors > 0 {
        let (name, dims) = (rotary::FACTORS.to_owned(), vec![factors as u64]);
        parts.push(Part { parameters: Vec::new(), name, shape: [1, factors], dims, format: plain });
    }
    for (parameter, shape) in config.shapes().named() {
        let TensorName { name, expert } = TensorName::of(&parameter)
            .ok_or_else(|| KernelError::Input(format!("GGUF has no name for the parameter `{parameter}`")))?;
        let [rows, columns] = *shape;
        let mut dims = vec![columns as u64, rows as u64];
        if let Some(expert) = expert {
            if let Some(part) = parts.iter_mut().find(|part| part.name == name) {
                part.parameters.push(parameter);
                part.dims[2] = expert as u64 + 1;
                continue;
            }
            dims.push(1);
        }
        let is_vector = parameter.ends_with("norm.weight") || parameter.ends_with(".bias");
        if is_vector {
            dims.pop();
        }
        // llama.cpp wants the router in f32 as well.
        let is_router = parameter.ends_with("mlp.gate.weight");
        let format = if is_vector || is_router { plain } else { format.of_rows(columns) };
        parts.push(Part { parameters: vec![parameter], name, shape: *shape, dims, format });
    }
    Ok(parts)
}

/// The parameters in the order and with the offsets that the file has.
struct Ordered<'a> {
    architecture: &'static Architecture,
    config: &'a DecoderConfig,
    source: &'a mut dyn TensorSource,
}

impl Ordered<'_> {
    fn read(
        &mut self,
        parameter: &str,
        shape: [usize; 2],
        take: &mut TakeNumbers<'_>,
    ) -> Result<(), KernelError> {
        let is_rotated = parameter.contains("self_attn.q_proj.") || parameter.contains("self_attn.k_proj.");
        let raised = self.architecture.norms_raised_by;
        if self.architecture.rotated_in_pairs && is_rotated {
            let mut whole = Vec::new();
            self.source.read(parameter, shape, &mut |numbers| {
                whole.extend_from_slice(numbers);
                Ok(())
            })?;
            // A bias is a column.
            let width = if shape[0] == 1 { 1 } else { shape[1] };
            return take(&pairs_of_halves(&whole, self.config.head_width, width));
        }
        if raised != 0.0 && parameter.ends_with("norm.weight") {
            return self.source.read(parameter, shape, &mut |numbers| {
                take(&numbers.iter().map(|number| number + raised).collect::<Vec<_>>())
            });
        }
        self.source.read(parameter, shape, take)
    }
}

/// Rows of heads with the first of all pairs before the second, as rows in which a pair lies side by side.
pub(super) fn pairs_of_halves(rows: &[f32], head_width: usize, width: usize) -> Vec<f32> {
    let mut sorted = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_width * width) {
        for pair in 0..head_width / 2 {
            for half in 0..2 {
                sorted.extend_from_slice(&head[(half * head_width / 2 + pair) * width..][..width]);
            }
        }
    }
    sorted
}

fn write_part(
    path: &Path,
    file: &mut BufWriter<File>,
    part: &Part,
    parameter: &str,
    source: &mut Ordered<'_>,
) -> Result<(), KernelError> {
    let mut rest: Vec<f32> = Vec::new();
    let mut written = 0;
    source.read(parameter, part.shape, &mut |numbers| {
        rest.extend_from_slice(numbers);
        let whole = rest.len() / BLOCK * BLOCK;
        write_numbers(path, file, part, &rest[..whole])?;
        written += whole;
        rest.drain(..whole);
        Ok(())
    })?;
    write_numbers(path, file, part, &rest)?;
    assert_eq!(
        written + rest.len(),
        part.shape[0] * part.shape[1],
        "`{parameter}` has the numbers of its shape"
    );
    Ok(())
}

fn write_numbers(
    path: &Path,
    file: &mut BufWriter<File>,
    part: &Part,
    numbers: &[f32],
) -> Result<(), KernelError> {
    let mut bytes = Vec::new();
    part.format.encode(numbers, &mut bytes).map_err(|number| {
        let reason =
            format!("tensor `{}` holds {number}, for which its type has no place; bf16 has one", part.name);
        KernelError::content(path, reason)
    })?;
    file.write_all(&bytes).map_err(|source| KernelError::file(path, source))
}

fn write_header(file: &mut impl Write, keys: &[(String, MetaValue)], parts: &[Part]) -> io::Result<()> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((parts.len() as u64).to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        put_text(&mut bytes, key);
        put_value(&mut bytes, value);
    }
    let mut start: u64 = 0;
    for part in parts {
        put_text(&mut bytes, &part.name);
        bytes.extend((part.dims.len() as u32).to_le_bytes());
        part.dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(part.format.type_number().to_le_bytes());
        bytes.extend(start.to_le_bytes());
        start = (start + part.bytes()).next_multiple_of(ALIGNMENT);
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    file.write_all(&bytes)
}

/// Fills up behind so many bytes.
fn pad(file: &mut impl Write, bytes: u64) -> io::Result<()> {
    let missing = bytes.next_multiple_of(ALIGNMENT) - bytes;
    file.write_all(&[0; ALIGNMENT as usize][..missing as usize])
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A value with its type: sizes and ids have 32 bits, as readers expect them, and so have the numbers of lists.
fn put_value(bytes: &mut Vec<u8>, value: &MetaValue) {
    let kind = |bytes: &mut Vec<u8>, kind: u32| bytes.extend(kind.to_le_bytes());
    let list = |bytes: &mut Vec<u8>, of: u32, count: usize| {
        kind(bytes, 9);
        kind(bytes, of);
        bytes.extend((count as u64).to_le_bytes());
    };
    match value {
        MetaValue::Integer(number) => {
            kind(bytes, 4);
            bytes.extend((*number as u32).to_le_bytes());
        }
        MetaValue::Float(number) => {
            kind(bytes, 6);
            bytes.extend((*number as f32).to_le_bytes());
        }
        MetaValue::Flag(flag) => {
            kind(bytes, 7);
            bytes.push(u8::from(*flag));
        }
        MetaValue::Text(text) => {
            kind(bytes, 8);
            put_text(bytes, text);
        }
        MetaValue::Integers(numbers) => {
            list(bytes, 5, numbers.len());
            numbers.iter().for_each(|number| bytes.extend((*number as i32).to_le_bytes()));
        }
        MetaValue::Floats(numbers) => {
            list(bytes, 6, numbers.len());
            numbers.iter().for_each(|number| bytes.extend((*number as f32).to_le_bytes()));
        }
        MetaValue::Flags(flags) => {
            list(bytes, 7, flags.len());
            bytes.extend(flags.iter().map(|flag| u8::from(*flag)));
        }
        MetaValue::Texts(texts) => {
            list(bytes, 8, texts.len());
            texts.iter().for_each(|text| put_text(bytes, text));
        }
    }
}
