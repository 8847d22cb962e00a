//! Weights from and to the files of a Hugging Face directory, and fresh random weights.
//!
//! Files are read one tensor at a time, or some rows of it where they are packed at once, so that a load needs little more
//! memory than the weights themselves. Reading is done at places of the file and not through a mapping: what is mapped
//! counts as memory of the process until the system takes it back, and a file that is cut while it is mapped ends the
//! process with a signal in the place of an error. What the files hold is checked against the shapes that the config asks
//! for: a tensor that is missing, misshapen or not expected is an error, because a model that runs on half its checkpoint
//! only looks like a bad model. `config.json` is read in [`super::config`].

pub(crate) mod source;
mod experts;
pub(crate) mod write;
pub(crate) mod directory;
mod shard_header;
pub(crate) mod gguf;
pub(crate) mod peft;
pub(crate) mod adapter;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::Dtype;

use super::config::{CONFIG_FILE, DecoderConfig};
use super::keys::read_object;
use super::numbers::WriteNumbers;
use super::packed::{PackedWeights, PackingWeights};
use super::spec::NormSpec;
use super::weights::{Weights, is_router, is_vector};
use crate::KernelError;
use crate::flex::StoredNumbers;
use crate::gemm::Precision;
use crate::sampling::{key, uniform};
use shard::{Shard, row_parts};

mod shard;

const WEIGHTS_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// The longest name of a file that file systems have.
const FILE_NAME_BYTES_MAX: usize = 255;

/// The longest index that is read: those of the largest models, with a hundred thousand tensors, have a fifth of it.
const INDEX_BYTES_MAX: u64 = 64 << 20;

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Reads the weights of a Hugging Face directory, from one file or from shards, as f32.
///
/// Not used and tolerated are `rotary_emb.inv_freq`, which old checkpoints carry, and a head beside tied
/// embeddings if it equals them.
pub(crate) fn load(
    dir: &Path,
    config: &DecoderConfig,
    device: &Device,
) -> Result<Weights<Tensor<2>>, KernelError> {
    let files = weight_files(dir)?;
    let mut names = Names::new(config);
    let (mut tensors, mut tied_head) = (HashMap::new(), None);
    for path in &files.paths {
        let shard = Shard::open(path)?;
        for name in shard.metadata.offset_keys() {
            match names.role(path, &name)? {
                Role::Parameter(shape) => {
                    let values = shard.read(&name, shape)?;
                    tensors.insert(name, Tensor::from_data(TensorData::new(values, shape), device));
                }
                Role::TiedHead(shape) => tied_head = Some((path, shard.read(HEAD, shape)?)),
                Role::Unused => {}
            }
        }
    }
    let weights = config.shapes().try_map(|name, shape| {
        let name = config.family.file_name(name);
        tensors.remove(&name).ok_or_else(|| missing(&files, &name, *shape))
    })?;
    if let Some((path, head)) = tied_head {
        require_equal_head(path, &head, &StoredNumbers::of(&weights.embedding).numbers())?;
    }
    Ok(weights)
}

/// [`load`] of parameters that are packed while they are read; the embedding's rows as [`PackingWeights::new`] has them.
/// Nothing is taken for them before all headers are known to be right.
pub(crate) fn load_packed(
    dir: &Path,
    config: &DecoderConfig,
    precision: Precision,
    embedding: Option<Precision>,
) -> Result<PackedWeights, KernelError> {
    let shards = open_checked(dir, config)?;
    let shapes = config.shapes();
    let numbers = shapes.named().into_iter().enumerate();
    let numbers: HashMap<String, usize> =
        numbers.map(|(number, (name, _))| (config.family.file_name(&name), number)).collect();
    let mut names = Names::new(config);
    let mut packing = PackingWeights::new(config, precision, embedding);
    for shard in &shards {
        for name in shard.metadata.offset_keys() {
            if let Role::Parameter(shape) = names.role(&shard.path, &name)? {
                for rows in row_parts(shape) {
                    let first = rows.start;
                    packing.set(numbers[&name], first, &shard.read_rows(&name, shape, rows)?);
                }
            }
        }
    }
    Ok(packing.done())
}

