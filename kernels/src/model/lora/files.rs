//! Adapters in the files of peft ([`crate::model::files::peft`]): what is trained, read and written.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};

use super::{Lora, LoraConfig, TargetModules};
use crate::KernelError;
use crate::flex::StoredNumbers;
use crate::model::config::DecoderConfig;
use crate::model::files::peft::{
    ADAPTER_CONFIG_FILE, ADAPTER_FILE, PeftConfig, PeftPair, Targets, base_name, module_of, scale_of,
    tensor_name, wrong_base,
};
use crate::model::files::write_whole;
use crate::model::linear::LowRank;

/// The directory that an adapter names as that of its base.
///
/// # Errors
/// If it names none, or the name is none of a directory here.
pub(super) fn named_base(dir: &Path) -> Result<PathBuf, KernelError> {
    let remedy = super::BASE_REMEDY;
    let Some(name) = base_name(dir)? else {
        return Err(wrong_base(dir, &format!("is missing; {remedy}")));
    };
    // An absolute name replaces the directory.
    let base = dir.join(&name);
    if !base.is_dir() {
        let reason = format!("is {name:?}, and there is no directory {}; {remedy}", base.display());
        return Err(wrong_base(dir, &reason));
    }
    Ok(base)
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
        let config = PeftConfig::read(dir)?;
        let pairs = config.pairs(dir, model)?;
        let refused = |reason: String| KernelError::content(&dir.join(ADAPTER_FILE), reason);
        let mut by_parameter = HashMap::new();
        for pair in pairs {
            if !super::can_have_adapter(&pair.parameter) || pair.matrix.is_some() {
                let (name, file_name) = (&pair.name, model.family.file_name(&pair.parameter));
                let module = module_of(&file_name);
                return Err(refused(format!("has tensor `{name}`; {module} cannot have an adapter here")));
            }
            by_parameter.insert(pair.parameter.clone(), pair);
        }
        let mut adapted = Vec::new();
        let adapters = model.shapes().map(|name, [rows, columns]| {
            let PeftPair { a, b, rank, scale, .. } = by_parameter.remove(name)?;
            adapted.push(module_of(&model.family.file_name(name)).to_owned());
            let tensor =
                |numbers, shape: [usize; 2]| Tensor::from_data(TensorData::new(numbers, shape), device);
            Some(LowRank { a: tensor(a, [rank, *columns]), b: tensor(b, [*rows, rank]), scale })
        });
        let PeftConfig { rank, alpha, use_rslora, targets, .. } = config;
        let target_modules = match targets {
            Targets::AllLinear => TargetModules::AllLinear,
            Targets::Named(names) => TargetModules::Named(names),
            Targets::Unsaid => TargetModules::Named(adapted),
        };
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
