//! Adapters in the files of peft: `adapter_config.json` and `adapter_model.safetensors`. What peft can say and this crate
//! does not compute is refused by its key, because an adapter that is applied in part only looks like a bad one.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::{
    ADAPTER_CONFIG_FILE, Lora, LoraConfig, TargetModules, is_named, module_of, scale_of, tensor_name,
};
use crate::KernelError;
use crate::flex::StoredNumbers;
use crate::model::config::DecoderConfig;
use crate::model::files::{converter, write_whole};
use crate::model::keys::Keys;
use crate::model::linear::LowRank;

const ADAPTER_FILE: &str = "adapter_model.safetensors";

/// The longest config that is read: that of an adapter of every projection of a thousand layers has a tenth of it.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Ways of beginning an adapter that leave the model as it is; others change the model's matrices as well.
const INITS_BESIDE: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Keys that change what is computed, and what they hold where they change nothing.
const UNCHANGED: [(&str, &[&str]); 19] = [
    ("bias", &["\"none\""]),
    ("use_dora", &["false"]),
    ("fan_in_fan_out", &["false"]),
    ("lora_bias", &["false"]),
    ("modules_to_save", &["[]"]),
    ("layer_replication", &["[]"]),
    ("trainable_token_indices", &["[]", "{}"]),
    ("target_parameters", &["[]"]),
    ("use_qalora", &["false"]),
    ("use_bdlora", &["false"]),
    ("alora_invocation_tokens", &["[]"]),
    ("arrow_config", &["{}"]),
    ("kasa_config", &["{}"]),
    ("velora_config", &["{}"]),
    ("monteclora_config", &["{}"]),
    ("loftq_config", &["{}"]),
    ("corda_config", &["{}"]),
    ("lora_ga_config", &["{}"]),
    ("ensure_weight_tying", &["false", "true"]),
];

/// What `adapter_config.json` says.
struct AdapterConfig {
    rank: usize,
    alpha: f64,
    use_rslora: bool,
    /// `None` for a regular expression, or where the file leaves it to the model.
    target_modules: Option<TargetModules>,
    /// By the end of a module's path.
    alphas: BTreeMap<String, f64>,
}

fn read_object(dir: &Path) -> Result<(PathBuf, Map<String, Value>), KernelError> {
    let path = dir.join(ADAPTER_CONFIG_FILE);
    let failed = |source| KernelError::file(&path, source);
    let bytes = std::fs::metadata(&path).map_err(failed)?.len();
    if bytes > CONFIG_BYTES_MAX {
        return Err(KernelError::content(
            &path,
            format!("has {bytes} bytes, which no config of an adapter has"),
        ));
    }
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok((path, map)),
        Ok(_) => Err(KernelError::content(&path, "is not a JSON object")),
        Err(error) => Err(KernelError::content(&path, format!("is not JSON: {error}"))),
    }
}

/// The directory that an adapter names as that of its base.
///
/// # Errors
/// If it names none, or the name is none of a directory here.
pub(super) fn named_base(dir: &Path) -> Result<PathBuf, KernelError> {
    let (path, map) = read_object(dir)?;
    let keys = Keys { path: &path, section: "", map: &map };
    let key = "base_model_name_or_path";
    let remedy = super::BASE_REMEDY;
    let Some(name) = keys.text(key)?.filter(|name| !name.is_empty()) else {
        return Err(keys.wrong(key, format!("is missing; {remedy}")));
    };
    // An absolute name replaces the directory.
    let base = dir.join(&name);
    if !base.is_dir() {
        let reason = format!("is {name:?}, and there is no directory {}; {remedy}", base.display());
        return Err(keys.wrong(key, reason));
    }
    Ok(base)
}

impl AdapterConfig {
    fn read(keys: &Keys<'_>) -> Result<Self, KernelError> {
        let kind = keys.required("peft_type", keys.text("peft_type")?)?;
        if kind != "LORA" {
            return Err(keys.wrong("peft_type", format!("is {kind:?}; only \"LORA\" is computed")));
        }
        for (key, unchanged) in UNCHANGED {
            let Some(value) = keys.get(key) else { continue };
            let shown = value.to_string();
            if !unchanged.contains(&shown.as_str()) {
                return Err(keys.wrong(key, format!("is {shown}, which is not computed here")));
            }
        }
        match keys.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => {}
            Some(Value::String(word)) if INITS_BESIDE.contains(&word.as_str()) => {}
            Some(other) => {
                let reason = format!(
                    "is {other}: such adapters belong to a changed base; convert it to a plain adapter first \
                     (peft's save_pretrained with path_initial_model_for_weight_conversion)"
                );
                return Err(keys.wrong("init_lora_weights", reason));
            }
        }
        let rank = keys.required_size("r")?;
        let alpha = keys.required_number("lora_alpha")?;
        if rank == 0 || !alpha.is_finite() {
            return Err(keys.wrong("r", format!("is {rank} and `lora_alpha` {alpha}, which is no adapter")));
        }
        Ok(Self {
            rank,
            alpha,
            use_rslora: keys.flag("use_rslora")?.unwrap_or(false),
            target_modules: target_modules(keys)?,
            alphas: patterns(keys)?,
        })
    }

    /// The factor of `B A` of a module.
    fn scale(&self, module: &str, rank: usize) -> f64 {
        let own = self.alphas.iter().find(|(name, _)| is_named(module, name));
        scale_of(own.map_or(self.alpha, |(_, alpha)| *alpha), rank, self.use_rslora)
    }
}

