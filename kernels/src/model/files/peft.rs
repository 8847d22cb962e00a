//! The files of PEFT, `adapter_config.json` and `adapter_model.safetensors`, read in one place for those who train adapters
//! and those who add them to a model. What PEFT can say and nobody computes here is refused by its key, because an
//! adapter that is applied in part only looks like a bad one.

use std::collections::HashMap;
use std::path::Path;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::{CONFIG_FILE, Shard};
use crate::KernelError;
use crate::model::config::DecoderConfig;
use crate::model::keys::{CONFIG_BYTES_MAX, Keys, read_object};

/// The file whose presence makes a directory one of an adapter.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";

/// The file of the matrices.
pub(crate) const ADAPTER_FILE: &str = "adapter_model.safetensors";

/// The word of PEFT for all projections, but not the head.
pub(crate) const ALL_LINEAR: &str = "all-linear";

/// Ranks above this are no low rank of any projection, and would be taken for one by mistake.
pub(crate) const RANK_MAX: usize = 1 << 16;

/// What PEFT puts before the names of the model.
const PREFIX: &str = "base_model.model.";

/// What PEFT puts behind the name of a module.
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";
const MATRIX: &str = ".base_layer.weight";
const PARTS: [&str; 3] = [A, B, MATRIX];

/// Keys under which something is computed that is not computed here.
const REFUSED: [&str; 18] = [
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
    "loftq_config",
    "corda_config",
    "lora_ga_config",
];

/// Ways of beginning an adapter that leave the model as it is; others change the model's matrices as well.
const INITS_BESIDE: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Regular expressions of `alpha_pattern`: an adapter has some, and a plain name is none.
const EXPRESSIONS_MAX: usize = 64;
/// Bytes that one of them takes when it is compiled; a few letters can ask for any number.
const EXPRESSION_BYTES_MAX: usize = 1 << 18;

/// The name in PEFT's files of a matrix of an adapter, whose projection's matrix has this name in files.
pub(crate) fn tensor_name(file_name: &str, part: &str) -> String {
    format!("{PREFIX}{}.lora_{part}.weight", module_of(file_name))
}