/// The precision that holds what files hold: bf16 if all matrices that are rounded have it.
pub(crate) fn precision(dir: &Path, config: &DecoderConfig) -> Result<Precision, KernelError> {
    let mut rounded = HashSet::new();
    config.shapes().for_each(|name, _| {
        if !is_vector(name) && !is_router(name) {
            rounded.insert(config.family.file_name(name));
        }
    });
    let mut precision = Precision::Bf16;
    for path in &weight_files(dir)?.paths {
        let shard = Shard::open(path)?;
        for name in shard.metadata.offset_keys().iter().filter(|name| rounded.contains(*name)) {
            if shard.metadata.info(name).is_some_and(|info| info.dtype != Dtype::BF16) {
                precision = Precision::F32;
            }
        }
    }
    Ok(precision)
}

/// Whether [`load`] would read these files, by their headers.
pub(crate) fn check(dir: &Path, config: &DecoderConfig) -> Result<(), KernelError> {
    open_checked(dir, config).map(drop)
}

/// The files of a directory, if [`load`] would read them, with their headers, each of which is read once. Numbers are read
/// only of a head beside tied embeddings and of these, because whether the two are equal decides whether the files are
/// refused.
fn open_checked(dir: &Path, config: &DecoderConfig) -> Result<Vec<Shard>, KernelError> {
    let files = weight_files(dir)?;
    let mut names = Names::new(config);
    let (mut embedding, mut tied_head) = (None, None);
    let mut shards = Vec::new();
    for path in &files.paths {
        let shard = Shard::open(path)?;
        for name in shard.metadata.offset_keys() {
            match names.role(path, &name)? {
                Role::Parameter(shape) => {
                    shard.check_tensor(&name, shape)?;
                    if name == EMBEDDING {
                        embedding = Some((shards.len(), shape));
                    }
                }
                Role::TiedHead(shape) => {
                    shard.check_tensor(HEAD, shape)?;
                    tied_head = Some((shards.len(), shape));
                }
                Role::Unused => {}
            }
        }
        shards.push(shard);
    }
    for (name, shape) in config.shapes().named() {
        let name = config.family.file_name(&name);
        if !names.found.contains(&name) {
            return Err(missing(&files, &name, *shape));
        }
    }
    if let (Some((head, shape)), Some((embedding, embedding_shape))) = (tied_head, embedding) {
        for rows in row_parts(shape) {
            let numbers = shards[head].read_rows(HEAD, shape, rows.clone())?;
            let equal = shards[embedding].read_rows(EMBEDDING, embedding_shape, rows)?;
            require_equal_head(&shards[head].path, &numbers, &equal)?;
        }
    }
    Ok(shards)
}

/// What a tensor in a file is to the model.
enum Role {
    /// A parameter of this shape.
    Parameter([usize; 2]),
    /// A head of this shape beside tied embeddings.
    TiedHead([usize; 2]),
    /// Left unread.
    Unused,
}

/// Which names the files may have. Reading and checking ask the same rule, so that `check` refuses what a run would.
struct Names<'a> {
    config: &'a DecoderConfig,
    expected: HashMap<String, [usize; 2]>,
    found: HashSet<String>,
}

impl<'a> Names<'a> {
    fn new(config: &'a DecoderConfig) -> Self {
        let shapes = config.shapes();
        let named = shapes.named().into_iter();
        let expected = named.map(|(name, shape)| (config.family.file_name(&name), *shape)).collect();
        Self { config, expected, found: HashSet::new() }
    }

    /// What the next tensor of a file is.
    fn role(&mut self, path: &Path, name: &str) -> Result<Role, KernelError> {
        let role = match self.expected.get(name) {
            Some(&shape) => Role::Parameter(shape),
            None if name == HEAD => Role::TiedHead([self.config.vocabulary, self.config.hidden]),
            None if name.ends_with("rotary_emb.inv_freq") => return Ok(Role::Unused),
            None => {
                let family = self.config.family.model_type;
                let reason =
                    format!("has tensor `{name}`, for which a {family} model of this config has no place");
                return Err(KernelError::content(path, reason));
            }
        };
        if self.found.insert(name.to_owned()) {
            return Ok(role);
        }
        Err(KernelError::content(path, format!("has tensor `{name}` of another shard again")))
    }
}

