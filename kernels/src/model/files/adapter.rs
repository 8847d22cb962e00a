//! A LoRA adapter in the files of PEFT, added to the model that it was trained on.
//!
//! `W + scale * B A` is computed in f32, a matrix at a time. What an adapter can have beside A and B is refused by name.

use std::collections::HashMap;
use std::path::Path;

use rayon::prelude::*;
use regex::Regex;
use serde_json::Value;

use super::Shard;
use super::source::{TakeNumbers, TensorSource};
use crate::KernelError;
use crate::model::config::DecoderConfig;
use crate::model::keys::Keys;

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// What PEFT puts before the names of the model.
const PREFIX: &str = "base_model.model.";

/// What PEFT puts behind the name of a module.
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";
const MATRIX: &str = ".base_layer.weight";
const PARTS: [&str; 3] = [A, B, MATRIX];

/// Keys of `adapter_config.json` under which something is computed that is not computed here.
const REFUSED: [&str; 15] = [
    "modules_to_save",
    "use_dora",
    "fan_in_fan_out",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "megatron_config",
    "use_qalora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
    "velora_config",
];

/// Beginnings of `init_lora_weights` after which the model is another one than that of its files.
const OTHER_BASES: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// A and B of a matrix.
#[derive(Debug)]
struct Pair {
    /// `[rank, in]`.
    a: Vec<f32>,
    /// `[out, rank]`.
    b: Vec<f32>,
    rank: usize,
    scale: f32,
    /// The matrix itself, where the adapter's file has it: PEFT saves that of a head.
    matrix: Option<Vec<f32>>,
}

/// An adapter that fits a model.
#[derive(Debug)]
pub struct PeftAdapter {
    /// By the parameters' names here.
    pairs: HashMap<String, Pair>,
}

impl PeftAdapter {
    /// Reads an adapter for a decoder.
    ///
    /// # Errors
    /// Names the file and the key or tensor that is missing, misshapen or not computed.
    pub fn read(dir: &Path, config: &DecoderConfig) -> Result<Self, KernelError> {
        let path = dir.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path).map_err(|source| KernelError::file(&path, source))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| KernelError::content(&path, format!("is not JSON: {error}")))?;
        let map = value.as_object().ok_or_else(|| KernelError::content(&path, "is not a JSON object"))?;
        let scales = Scales::read(&Keys { path: &path, section: "", map })?;
        Ok(Self { pairs: read_pairs(&dir.join(WEIGHTS_FILE), config, &scales)? })
    }

    /// The model on which the adapter was trained, as its files name it.
    ///
    /// # Errors
    /// If there is no such file, or it names none.
    pub fn base_of(dir: &Path) -> Result<String, KernelError> {
        let path = dir.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path).map_err(|source| KernelError::file(&path, source))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| KernelError::content(&path, format!("is not JSON: {error}")))?;
        let name = value["base_model_name_or_path"].as_str();
        name.map(str::to_owned)
            .ok_or_else(|| KernelError::content(&path, "`base_model_name_or_path` is missing"))
    }

    /// Whether a directory holds an adapter and no model.
    #[must_use]
    pub fn is_in(dir: &Path) -> bool {
        dir.join(CONFIG_FILE).is_file() && !dir.join(super::CONFIG_FILE).is_file()
    }

    /// The model's parameters with the adapter added.
    pub fn onto<'a>(&'a self, model: &'a mut dyn TensorSource) -> impl TensorSource + 'a {
        Merged { adapter: self, model }
    }
}

/// What A and B are multiplied by, by the names of modules.
struct Scales {
    alpha: f64,
    alphas: Vec<(Regex, f64)>,
    by_root: bool,
}

impl Scales {
    fn read(keys: &Keys<'_>) -> Result<Self, KernelError> {
        match keys.text("peft_type")?.as_deref() {
            Some("LORA") => {}
            other => {
                let other = other.unwrap_or("missing");
                return Err(keys.wrong("peft_type", format!("is {other}; only LORA is merged")));
            }
        }
        if let Some(bias) = keys.text("bias")?.filter(|bias| bias != "none") {
            return Err(keys.wrong("bias", format!("is {bias:?}; only \"none\" is merged")));
        }
        for key in REFUSED {
            if keys.get(key).is_some_and(is_asked_for) {
                return Err(keys.wrong(key, "is set; such an adapter is not merged here"));
            }
        }
        let kind = keys.get("init_lora_weights").and_then(Value::as_str).unwrap_or_default();
        if OTHER_BASES.iter().any(|other| kind.starts_with(other)) {
            let reason = format!("is {kind:?}, which changes the model that the adapter belongs to");
            return Err(keys.wrong("init_lora_weights", reason));
        }
        let alphas = keys.get("alpha_pattern").and_then(Value::as_object).into_iter().flatten();
        let alphas = alphas.map(|(name, alpha)| {
            let wrong = |reason: String| keys.wrong("alpha_pattern", format!("{reason} under {name:?}"));
            let pattern = pattern_of(name).map_err(|_| wrong("has no regular expression".to_owned()))?;
            let alpha = alpha.as_f64().ok_or_else(|| wrong(format!("has {alpha}")))?;
            Ok((pattern, alpha))
        });
        Ok(Self {
            alpha: keys.required_number("lora_alpha")?,
            alphas: alphas.collect::<Result<_, KernelError>>()?,
            by_root: keys.flag("use_rslora")?.unwrap_or(false),
        })
    }

    /// The scale of a module; its rank is that of its matrices, whatever `rank_pattern` says.
    fn of(&self, module: &str, rank: usize) -> f32 {
        let own = self.alphas.iter().find(|(pattern, _)| pattern.is_match(module));
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = rank as f64;
        (alpha / if self.by_root { rank.sqrt() } else { rank }) as f32
    }
}