fn target_modules(keys: &Keys<'_>) -> Result<Option<TargetModules>, KernelError> {
    match keys.get("target_modules") {
        Some(Value::String(word)) if word == super::ALL_LINEAR => Ok(Some(TargetModules::AllLinear)),
        None | Some(Value::String(_)) => Ok(None),
        Some(Value::Array(list)) => {
            let names: Option<Vec<String>> =
                list.iter().map(|name| Some(name.as_str()?.to_owned())).collect();
            let names = names.ok_or_else(|| keys.wrong("target_modules", "is not a list of names"))?;
            Ok(Some(TargetModules::Named(names)))
        }
        Some(_) => Err(keys.wrong("target_modules", "is neither a name nor a list of names")),
    }
}

/// `alpha_pattern`, whose names are compared as they are. The ranks of `rank_pattern` are those of the tensors.
fn patterns(keys: &Keys<'_>) -> Result<BTreeMap<String, f64>, KernelError> {
    let Some(value) = keys.get("alpha_pattern") else { return Ok(BTreeMap::new()) };
    let map = value.as_object().ok_or_else(|| keys.wrong("alpha_pattern", "is not an object"))?;
    let plain = |name: &str| name.chars().all(|letter| letter.is_alphanumeric() || "._".contains(letter));
    let mut alphas = BTreeMap::new();
    for (name, alpha) in map {
        let alpha = alpha.as_f64().filter(|_| plain(name)).ok_or_else(|| {
            keys.wrong("alpha_pattern", format!("has {name:?}: {alpha}; only names with numbers are read"))
        })?;
        alphas.insert(name.clone(), alpha);
    }
    Ok(alphas)
}