/// With other numbers, transformers 4 and 5 disagree on which of the two is the model.
fn require_equal_head(path: &Path, head: &[f32], embedding: &[f32]) -> Result<(), KernelError> {
    if head == embedding {
        return Ok(());
    }
    let reason = format!("`tie_word_embeddings` is true, but tensor `{HEAD}` differs from the embedding");
    Err(KernelError::content(path, reason))
}

/// Writes `config.json` and `model.safetensors` with f32 weights, each whole or not at all.
///
/// The config comes last, so that a directory with a config has its weights.
pub(crate) fn save(
    dir: &Path,
    config: &DecoderConfig,
    weights: &Weights<Tensor<2>>,
) -> Result<(), KernelError> {
    save_parts(dir, config, weights, |value, write| write(&StoredNumbers::of(value).numbers()))
}

/// [`save`] of parameters in any form; `parts` hands out the numbers of one, in as many parts as it likes.
pub(crate) fn save_parts<T>(
    dir: &Path,
    config: &DecoderConfig,
    weights: &Weights<T>,
    parts: impl Fn(&T, &mut WriteNumbers<'_>) -> std::io::Result<()>,
) -> Result<(), KernelError> {
    std::fs::create_dir_all(dir).map_err(|source| KernelError::file(dir, source))?;
    write_whole(&dir.join(WEIGHTS_FILE), |file| write_safetensors(file, config, weights, &parts))?;
    let json = format!("{:#}\n", config.to_json());
    write_whole(&dir.join(CONFIG_FILE), |file| file.write_all(json.as_bytes()))?;
    // The new names are on disk only once the directory is.
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| KernelError::file(dir, source))
}

/// Fresh weights: matrices normal with the config's `initializer_range`, gains of norms 1, biases 0.
///
/// Every number is a function of the seed, the parameter's name and its place, computed on the host: so
/// the device makes no difference.
///
/// # Panics
/// When the config does not pass [`DecoderConfig::check`].
pub(crate) fn random(config: &DecoderConfig, seed: u64, device: &Device) -> Weights<Tensor<2>> {
    if let Err(reason) = config.check() {
        panic!("random weights need a sound config: {reason}");
    }
    config.shapes().map(|name, shape| {
        let count = shape[0] * shape[1];
        let values = if name.ends_with(".bias") {
            vec![0.0; count]
        } else if let Some(norm) = norm_of(config, name) {
            vec![1.0 - norm.offset; count]
        } else {
            normals(seed, name, count, config.initializer_range)
        };
        Tensor::from_data(TensorData::new(values, *shape), device)
    })
}

/// Normal numbers by the transform of Box and Muller, two from each pair of uniform ones.
fn normals(seed: u64, name: &str, count: usize, deviation: f64) -> Vec<f32> {
    let parts: Vec<u64> = std::iter::once(seed).chain(name.bytes().map(u64::from)).collect();
    let stream = key(&parts);
    let mut values = Vec::with_capacity(count + 1);
    for pair in 0..count.div_ceil(2) as u64 {
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - uniform(stream, 2 * pair)).ln()).sqrt() * deviation;
        let (sine, cosine) = (std::f64::consts::TAU * uniform(stream, 2 * pair + 1)).sin_cos();
        values.push((radius * cosine) as f32);
        values.push((radius * sine) as f32);
    }
    values.truncate(count);
    values
}

/// The norm that a parameter belongs to.
fn norm_of(config: &DecoderConfig, name: &str) -> Option<NormSpec> {
    let block = &config.spec.block;
    let norms = [
        ("input_layernorm.weight", Some(block.input_norm)),
        ("q_norm.weight", block.query_key_norm),
        ("k_norm.weight", block.query_key_norm),
        ("attention_output_norm.weight", block.attention_output_norm),
        ("post_attention_layernorm.weight", Some(block.feed_forward_norm)),
        ("feed_forward_output_norm.weight", block.feed_forward_output_norm),
        ("model.norm.weight", Some(config.spec.final_norm)),
    ];
    norms.into_iter().find(|(own, _)| name.ends_with(own)).and_then(|(_, norm)| norm)
}