fn is_asked_for(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// A key of a pattern, which is an end of a name, as PEFT matches it.
fn pattern_of(key: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!(r"^(.*\.)?({key})$"))
}

/// The matrix of a module.
struct Matrix {
    /// Its name here.
    parameter: String,
    shape: [usize; 2],
}

/// The matrices of a model by the names of their modules in files.
fn matrices(config: &DecoderConfig) -> HashMap<String, Matrix> {
    let mut matrices = HashMap::new();
    config.shapes().for_each(|name, shape| {
        if let Some(module) = config.family.file_name(name).strip_suffix(".weight").filter(|_| shape[0] > 1) {
            matrices.insert(module.to_owned(), Matrix { parameter: name.to_owned(), shape: *shape });
        }
    });
    matrices
}

fn read_pairs(
    path: &Path,
    config: &DecoderConfig,
    scales: &Scales,
) -> Result<HashMap<String, Pair>, KernelError> {
    let mut file = Shard::open(path)?;
    let wrong = |reason: String| KernelError::content(path, reason);
    let matrices = matrices(config);
    let names = file.metadata.offset_keys();
    let (mut pairs, mut known) = (HashMap::new(), 0);
    for name in &names {
        let inner = name.strip_prefix(PREFIX);
        let part = PARTS.iter().find_map(|part| Some((inner?.strip_suffix(part)?, *part)));
        let Some((module, part)) = part else {
            return Err(wrong(format!("has tensor `{name}`, which is no A or B of a projection")));
        };
        let Some(Matrix { parameter, shape: [rows, columns] }) = matrices.get(module) else {
            let family = config.family.model_type;
            let reason =
                format!("has tensor `{name}`, for which a {family} model of this config has no place");
            return Err(wrong(reason));
        };
        if part != A {
            continue;
        }
        let rank = file.metadata.info(name).and_then(|info| info.shape.first().copied()).unwrap_or(0);
        let other = format!("{PREFIX}{module}{B}");
        if rank == 0 || !names.contains(&other) {
            return Err(wrong(format!(
                "has tensor `{name}` of rank {rank}, and `{other}` must be there too"
            )));
        }
        let a = file.read(name, [rank, *columns])?;
        let b = file.read(&other, [*rows, rank])?;
        let whole = format!("{PREFIX}{module}{MATRIX}");
        let matrix = names.contains(&whole).then(|| file.read(&whole, [*rows, *columns])).transpose()?;
        known += 2 + usize::from(matrix.is_some());
        pairs.insert(parameter.clone(), Pair { a, b, rank, scale: scales.of(module, rank), matrix });
    }
    if known == 0 || known != names.len() {
        let count = names.len();
        return Err(wrong(format!("has {count} tensors, of which {known} belong to pairs of A and B")));
    }
    Ok(pairs)
}

/// A model with an adapter added.
struct Merged<'a> {
    adapter: &'a PeftAdapter,
    model: &'a mut dyn TensorSource,
}

impl TensorSource for Merged<'_> {
    fn read(
        &mut self,
        parameter: &str,
        shape: [usize; 2],
        take: &mut TakeNumbers<'_>,
    ) -> Result<(), KernelError> {
        let Some(pair) = self.adapter.pairs.get(parameter) else {
            return self.model.read(parameter, shape, take);
        };
        let mut whole = pair.matrix.clone().unwrap_or_default();
        if whole.is_empty() {
            self.model.read(parameter, shape, &mut |numbers| {
                whole.extend_from_slice(numbers);
                Ok(())
            })?;
        }
        pair.add_to(&mut whole, shape[1]);
        take(&whole)
    }
}

impl Pair {
    /// Adds `scale * B A` to a matrix with rows of so many numbers.
    fn add_to(&self, matrix: &mut [f32], columns: usize) {
        let rows = matrix.par_chunks_exact_mut(columns).zip(self.b.par_chunks_exact(self.rank));
        rows.for_each(|(row, factors)| {
            let mut sum = vec![0.0; columns];
            for (factor, a) in factors.iter().zip(self.a.chunks_exact(columns)) {
                sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += factor * a);
            }
            row.iter_mut().zip(sum).for_each(|(row, sum)| *row += self.scale * sum);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_ends_of_names_as_in_peft() {
        for (pattern, module, matches) in [
            ("q_proj", "model.layers.0.self_attn.q_proj", true),
            ("proj", "model.layers.0.self_attn.q_proj", false),
            ("layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj", true),
            (r"layers\.[01]\..*", "model.layers.1.mlp.up_proj", true),
            (r"layers\.[01]\..*", "model.layers.2.mlp.up_proj", false),
            ("^model.layers.2.mlp.up_proj", "model.layers.2.mlp.up_proj", true),
            ("^layers.2.mlp.up_proj", "model.layers.2.mlp.up_proj", false),
        ] {
            assert_eq!(pattern_of(pattern).unwrap().is_match(module), matches, "{pattern} {module}");
        }
    }

    #[test]
    fn a_product_of_low_rank_is_added() {
        let pair = Pair {
            a: vec![1.0, 2.0, 3.0, 0.0, 1.0, 0.0],
            b: vec![1.0, 10.0, -1.0, 0.0],
            rank: 2,
            scale: 0.5,
            matrix: None,
        };
        let mut matrix = vec![1.0; 6];
        pair.add_to(&mut matrix, 3);
        assert_eq!(matrix, [1.5, 7.0, 2.5, 0.5, 0.0, -0.5]);
    }
}