/// The path of a module from the name of its matrix.
pub(crate) fn module_of(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// Whether a module's path is a name or ends with it, as PEFT compares them.
pub(crate) fn is_named(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// The factor of `B A`.
pub(crate) fn scale_of(alpha: f64, rank: usize, use_rslora: bool) -> f64 {
    if use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 }
}

/// Whether a directory holds an adapter and no model.
pub(crate) fn is_adapter(dir: &Path) -> bool {
    dir.join(ADAPTER_CONFIG_FILE).is_file() && !dir.join(CONFIG_FILE).is_file()
}

/// `target_modules`, as far as the file says it in words.
#[derive(Debug)]
pub(crate) enum Targets {
    /// All projections.
    AllLinear,
    /// Those with these names.
    Named(Vec<String>),
    /// A regular expression, or what the file leaves to the model: the tensors say it.
    Unsaid,
}

/// What `adapter_config.json` says.
#[derive(Debug)]
pub(crate) struct PeftConfig {
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
    pub(crate) use_rslora: bool,
    pub(crate) targets: Targets,
    /// The alphas of some modules, in the order of the file. The ranks of `rank_pattern` are those of the tensors.
    alphas: Vec<ModuleAlpha>,
}

/// An entry of `alpha_pattern`.
#[derive(Debug)]
struct ModuleAlpha {
    pattern: Pattern,
    alpha: f64,
}

/// A key of a pattern, which is an end of a name, as PEFT matches it.
#[derive(Debug)]
enum Pattern {
    Name(String),
    Expression(Regex),
}

impl Pattern {
    /// Reads a key, and counts it where it is an expression.
    fn read(key: &str, expressions: &mut usize) -> Result<Self, String> {
        // The point of a name matches any letter in an expression, but no other module's.
        if key.chars().all(|letter| letter.is_alphanumeric() || "._".contains(letter)) {
            return Ok(Self::Name(key.to_owned()));
        }
        *expressions += 1;
        if *expressions > EXPRESSIONS_MAX {
            return Err(format!("has more than {EXPRESSIONS_MAX} regular expressions"));
        }
        let compiled =
            RegexBuilder::new(&format!(r"^(.*\.)?({key})$")).size_limit(EXPRESSION_BYTES_MAX).build();
        compiled.map(Self::Expression).map_err(|_| "has no regular expression that is read".to_owned())
    }

    fn is_of(&self, module: &str) -> bool {
        match self {
            Self::Name(name) => is_named(module, name),
            Self::Expression(expression) => expression.is_match(module),
        }
    }
}

impl PeftConfig {
    /// Reads the config of an adapter's directory.
    ///
    /// # Errors
    /// Names the file, and the key that is missing, wrong or not computed.
    pub(crate) fn read(dir: &Path) -> Result<Self, KernelError> {
        let path = dir.join(ADAPTER_CONFIG_FILE);
        let map = read_object(&path, CONFIG_BYTES_MAX)?;
        Self::of(&Keys { path: &path, section: "", map: &map })
    }

    fn of(keys: &Keys<'_>) -> Result<Self, KernelError> {
        let kind = keys.required("peft_type", keys.text("peft_type")?)?;
        if kind != "LORA" {
            return Err(keys.wrong("peft_type", format!("is {kind:?}; only \"LORA\" is computed")));
        }
        refuse_other_computations(keys)?;
        let rank = keys.required_size("r")?;
        if rank == 0 || rank > RANK_MAX {
            return Err(keys.wrong("r", format!("is {rank}; it must be from 1 to {RANK_MAX}")));
        }
        Ok(Self {
            rank,
            alpha: checked_alpha(keys, "lora_alpha", keys.required_number("lora_alpha")?)?,
            use_rslora: keys.flag("use_rslora")?.unwrap_or(false),
            targets: targets(keys)?,
            alphas: alphas(keys)?,
        })
    }

    /// The factor of `B A` of a module. Its rank is that of its matrices.
    fn scale(&self, module: &str, rank: usize) -> f64 {
        let own = self.alphas.iter().find(|own| own.pattern.is_of(module));
        scale_of(own.map_or(self.alpha, |own| own.alpha), rank, self.use_rslora)
    }

    /// Reads the matrices of an adapter to a model of this config.
    ///
    /// # Errors
    /// Names the file, and the tensor that is missing, misshapen, not a number or none of a pair of A and B.
    pub(crate) fn pairs(&self, dir: &Path, model: &DecoderConfig) -> Result<Vec<PeftPair>, KernelError> {
        let path = dir.join(ADAPTER_FILE);
        let file = Shard::open(&path)?;
        let wrong = |reason: String| KernelError::content(&path, reason);
        let matrices = matrices(model);
        let names = file.metadata.offset_keys();
        let mut pairs = Vec::new();
        for Module { name: module, a, b, matrix } in modules(&names, &wrong)? {
            let some = a.or(b).or(matrix).map_or("", String::as_str);
            let Some(Matrix { parameter, shape: [rows, columns] }) = matrices.get(module) else {
                let family = model.family.model_type;
                return Err(wrong(format!(
                    "has tensor `{some}`, for which a {family} model of this config has no place"
                )));
            };
            let (Some(name), Some(other)) = (a, b) else {
                return Err(wrong(format!("has tensor `{some}` and not both matrices of this adapter")));
            };
            let rank = file.metadata.info(name).and_then(|info| info.shape.first().copied()).unwrap_or(0);
            if rank == 0 {
                return Err(wrong(format!("has tensor `{name}` of rank 0")));
            }
            let a = file.read(name, [rank, *columns])?;
            let b = file.read(other, [*rows, rank])?;
            let matrix = matrix.map(|whole| file.read(whole, [*rows, *columns])).transpose()?;
            let (name, scale) = (name.clone(), self.scale(module, rank));
            pairs.push(PeftPair { parameter: parameter.clone(), name, rank, a, b, scale, matrix });
        }
        if pairs.is_empty() {
            return Err(wrong("has no adapter".to_owned()));
        }
        Ok(pairs)
    }
}

/// Refuses keys under which PEFT would compute something else.
fn refuse_other_computations(keys: &Keys<'_>) -> Result<(), KernelError> {
    if let Some(bias) = keys.text("bias")?.filter(|bias| bias != "none") {
        return Err(keys.wrong("bias", format!("is {bias:?}; only \"none\" is computed")));
    }
    for key in REFUSED {
        if keys.get(key).is_some_and(is_asked_for) {
            return Err(keys.wrong(key, "is set; such an adapter is not computed here"));
        }
    }
    match keys.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(Value::String(word)) if INITS_BESIDE.contains(&word.as_str()) => Ok(()),
        Some(other) => {
            let reason = format!(
                "is {other}: such adapters belong to a changed base; convert it to a plain adapter first (peft's \
                 save_pretrained with path_initial_model_for_weight_conversion)"
            );
            Err(keys.wrong("init_lora_weights", reason))
        }
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

/// What is multiplied with must be a number in f32 too.
fn checked_alpha(keys: &Keys<'_>, key: &str, alpha: f64) -> Result<f64, KernelError> {
    match (alpha as f32).is_finite() {
        true => Ok(alpha),
        false => Err(keys.wrong(key, format!("has {alpha:e}, which is no number in f32"))),
    }
}

fn targets(keys: &Keys<'_>) -> Result<Targets, KernelError> {
    match keys.get("target_modules") {
        Some(Value::String(word)) if word == ALL_LINEAR => Ok(Targets::AllLinear),
        None | Some(Value::String(_)) => Ok(Targets::Unsaid),
        Some(Value::Array(list)) => {
            let names: Option<Vec<String>> =
                list.iter().map(|name| Some(name.as_str()?.to_owned())).collect();
            names.map(Targets::Named).ok_or_else(|| keys.wrong("target_modules", "is not a list of names"))
        }
        Some(_) => Err(keys.wrong("target_modules", "is neither a name nor a list of names")),
    }
}

fn alphas(keys: &Keys<'_>) -> Result<Vec<ModuleAlpha>, KernelError> {
    const KEY: &str = "alpha_pattern";
    let Some(value) = keys.get(KEY) else { return Ok(Vec::new()) };
    let map = value.as_object().ok_or_else(|| keys.wrong(KEY, "is not an object"))?;
    let (mut alphas, mut expressions) = (Vec::new(), 0);
    for (name, alpha) in map {
        let wrong = |reason: String| keys.wrong(KEY, format!("{reason} under {name:?}"));
        let pattern = Pattern::read(name, &mut expressions).map_err(wrong)?;
        let alpha = alpha.as_f64().ok_or_else(|| wrong(format!("has {alpha}, which is no number,")))?;
        alphas.push(ModuleAlpha { pattern, alpha: checked_alpha(keys, KEY, alpha)? });
    }
    Ok(alphas)
}

/// A and B of a projection.
#[derive(Debug)]
pub(crate) struct PeftPair {
    /// The name of the projection's matrix here.
    pub(crate) parameter: String,
    /// The name of A in the file.
    pub(crate) name: String,
    pub(crate) rank: usize,
    /// `[rank, in]`.
    pub(crate) a: Vec<f32>,
    /// `[out, rank]`.
    pub(crate) b: Vec<f32>,
    /// The factor of `B A`.
    pub(crate) scale: f64,
    /// The matrix itself, where the adapter's file has it: PEFT saves that of a head.
    pub(crate) matrix: Option<Vec<f32>>,
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

/// The names of the tensors of one module.
struct Module<'a> {
    name: &'a str,
    a: Option<&'a String>,
    b: Option<&'a String>,
    matrix: Option<&'a String>,
}

/// The modules of a file, in its order.
fn modules<'a>(
    names: &'a [String],
    wrong: &impl Fn(String) -> KernelError,
) -> Result<Vec<Module<'a>>, KernelError> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut modules: Vec<Module<'_>> = Vec::new();
    for name in names {
        let inner = name.strip_prefix(PREFIX);
        let part = PARTS.iter().find_map(|part| Some((inner?.strip_suffix(part)?, *part)));
        let Some((module, part)) = part else {
            return Err(wrong(format!("has tensor `{name}`, which is no A or B of a projection")));
        };
        let place = *places.entry(module).or_insert_with(|| {
            modules.push(Module { name: module, a: None, b: None, matrix: None });
            modules.len() - 1
        });
        let module = &mut modules[place];
        match part {
            A => module.a = Some(name),
            B => module.b = Some(name),
            _ => module.matrix = Some(name),
        }
    }
    Ok(modules)
}