/// The shape of a parameter in Hugging Face files.
fn file_shape(name: &str, shape: [usize; 2]) -> Vec<usize> {
    if is_vector(name) { vec![shape[1]] } else { shape.to_vec() }
}

/// The files that hold the weights of a directory.
struct WeightFiles {
    paths: Vec<PathBuf>,
    /// Which tensor stands where by the index; `None` without one.
    index: Option<(PathBuf, BTreeMap<String, PathBuf>)>,
}

/// `model.safetensors`, or else the shards that the index names.
fn weight_files(dir: &Path) -> Result<WeightFiles, KernelError> {
    let single = dir.join(WEIGHTS_FILE);
    if single.exists() {
        return Ok(WeightFiles { paths: vec![single], index: None });
    }
    let index = dir.join(INDEX_FILE);
    if !index.exists() {
        let reason = format!("has neither {WEIGHTS_FILE} nor {INDEX_FILE}");
        return Err(KernelError::content(dir, reason));
    }
    let json = read_object(&index, INDEX_BYTES_MAX)?;
    let map = json.get("weight_map").and_then(serde_json::Value::as_object);
    let map = map.ok_or_else(|| KernelError::content(&index, "has no object `weight_map`"))?;
    let mut places = BTreeMap::new();
    for (tensor, file) in map {
        // A shard is a file of this directory: a path elsewhere would read what nobody offered.
        let is_name = |name: &&str| {
            name.len() <= FILE_NAME_BYTES_MAX && Path::new(name).file_name() == Some(name.as_ref())
        };
        let name = file.as_str().filter(is_name);
        let name = name.ok_or_else(|| {
            KernelError::content(&index, format!("`weight_map.{tensor}` is {file}, which is no file name"))
        })?;
        places.insert(tensor.clone(), dir.join(name));
    }
    let mut paths: Vec<PathBuf> = places.values().cloned().collect();
    paths.sort();
    paths.dedup();
    Ok(WeightFiles { paths, index: Some((index, places)) })
}

fn missing(files: &WeightFiles, name: &str, shape: [usize; 2]) -> KernelError {
    let path = match &files.index {
        Some((index, places)) => places.get(name).unwrap_or(index),
        None => &files.paths[0],
    };
    KernelError::content(path, format!("lacks tensor `{name}` of shape {:?}", file_shape(name, shape)))
}

/// Writes the safetensors format: the header's length, the header, the tensors one after the other.
fn write_safetensors<T>(
    file: &mut BufWriter<File>,
    config: &DecoderConfig,
    weights: &Weights<T>,
    parts: &impl Fn(&T, &mut WriteNumbers<'_>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut tensors = Vec::new();
    config.shapes().for_each(|name, shape| {
        tensors.push((config.family.file_name(name), file_shape(name, *shape)));
    });
    write::write_header(file, tensors, Dtype::F32)?;
    for (_, value) in weights.named() {
        parts(value, &mut |numbers| {
            numbers.iter().try_for_each(|number| file.write_all(&number.to_le_bytes()))
        })?;
    }
    Ok(())
}

/// Writes a file under a temporary name, makes sure that it is on disk, and renames it: a reader sees
/// the old file or the new one, never half of one.
pub(super) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<(), KernelError> {
    let mut name = path.file_name().expect("a file of a model has a name").to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let written = File::create(&partial).and_then(|file| {
        let mut buffered = BufWriter::with_capacity(1 << 20, file);
        write(&mut buffered)?;
        buffered.into_inner().map_err(|error| error.into_error())?.sync_all()?;
        std::fs::rename(&partial, path)
    });
    written.map_err(|source| KernelError::file(path, source))
}

#[cfg(test)]
mod tests;