impl Lora {
    /// Reads an adapter to a model of this config, which lies in `base`.
    ///
    /// # Errors
    /// Names the file, and the key or tensor that is missing, misshapen or not supported.
    pub fn load(
        dir: &Path,
        base: &Path,
        model: &DecoderConfig,
        device: &Device,
    ) -> Result<Self, KernelError> {
        let (path, map) = read_object(dir)?;
        let config = AdapterConfig::read(&Keys { path: &path, section: "", map: &map })?;
        let path = dir.join(ADAPTER_FILE);
        let bytes = std::fs::read(&path).map_err(|source| KernelError::file(&path, source))?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| KernelError::content(&path, format!("is no whole safetensors file: {error}")))?;
        let mut tensors: HashMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
        let file = AdapterFile { path: &path, device };
        let mut adapted = Vec::new();
        let adapters = model.shapes().try_map(|name, shape| {
            let file_name = model.family.file_name(name);
            let module = module_of(&file_name);
            let mut take = |part| {
                let name = tensor_name(&file_name, part);
                tensors.remove(&name).map(|view| (name, view))
            };
            let (a, b) = match (take("A"), take("B")) {
                (None, None) => return Ok(None),
                (Some(a), Some(b)) => (a, b),
                (Some((name, _)), None) | (None, Some((name, _))) => {
                    let reason = format!("has tensor `{name}` and not the other matrix of this adapter");
                    return Err(KernelError::content(&path, reason));
                }
            };
            if !super::can_have_adapter(name) {
                let reason = format!("has tensor `{}`; {module} cannot have an adapter here", a.0);
                return Err(KernelError::content(&path, reason));
            }
            adapted.push(module.to_owned());
            let rank = a.1.shape().first().copied().unwrap_or_default();
            let (a, b) = (file.read(&a.0, &a.1, [rank, shape[1]])?, file.read(&b.0, &b.1, [shape[0], rank])?);
            Ok(Some(LowRank { a, b, scale: config.scale(module, rank) }))
        })?;
        if let Some(name) = tensors.keys().min() {
            let family = model.family.model_type;
            let reason =
                format!("has tensor `{name}`, for which a {family} model of this config has no place");
            return Err(KernelError::content(&path, reason));
        }
        if adapted.is_empty() {
            return Err(KernelError::content(&path, "has no adapter"));
        }
        let target_modules = config.target_modules.unwrap_or(TargetModules::Named(adapted));
        let AdapterConfig { rank, alpha, use_rslora, .. } = config;
        let config = LoraConfig { rank, alpha, target_modules, use_rslora };
        Ok(Self { config, base: base.to_owned(), adapters })
    }

    /// Writes both files in f32, each whole or not at all, so that peft loads the directory. The config comes last.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn save(&self, dir: &Path, model: &DecoderConfig) -> Result<(), KernelError> {
        std::fs::create_dir_all(dir).map_err(|source| KernelError::file(dir, source))?;
        let path = dir.join(ADAPTER_FILE);
        let mut numbers = Vec::new();
        for (name, adapter) in self.adapters.named() {
            let Some(LowRank { a, b, .. }) = adapter else { continue };
            let name = model.family.file_name(&name);
            numbers.push((tensor_name(&name, "A"), a.dims(), StoredNumbers::of(a)));
            numbers.push((tensor_name(&name, "B"), b.dims(), StoredNumbers::of(b)));
        }
        let bytes: Vec<_> =
            numbers.iter().map(|(name, shape, numbers)| (name, shape, numbers.bytes())).collect();
        let wrong = |error: safetensors::SafeTensorError| KernelError::content(&path, error.to_string());
        let views: Result<Vec<_>, safetensors::SafeTensorError> = bytes
            .iter()
            .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?)))
            .collect();
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let bytes = safetensors::serialize(views.map_err(wrong)?, Some(format)).map_err(wrong)?;
        write_whole(&path, |file| file.write_all(&bytes))?;
        let json = format!("{:#}\n", self.to_json(model));
        write_whole(&dir.join(ADAPTER_CONFIG_FILE), |file| file.write_all(json.as_bytes()))
    }

    /// `adapter_config.json`.
    fn to_json(&self, model: &DecoderConfig) -> Value {
        let LoraConfig { rank, alpha, target_modules, use_rslora } = &self.config;
        let adapters: Vec<(String, f64, usize)> = self
            .adapters
            .named()
            .into_iter()
            .filter_map(|(name, adapter)| {
                let LowRank { a, scale, .. } = adapter.as_ref()?;
                Some((module_of(&model.family.file_name(&name)).to_owned(), *scale, a.dims()[0]))
            })
            .collect();
        let modules: Vec<String> = adapters.iter().map(|(module, ..)| module.clone()).collect();
        let targets = match target_modules {
            TargetModules::Named(names) => names.clone(),
            TargetModules::AllLinear => super::kinds(&modules).split(", ").map(str::to_owned).collect(),
        };
        // What differs from the rule is said module by module.
        let (mut ranks, mut alphas) = (Map::new(), Map::new());
        for (module, scale, own) in &adapters {
            if own != rank {
                ranks.insert(module.clone(), json!(own));
            }
            if *scale != scale_of(*alpha, *own, *use_rslora) {
                alphas.insert(module.clone(), json!(scale / scale_of(1.0, *own, *use_rslora)));
            }
        }
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base.to_string_lossy(),
            "revision": null,
            "inference_mode": true,
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "target_modules": targets,
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "use_rslora": use_rslora,
            "use_dora": false,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "modules_to_save": null,
            "layers_to_transform": null,
            "layers_pattern": null,
            "auto_mapping": null,
        })
    }
}

/// The file that tensors are read from.
struct AdapterFile<'a> {
    path: &'a Path,
    device: &'a Device,
}

impl AdapterFile<'_> {
    fn read(&self, name: &str, view: &TensorView<'_>, shape: [usize; 2]) -> Result<Tensor<2>, KernelError> {
        let wrong = |reason: String| Err(KernelError::content(self.path, reason));
        if view.shape() != shape || shape[0] == 0 || shape[1] == 0 {
            return wrong(format!("tensor `{name}` has shape {:?}, not {shape:?}", view.shape()));
        }
        let Some(convert) = converter(view.dtype()) else {
            return wrong(format!("tensor `{name}` is {:?}; read are F32, BF16 and F16", view.dtype()));
        };
        let numbers = convert(view.data());
        if numbers.iter().any(|number| !number.is_finite()) {
            return wrong(format!("tensor `{name}` has a number that is not finite"));
        }
        Ok(Tensor::from_data(TensorData::new(numbers, shape), self.device))
    }
}
