//! GGUF files, as llama.cpp reads and writes them: the header with its keys (`gguf/header.rs`), the types of numbers
//! (`gguf/blocks.rs`), and the decoder that a file holds. The tokenizer that stands in the same file is not known here.
//!
//! Tensors are read in parts, so that a file of any size needs little memory.

pub(crate) mod blocks;
pub(crate) mod metadata;
pub(crate) mod header;
mod keys;
mod rotary;
mod architecture;
pub(crate) mod write;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use self::architecture::{Architecture, TensorName};
use self::header::{Header, TensorPlace};
use super::source::{TakeNumbers, TensorSource};
use crate::KernelError;
use crate::model::config::DecoderConfig;

/// Numbers that are decoded at a time: whole blocks of every type.
const PART_NUMBERS: usize = 1 << 18;

/// A file whose header was read and agrees with its length.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    header: Header,
    /// The places of the header's tensors by their names: a file may have as many as its bytes allow.
    places: HashMap<String, usize>,
}

impl GgufFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// Names the file, and the key or tensor that is wrong.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let failed = |source| KernelError::file(path, source);
        let file = File::open(path).map_err(failed)?;
        let file_bytes = file.metadata().map_err(failed)?.len();
        let header = Header::read(path, BufReader::with_capacity(1 << 16, &file), file_bytes)?;
        let names = header.tensors.iter().enumerate();
        let places = names.map(|(place, tensor)| (tensor.name.clone(), place)).collect();
        Ok(Self { path: path.to_owned(), file, header, places })
    }

    /// What the file says before its tensors.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn tensor(&self, name: &str) -> Option<&TensorPlace> {
        self.places.get(name).map(|place| &self.header.tensors[*place])
    }

    /// Decodes a tensor in parts.
    ///
    /// # Errors
    /// Names the file, and the tensor if a number in it is not finite.
    pub fn read(&self, place: &TensorPlace, take: &mut TakeNumbers<'_>) -> Result<(), KernelError> {
        let failed = |source| KernelError::file(&self.path, source);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(place.start)).map_err(failed)?;
        let (mut bytes, mut numbers) = (Vec::new(), Vec::new());
        let mut left = place.numbers() as usize;
        while left > 0 {
            let part = left.min(PART_NUMBERS);
            bytes.resize(part / place.kind.block * place.kind.bytes, 0);
            numbers.resize(part, 0.0);
            file.read_exact(&mut bytes).map_err(failed)?;
            place.kind.decode(&bytes, &mut numbers);
            if let Some(number) = numbers.iter().find(|number| !number.is_finite()) {
                let reason = format!("tensor `{}` holds {number}, which no weight can be", place.name);
                return Err(KernelError::content(&self.path, reason));
            }
            take(&numbers)?;
            left -= part;
        }
        Ok(())
    }

    fn read_whole(&self, place: &TensorPlace) -> Result<Vec<f32>, KernelError> {
        let mut whole = Vec::new();
        self.read(place, &mut |numbers| {
            whole.extend_from_slice(numbers);
            Ok(())
        })?;
        Ok(whole)
    }
}

/// The decoder of a file: its config, and its parameters under the names that they have here.
#[derive(Debug)]
pub struct GgufModel {
    file: GgufFile,
    config: DecoderConfig,
    rotated_in_pairs: bool,
    norms_raised_by: f32,
}

impl GgufModel {
    /// Finds out which decoder a file holds, and that it has all its tensors and no others.
    ///
    /// # Errors
    /// Names the file, and the key or tensor that is missing, misshapen or not read.
    pub fn new(file: GgufFile) -> Result<Self, KernelError> {
        let architecture = Architecture::of(&file.header.metadata)?;
        let factors = file.tensor(rotary::FACTORS).map(|place| file.read_whole(place)).transpose()?;
        let config = architecture.config(&file.header, factors.as_deref())?;
        let Architecture { rotated_in_pairs, norms_raised_by, .. } = *architecture;
        let model = Self { file, config, rotated_in_pairs, norms_raised_by };
        model.check_tensors()?;
        Ok(model)
    }

