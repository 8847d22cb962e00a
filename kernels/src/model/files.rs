//! Weights from and to the files of a Hugging Face directory, and fresh random weights.
//!
//! Files are read one tensor at a time, so that a load needs little more memory than the weights
//! themselves. What the files hold is checked against the shapes that the config asks for: a tensor that
//! is missing, misshapen or not expected is an error, because a model that runs on half its checkpoint
//! only looks like a bad model. `config.json` is read in [`super::config`].

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::config::{CONFIG_FILE, DecoderConfig};
use super::spec::NormSpec;
use super::weights::Weights;
use crate::KernelError;
use crate::flex::InnerOrSelf;
use crate::sampling::{key, uniform};

const WEIGHTS_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// The limit of the safetensors format: a longer header is a broken file, not a big model.
const HEADER_BYTES_MAX: u64 = 100_000_000;

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
        let mut shard = Shard::open(path)?;
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
        require_equal_head(path, &head, &values(&weights.embedding))?;
    }
    Ok(weights)
}

/// Whether [`load`] would read these files, by their headers. Numbers are read only of a head beside tied embeddings
/// and of these, because whether the two are equal decides whether the files are refused.
pub(crate) fn check(dir: &Path, config: &DecoderConfig) -> Result<(), KernelError> {
    let files = weight_files(dir)?;
    let mut names = Names::new(config);
    let (mut embedding, mut tied_head) = (None, None);
    for path in &files.paths {
        let shard = Shard::open(path)?;
        for name in shard.metadata.offset_keys() {
            match names.role(path, &name)? {
                Role::Parameter(shape) => {
                    shard.check_tensor(&name, shape)?;
                    if name == EMBEDDING {
                        embedding = Some((path, shape));
                    }
                }
                Role::TiedHead(shape) => {
                    shard.check_tensor(HEAD, shape)?;
                    tied_head = Some((path, shape));
                }
                Role::Unused => {}
            }
        }
    }
    for (name, shape) in config.shapes().named() {
        let name = config.family.file_name(&name);
        if !names.found.contains(&name) {
            return Err(missing(&files, &name, *shape));
        }
    }
    if let (Some((path, shape)), Some((embedding, embedding_shape))) = (tied_head, embedding) {
        let head = Shard::open(path)?.read(HEAD, shape)?;
        require_equal_head(path, &head, &Shard::open(embedding)?.read(EMBEDDING, embedding_shape)?)?;
    }
    Ok(())
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
    save_numbers(dir, config, weights, |value| values(value).into())
}