/// The model on which an adapter was trained, as its files name it.
pub(crate) fn base_name(dir: &Path) -> Result<Option<String>, KernelError> {
    let path = dir.join(ADAPTER_CONFIG_FILE);
    let map: Map<String, Value> = read_object(&path, CONFIG_BYTES_MAX)?;
    let keys = Keys { path: &path, section: "", map: &map };
    Ok(keys.text("base_model_name_or_path")?.filter(|name| !name.is_empty()))
}

/// An error about the key that names the base.
pub(crate) fn wrong_base(dir: &Path, reason: &str) -> KernelError {
    let path = dir.join(ADAPTER_CONFIG_FILE);
    KernelError::content(&path, format!("`base_model_name_or_path` {reason}"))
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
            assert_eq!(Pattern::read(pattern, &mut 0).unwrap().is_of(module), matches, "{pattern} {module}");
        }
    }

    #[test]
    fn no_pattern_takes_memory_that_the_file_does_not_justify() {
        for pattern in ["(", "(a{1000}){1000}", r"(\pL{200}){20}"] {
            let error = Pattern::read(pattern, &mut 0).unwrap_err();
            assert!(error.contains("no regular expression"), "{error}");
        }
        let mut expressions = EXPRESSIONS_MAX;
        assert!(Pattern::read("q.*", &mut expressions).is_err_and(|error| error.contains("more than 64")));
    }
}