    /// What the decoder of a header is like, but for factors of rotary frequencies, which are a tensor.
    ///
    /// # Errors
    /// As [`GgufModel::new`].
    pub fn config_of(header: &Header) -> Result<DecoderConfig, KernelError> {
        Architecture::of(&header.metadata)?.config(header, None)
    }

    /// What the decoder is like.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &GgufFile {
        &self.file
    }

    fn check_tensors(&self) -> Result<(), KernelError> {
        let mut known = HashSet::from([rotary::FACTORS.to_owned()]);
        for (name, shape) in self.config.shapes().named() {
            known.insert(self.place(&name, *shape)?.name);
        }
        let others = self.file.header.tensors.iter().find(|tensor| !known.contains(&tensor.name));
        others.map_or(Ok(()), |tensor| {
            let (name, family) = (&tensor.name, self.config.family.model_type);
            Err(self.broken(format!(
                "has tensor `{name}`, for which a {family} model of these keys has no place"
            )))
        })
    }

    fn broken(&self, reason: String) -> KernelError {
        KernelError::content(&self.file.path, reason)
    }

    /// How many experts a layer that has some has.
    fn experts(&self) -> u64 {
        self.config.spec.experts.as_ref().map_or(0, |experts| experts.count as u64)
    }

    /// Where a parameter of this shape lies.
    fn place(&self, parameter: &str, shape: [usize; 2]) -> Result<TensorPlace, KernelError> {
        let TensorName { name, expert } = TensorName::of(parameter)
            .ok_or_else(|| self.broken(format!("has no name for the parameter `{parameter}`")))?;
        let [rows, columns] = shape.map(|size| size as u64);
        let place = self
            .file
            .tensor(&name)
            .ok_or_else(|| self.broken(format!("lacks tensor `{name}` of dimensions [{columns}, {rows}]")))?;
        // The inner dimension comes first; a norm has no other, and experts lie one behind the other.
        match (expert.map(|expert| expert as u64), place.dims.as_slice()) {
            (None, dims) if dims == [columns, rows] || rows == 1 && dims == [columns] => Ok(place.clone()),
            (Some(expert), [width, height, count])
                if [*width, *height, *count] == [columns, rows, self.experts()] && expert < *count =>
            {
                let bytes = place.bytes / count;
                let (start, dims) = (place.start + expert * bytes, vec![columns, rows]);
                Ok(TensorPlace { start, bytes, dims, ..place.clone() })
            }
            (expert, dims) => {
                let mut asked = vec![columns, rows];
                asked.extend(expert.map(|_| self.experts()));
                Err(self.broken(format!(
                    "tensor `{name}` has dimensions {dims:?}, but its keys ask for {asked:?}"
                )))
            }
        }
    }
}

impl TensorSource for GgufModel {
    fn read(
        &mut self,
        parameter: &str,
        shape: [usize; 2],
        take: &mut TakeNumbers<'_>,
    ) -> Result<(), KernelError> {
        let place = self.place(parameter, shape)?;
        let is_query = parameter.contains("self_attn.q_proj.");
        let is_rotated = is_query || parameter.contains("self_attn.k_proj.");
        if self.rotated_in_pairs && is_rotated {
            let heads = if is_query { self.config.heads } else { self.config.kv_heads };
            let width = place.numbers() as usize / (heads * self.config.head_width);
            return take(&halves_of_pairs(&self.file.read_whole(&place)?, self.config.head_width, width));
        }
        if self.norms_raised_by != 0.0 && parameter.ends_with("norm.weight") {
            let raised = self.file.read_whole(&place)?;
            return take(&raised.iter().map(|number| number - self.norms_raised_by).collect::<Vec<_>>());
        }
        self.file.read(&place, take)
    }
}

/// Rows of heads in which the pair of a rotation lie side by side, as rows with the first of all pairs before the second.
fn halves_of_pairs(rows: &[f32], head_width: usize, width: usize) -> Vec<f32> {
    let mut sorted = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_width * width) {
        for half in 0..2 {
            for pair in 0..head_width / 2 {
                sorted.extend_from_slice(&head[(2 * pair + half) * width..][..width]);
            }
        }
    }
    sorted
}

#[cfg(test)]
mod tests;