/// [`save`] of parameters in any form; `numbers` is asked for one at a time.
pub(crate) fn save_numbers<T>(
    dir: &Path,
    config: &DecoderConfig,
    weights: &Weights<T>,
    numbers: impl Fn(&T) -> Cow<'_, [f32]>,
) -> Result<(), KernelError> {
    std::fs::create_dir_all(dir).map_err(|source| KernelError::file(dir, source))?;
    write_whole(&dir.join(WEIGHTS_FILE), |file| write_safetensors(file, config, weights, &numbers))?;
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

/// Whether a parameter has one dimension in Hugging Face files: norms and biases.
fn is_vector(name: &str) -> bool {
    name.ends_with("norm.weight") || name.ends_with(".bias")
}

/// The shape of a parameter in Hugging Face files.
fn file_shape(name: &str, shape: [usize; 2]) -> Vec<usize> {
    if is_vector(name) { vec![shape[1]] } else { shape.to_vec() }
}

/// The values of a parameter, read back from its device.
fn values(tensor: &Tensor<2>) -> Vec<f32> {
    tensor
        .clone()
        .inner_or_self()
        .try_into_vec_as()
        .expect("parameters are floats on a device that can be read")
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
    let text = std::fs::read_to_string(&index).map_err(|source| KernelError::file(&index, source))?;
    let json: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| KernelError::content(&index, format!("is not JSON: {error}")))?;
    let map = json.get("weight_map").and_then(serde_json::Value::as_object);
    let map = map.ok_or_else(|| KernelError::content(&index, "has no object `weight_map`"))?;
    let mut places = BTreeMap::new();
    for (tensor, file) in map {
        // A shard is a file of this directory: a path elsewhere would read what nobody offered.
        let name = file.as_str().filter(|name| Path::new(name).file_name() == Some(name.as_ref()));
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

/// One safetensors file whose header was read and agrees with the file's length.
struct Shard<'a> {
    path: &'a Path,
    file: File,
    metadata: Metadata,
    /// Where the header ends and the tensors begin.
    tensors_start: u64,
}

impl<'a> Shard<'a> {
    fn open(path: &'a Path) -> Result<Self, KernelError> {
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
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| broken(format!("has a broken safetensors header: {error}")))?;
        let shard = Self { path, file, metadata, tensors_start };
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
            return Err(KernelError::content(self.path, reason));
        }
        let ends_late = |name: &String| {
            self.metadata
                .info(name)
                .is_some_and(|info| self.tensors_start + info.data_offsets.1 as u64 > file_bytes)
        };
        let first = self.metadata.offset_keys().into_iter().find(ends_late).unwrap_or_default();
        let reason = format!("is truncated in tensor `{first}`: it has {file_bytes} bytes of {promised}");
        Err(KernelError::content(self.path, reason))
    }

    /// Where a tensor lies and how its bytes become f32, if it has the shape and a type that is read.
    fn check_tensor(&self, name: &str, shape: [usize; 2]) -> Result<(Convert, (usize, usize)), KernelError> {
        let info = self.metadata.info(name).expect("the name comes from this header");
        let expected = file_shape(name, shape);
        if info.shape != expected {
            let reason =
                format!("tensor `{name}` has shape {:?}, but the config asks for {expected:?}", info.shape);
            return Err(KernelError::content(self.path, reason));
        }
        let convert = converter(info.dtype).ok_or_else(|| {
            let reason = format!("tensor `{name}` is {:?}; read are F32, BF16 and F16", info.dtype);
            KernelError::content(self.path, reason)
        })?;
        Ok((convert, info.data_offsets))
    }

    /// Reads one tensor as f32 after a look at its shape and type.
    fn read(&mut self, name: &str, shape: [usize; 2]) -> Result<Vec<f32>, KernelError> {
        let (convert, (start, end)) = self.check_tensor(name, shape)?;
        let mut bytes = vec![0; end - start];
        let place = SeekFrom::Start(self.tensors_start + start as u64);
        let read = self.file.seek(place).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|source| KernelError::file(self.path, source))?;
        Ok(convert(&bytes))
    }
}

/// Bytes of a file to numbers.
type Convert = fn(&[u8]) -> Vec<f32>;

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

/// Writes the safetensors format: the header's length, the header, the tensors one after the other.
fn write_safetensors<T>(
    file: &mut BufWriter<File>,
    config: &DecoderConfig,
    weights: &Weights<T>,
    numbers: &impl Fn(&T) -> Cow<'_, [f32]>,
) -> std::io::Result<()> {
    let mut tensors = Vec::new();
    let mut start = 0;
    config.shapes().for_each(|name, shape| {
        let shape = file_shape(name, *shape);
        let end = start + 4 * shape.iter().product::<usize>();
        let name = config.family.file_name(name);
        tensors.push((name, TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) }));
        start = end;
    });
    // transformers looks for this entry to know that the tensors are laid out as PyTorch has them.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), tensors).map_err(std::io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    // Tensors start at a multiple of eight bytes, as readers that map the file expect.
    header.resize(header.len().next_multiple_of(8), b' ');
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for (_, value) in weights.named() {
        for number in numbers(value).iter() {
            file.write_all(&number.to_le_bytes())?;
        }
    }
    Ok(())
}

/// Writes a file under a temporary name, makes sure that it is on disk, and renames it: a reader sees
/// the old file or the new one, never half of one.
fn write_whole(
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
mod tests {
    use safetensors::tensor::TensorView;
    use serde_json::{Value, json};

    use super::*;

    fn config(changes: Value) -> DecoderConfig {
        let mut value = json!({
            "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 12, "vocab_size": 10, "max_position_embeddings": 64,
            "attention_bias": true, "initializer_range": 0.5,
        });
        for (key, change) in changes.as_object().unwrap() {
            value[key] = change.clone();
        }
        DecoderConfig::from_json(Path::new("config.json"), &value).unwrap()
    }

    /// Random weights whose norms and biases are random as well.
    fn weights(config: &DecoderConfig) -> Weights<Tensor<2>> {
        let device = Device::flex();
        config.shapes().map(|name, shape| {
            let values = normals(3, name, shape[0] * shape[1], 1.0);
            Tensor::from_data(TensorData::new(values, *shape), &device)
        })
    }

    fn lists(weights: &Weights<Tensor<2>>) -> Weights<Vec<f32>> {
        weights.map(|_, tensor| values(tensor))
    }

    /// A tensor of a file under test: name, type, shape, bytes.
    type Raw = (String, Dtype, Vec<usize>, Vec<u8>);

    /// The content of a right file, for a test to spoil.
    fn right_file(config: &DecoderConfig) -> Vec<Raw> {
        let weights = weights(config);
        let tensors = weights.named().into_iter().map(|(name, tensor)| {
            let bytes = values(tensor).iter().flat_map(|value| value.to_le_bytes()).collect();
            (name.clone(), Dtype::F32, file_shape(&name, tensor.dims()), bytes)
        });
        tensors.collect()
    }

    fn write(path: &Path, tensors: &[Raw]) {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    /// What loading says of a folder; checking says the same.
    fn load_error(dir: &Path, config: &DecoderConfig) -> String {
        let message = load(dir, config, &Device::flex()).unwrap_err().to_string();
        assert_eq!(check(dir, config).unwrap_err().to_string(), message);
        message
    }

    /// What loading says of a file with these tensors; it must name the file.
    fn refused(config: &DecoderConfig, tensors: &[Raw]) -> String {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(WEIGHTS_FILE), tensors);
        let message = load_error(dir.path(), config);
        assert!(message.contains(WEIGHTS_FILE), "{message}");
        message
    }

    #[test]
    fn what_is_saved_is_loaded() {
        for changes in [
            json!({}),
            json!({"tie_word_embeddings": true, "head_dim": 6, "attention_bias": false}),
            json!({"model_type": "qwen2"}),
            json!({"model_type": "qwen3", "head_dim": 4, "attention_bias": false}),
        ] {
            let config = config(changes);
            let weights = weights(&config);
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path().join("inner/model");
            save(&dir, &config, &weights).unwrap();
            assert_eq!(DecoderConfig::read(&dir).unwrap(), config);
            assert_eq!(lists(&load(&dir, &config, &Device::flex()).unwrap()), lists(&weights));
            let mut names: Vec<_> =
                std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, [CONFIG_FILE, WEIGHTS_FILE]);
        }
    }

    #[test]
    fn a_saved_file_is_as_pytorch_has_it() {
        let config = config(json!({"tie_word_embeddings": true}));
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &config, &weights(&config)).unwrap();
        let bytes = std::fs::read(dir.path().join(WEIGHTS_FILE)).unwrap();
        let (header_bytes, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header_bytes % 8, 0);
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        assert_eq!(metadata.info("model.layers.1.input_layernorm.weight").unwrap().shape, [8]);
        assert_eq!(metadata.info("model.layers.0.self_attn.k_proj.bias").unwrap().shape, [4]);
        assert_eq!(metadata.info("model.layers.0.self_attn.k_proj.weight").unwrap().shape, [4, 8]);
        assert!(metadata.info(HEAD).is_none());
    }

    #[test]
    fn shards_are_joined() {
        let config = config(json!({}));
        let tensors = right_file(&config);
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = tensors.split_at(9);
        write(&dir.path().join("a.safetensors"), first);
        write(&dir.path().join("b.safetensors"), second);
        let place = |(name, ..): &Raw, file: &str| (name.clone(), json!(file));
        let map: serde_json::Map<String, Value> = first
            .iter()
            .map(|tensor| place(tensor, "a.safetensors"))
            .chain(second.iter().map(|tensor| place(tensor, "b.safetensors")))
            .collect();
        let index = dir.path().join(INDEX_FILE);
        std::fs::write(&index, json!({"metadata": {}, "weight_map": map.clone()}).to_string()).unwrap();
        let loaded = load(dir.path(), &config, &Device::flex()).unwrap();
        assert_eq!(lists(&loaded), lists(&weights(&config)));

        let error = || load_error(dir.path(), &config);
        write(&dir.path().join("b.safetensors"), &second[1..]);
        assert!(error().contains("b.safetensors") && error().contains(&second[0].0), "{}", error());
        write(&dir.path().join("b.safetensors"), &tensors[8..]);
        assert!(error().contains(&tensors[8].0) && error().contains("again"), "{}", error());
        std::fs::remove_file(dir.path().join("b.safetensors")).unwrap();
        assert!(error().contains("b.safetensors"), "{}", error());
        for (content, said) in [
            ("{", "is not JSON"),
            ("{}", "`weight_map`"),
            (r#"{"weight_map": {"x": "../b.safetensors"}}"#, "`weight_map.x`"),
        ] {
            std::fs::write(&index, content).unwrap();
            assert!(error().contains(INDEX_FILE) && error().contains(said), "{}", error());
        }
        std::fs::remove_file(index).unwrap();
        assert!(error().contains("neither model.safetensors nor"), "{}", error());
    }

    #[test]
    fn half_precision_is_widened() {
        let config = config(json!({}));
        let mut tensors = right_file(&config);
        let expected = [1.5_f32, -0.25, 3.0, 0.0, -0.0, 2.0, 65_280.0, 0.000_061_035_156];
        let bf16 = |value: &f32| ((value.to_bits() >> 16) as u16).to_le_bytes();
        let half = |value: &f32| f16::from_f32(*value).to_le_bytes();
        let place = |name: &str| tensors.iter().position(|tensor| tensor.0 == name).unwrap();
        let (first, second) = (place("model.norm.weight"), place("model.layers.0.input_layernorm.weight"));
        (tensors[first].1, tensors[first].3) = (Dtype::BF16, expected.iter().flat_map(bf16).collect());
        (tensors[second].1, tensors[second].3) = (Dtype::F16, expected.iter().flat_map(half).collect());
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(WEIGHTS_FILE), &tensors);
        let loaded = lists(&load(dir.path(), &config, &Device::flex()).unwrap());
        assert_eq!(loaded.final_norm, expected);
        assert_eq!(loaded.blocks[0].input_norm, expected);
    }

    #[test]
    fn a_missing_tensor_is_named() {
        let config = config(json!({}));
        for name in ["lm_head.weight", "model.layers.1.self_attn.v_proj.bias", "model.norm.weight"] {
            let mut tensors = right_file(&config);
            tensors.retain(|tensor| tensor.0 != name);
            let message = refused(&config, &tensors);
            assert!(message.contains(&format!("lacks tensor `{name}`")), "{message}");
        }
    }

    #[test]
    fn a_misshapen_tensor_is_named_with_both_shapes() {
        let config = config(json!({}));
        let mut tensors = right_file(&config);
        let place = tensors.iter().position(|tensor| tensor.0.ends_with("0.mlp.up_proj.weight")).unwrap();
        tensors[place].2 = vec![8, 12];
        let message = refused(&config, &tensors);
        assert!(message.contains("`model.layers.0.mlp.up_proj.weight`"), "{message}");
        assert!(message.contains("[8, 12]") && message.contains("[12, 8]"), "{message}");
    }

    #[test]
    fn a_tensor_of_another_type_is_named() {
        let config = config(json!({}));
        let mut tensors = right_file(&config);
        tensors[2].1 = Dtype::I32;
        let message = refused(&config, &tensors);
        assert!(message.contains(&tensors[2].0) && message.contains("I32"), "{message}");
    }

    #[test]
    fn an_unexpected_tensor_is_named() {
        let config = config(json!({"attention_bias": false}));
        let mut tensors = right_file(&config);
        let bias = "model.layers.0.self_attn.q_proj.bias";
        tensors.push((bias.to_owned(), Dtype::F32, vec![8], vec![0; 32]));
        assert!(refused(&config, &tensors).contains(bias));
        tensors.last_mut().unwrap().0 = "model.layers.2.input_layernorm.weight".to_owned();
        assert!(refused(&config, &tensors).contains("model.layers.2.input_layernorm.weight"));
        tensors.last_mut().unwrap().0 = "model.layers.0.self_attn.rotary_emb.inv_freq".to_owned();
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(WEIGHTS_FILE), &tensors);
        assert!(load(dir.path(), &config, &Device::flex()).is_ok());
        check(dir.path(), &config).unwrap();
    }

    #[test]
    fn a_head_beside_tied_embeddings_must_equal_them() {
        let config = config(json!({"tie_word_embeddings": true}));
        let mut tensors = right_file(&config);
        let embedding =
            tensors.iter().find(|tensor| tensor.0 == "model.embed_tokens.weight").unwrap().clone();
        tensors.push((HEAD.to_owned(), embedding.1, embedding.2, embedding.3));
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(WEIGHTS_FILE), &tensors);
        assert!(load(dir.path(), &config, &Device::flex()).unwrap().head.is_none());
        check(dir.path(), &config).unwrap();
        tensors.last_mut().unwrap().3[5] ^= 1;
        assert!(refused(&config, &tensors).contains("`lm_head.weight` differs"));
    }

    #[test]
    fn a_broken_file_is_named_with_the_place() {
        let config = config(json!({}));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(WEIGHTS_FILE);
        save(dir.path(), &config, &weights(&config)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let error = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let message = load_error(dir.path(), &config);
            assert!(message.contains(path.to_str().unwrap()), "{message}");
            message
        };
        let message = error(&whole[..whole.len() - 1]);
        assert!(message.contains("is truncated in tensor `lm_head.weight`"), "{message}");
        let header_bytes = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let message = error(&whole[..8 + header_bytes + 3]);
        assert!(message.contains("is truncated in tensor `model.embed_tokens.weight`"), "{message}");
        // Every other length is an error as well, and none panics.
        for length in (0..whole.len()).step_by(37) {
            error(&whole[..length]);
        }
        assert!(error(&[&whole[..], &[0]].concat()).contains("explains"));
        assert!(error(&[0xff; 64]).contains("is no safetensors file"));
        assert!(error(b"\x10\0\0\0\0\0\0\0{\"a\": nonsense}}").contains("header"));
    }

    #[test]
    fn random_weights_have_the_stated_moments() {
        let device = Device::flex();
        let config = config(json!({"vocab_size": 4000, "initializer_range": 0.02}));
        let weights = lists(&random(&config, 9, &device));
        assert_eq!(weights.blocks[1].input_norm, [1.0; 8]);
        assert_eq!(weights.blocks[0].key_bias, Some(vec![0.0; 4]));
        let count = weights.embedding.len() as f32;
        let mean = weights.embedding.iter().sum::<f32>() / count;
        let deviation = (weights.embedding.iter().map(|value| value * value).sum::<f32>() / count).sqrt();
        // The standard errors are 1.1e-4 and 8e-5.
        assert!(mean.abs() < 5e-4 && (deviation - 0.02).abs() < 4e-4, "{mean} {deviation}");
        let correlation: f32 =
            weights.embedding.windows(2).map(|pair| pair[0] * pair[1]).sum::<f32>() / count;
        assert!(correlation.abs() < 1e-5, "{correlation}");
        assert_eq!(lists(&random(&config, 9, &device)), weights);
        assert_ne!(lists(&random(&config, 10, &device)), weights);
        assert_ne!(weights.blocks[0].gate, weights.blocks[0].up);
        assert_ne!(weights.blocks[0].gate, weights.blocks[1].gate);
    }
}
