//! Low-rank adapters beside a frozen model (LoRA, arXiv 2106.09685): which projections have one, how they begin, and which
//! two directories a model with adapters lies in. Their files are those of peft (`lora/files.rs`).

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::config::DecoderConfig;
use super::files::peft::{
    ADAPTER_CONFIG_FILE, ALL_LINEAR, RANK_MAX, is_adapter, is_named, module_of, scale_of,
};
use super::linear::{Adapters, LowRank};
use crate::KernelError;
use crate::sampling::{key, uniform};

mod files;

/// What is to be done where the base of an adapter is not found. A program that has a flag for it says so behind this.
pub const BASE_REMEDY: &str = "give the directory of the base (model.base in a config)";

/// The projections that can have an adapter, by the ends of their names.
const PROJECTIONS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Which projections have an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Names", into = "Names", rename_all = "kebab-case")]
pub enum TargetModules {
    /// Every projection.
    AllLinear,
    /// Those whose name is one of these or ends with a dot and one of these.
    Named(Vec<String>),
}

/// The same as it is written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<String>),
}

impl TryFrom<Names> for TargetModules {
    type Error = String;

    fn try_from(names: Names) -> Result<Self, String> {
        match names {
            Names::Many(names) => Ok(Self::Named(names)),
            Names::One(name) if name == ALL_LINEAR => Ok(Self::AllLinear),
            Names::One(name) => {
                Err(format!("{name:?} is no list of modules; write [{name:?}], or {ALL_LINEAR:?} for all"))
            }
        }
    }
}

impl From<TargetModules> for Names {
    fn from(targets: TargetModules) -> Self {
        match targets {
            TargetModules::AllLinear => Self::One(ALL_LINEAR.to_owned()),
            TargetModules::Named(names) => Self::Many(names),
        }
    }
}

impl TargetModules {
    fn has(&self, module: &str) -> bool {
        match self {
            Self::AllLinear => true,
            Self::Named(names) => names.iter().any(|name| is_named(module, name)),
        }
    }
}

/// The form of adapters, in the words of peft.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Columns of B and rows of A.
    pub rank: usize,
    /// What an adapter's product is multiplied with, times the rank.
    pub alpha: f64,
    /// Which projections have one.
    pub target_modules: TargetModules,
    /// Whether alpha is divided by the square root of the rank (rsLoRA, arXiv 2312.03732).
    pub use_rslora: bool,
}

impl LoraConfig {
    /// The factor of `B A`.
    #[must_use]
    pub fn scale(&self) -> f64 {
        scale_of(self.alpha, self.rank, self.use_rslora)
    }

    /// How many numbers the adapters of a model have together.
    ///
    /// # Errors
    /// As [`Lora::new`].
    pub fn parameters(&self, model: &DecoderConfig) -> Result<usize, KernelError> {
        self.check()?;
        let places = places(model, &self.target_modules)?;
        let shapes = places.named().into_iter().filter_map(|(_, place)| *place);
        Ok(shapes.map(|[out, inner]| self.rank * (out + inner)).sum())
    }

    fn check(&self) -> Result<(), KernelError> {
        let Self { rank, alpha, .. } = self;
        if *rank == 0 || *rank > RANK_MAX {
            return Err(KernelError::Input(format!("rank = {rank} is not from 1 to {RANK_MAX}")));
        }
        if !(alpha.is_finite() && *alpha > 0.0) {
            return Err(KernelError::Input(format!("alpha = {alpha} is not a finite number above 0")));
        }
        Ok(())
    }
}

/// Adapters with what their files say of them.
#[derive(Clone, Debug)]
pub struct Lora {
    /// Their form.
    pub config: LoraConfig,
    /// The directory of the model that they belong to.
    pub base: PathBuf,
    /// Their matrices.
    pub adapters: Adapters,
}

impl Lora {
    /// New adapters that change nothing yet: A is uniform in `+-1 / sqrt(in)`, as peft makes it, and B is 0.
    ///
    /// Every number is a function of the seed, the projection's name and its place.
    ///
    /// # Errors
    /// [`KernelError::Input`] with the modules that there are, where a target is none of them, or for a rank or alpha that
    /// is none.
    pub fn new(
        config: LoraConfig,
        model: &DecoderConfig,
        base: &Path,
        seed: u64,
        device: &Device,
    ) -> Result<Self, KernelError> {
        config.check()?;
        let rank = config.rank;
        let places = places(model, &config.target_modules)?;
        let adapters = places.map(|name, place| {
            let [out, inner] = (*place)?;
            let a = first_matrix(seed, name, [rank, inner]);
            let a = Tensor::from_data(TensorData::new(a, [rank, inner]), device);
            Some(LowRank { a, b: Tensor::zeros([out, rank], device), scale: config.scale() })
        });
        Ok(Self { config, base: base.to_owned(), adapters })
    }

    /// How many projections have an adapter.
    #[must_use]
    pub fn count(&self) -> usize {
        self.adapters.named().iter().filter(|(_, adapter)| adapter.is_some()).count()
    }

    /// Says how these adapters are not of the form that is asked for, which others of this model would have.
    ///
    /// # Errors
    /// [`KernelError::Input`] with the key that differs; or as [`Lora::new`].
    pub fn check_form(&self, wanted: &LoraConfig, model: &DecoderConfig) -> Result<(), KernelError> {
        let own = &self.config;
        let differs = |key: &str, own: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug| {
            let reason =
                format!("{key} = {wanted:?}, but the adapter that training goes on with has {own:?}");
            Err(KernelError::Input(reason))
        };
        if own.rank != wanted.rank {
            return differs("rank", &own.rank, &wanted.rank);
        }
        if own.alpha != wanted.alpha {
            return differs("alpha", &own.alpha, &wanted.alpha);
        }
        if own.use_rslora != wanted.use_rslora {
            return differs("use_rslora", &own.use_rslora, &wanted.use_rslora);
        }
        let wanted_places = places(model, &wanted.target_modules)?;
        for ((name, adapter), (_, place)) in self.adapters.named().into_iter().zip(wanted_places.named()) {
            let Some(a) = adapter.as_ref().map(|adapter| &adapter.a) else {
                if place.is_some() {
                    let reason = format!(
                        "target_modules: {} is among them, and the adapter that training goes on with has none for it",
                        module_of(&name)
                    );
                    return Err(KernelError::Input(reason));
                }
                continue;
            };
            if place.is_none() {
                let reason = format!(
                    "target_modules: {} is not among them, but the adapter that training goes on with has one for it",
                    module_of(&name)
                );
                return Err(KernelError::Input(reason));
            }
            if a.dims()[0] != wanted.rank {
                return differs(&format!("rank of {}", module_of(&name)), &a.dims()[0], &wanted.rank);
            }
        }
        Ok(())
    }
}

/// Whether a parameter is the matrix of a projection that can have an adapter.
fn can_have_adapter(name: &str) -> bool {
    let Some(module) = name.strip_suffix(".weight") else { return false };
    // Those of experts are no modules of their own.
    PROJECTIONS.iter().any(|projection| is_named(module, projection)) && !module.contains(".experts.")
}

/// The shape of the matrix of every projection that is a target.
///
/// # Errors
/// [`KernelError::Input`] with the modules that there are, where a target is none of them.
fn places(
    model: &DecoderConfig,
    targets: &TargetModules,
) -> Result<super::weights::Weights<Option<[usize; 2]>>, KernelError> {
    let shapes = model.shapes();
    let modules: Vec<String> = shapes
        .named()
        .into_iter()
        .filter(|(name, _)| can_have_adapter(name))
        .map(|(name, _)| module_of(&model.family.file_name(&name)).to_owned())
        .collect();
    if let TargetModules::Named(names) = targets {
        let unknown = names.iter().find(|name| !modules.iter().any(|module| is_named(module, name)));
        if let Some(name) = unknown {
            return Err(unknown_module(name, &modules));
        }
        if names.is_empty() {
            return Err(KernelError::Input(format!(
                "target_modules is empty: name at least one of {}, or \"{ALL_LINEAR}\"",
                kinds(&modules)
            )));
        }
    }
    Ok(shapes.map(|name, shape| {
        let file_name = model.family.file_name(name);
        (can_have_adapter(name) && targets.has(module_of(&file_name))).then_some(*shape)
    }))
}

fn unknown_module(name: &str, modules: &[String]) -> KernelError {
    KernelError::Input(format!(
        "target_modules: this model has no module {name:?} that can have an adapter; it has {}, and \"{ALL_LINEAR}\" is \
         all of them",
        kinds(modules)
    ))
}

/// The kinds of modules, by the ends of their paths, each once.
fn kinds(modules: &[String]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for kind in modules.iter().filter_map(|module| module.rsplit('.').next()) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.join(", ")
}

/// Uniform in `+-1 / sqrt(in)`: Kaiming's rule with a negative slope of `sqrt(5)`.
fn first_matrix(seed: u64, name: &str, [rank, inner]: [usize; 2]) -> Vec<f32> {
    // Other numbers than those that a new model's matrix of the name begins with.
    let name = name.bytes().chain(".lora_A".bytes());
    let parts: Vec<u64> = std::iter::once(seed).chain(name.map(u64::from)).collect();
    let stream = key(&parts);
    let bound = 1.0 / (inner as f64).sqrt();
    (0..(rank * inner) as u64).map(|place| ((2.0 * uniform(stream, place) - 1.0) * bound) as f32).collect()
}

/// The directories of a model: that of its weights, and that of an adapter to them where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPlace {
    /// A Hugging Face directory.
    pub base: PathBuf,
    /// A directory of peft's.
    pub adapter: Option<PathBuf>,
}

impl ModelPlace {
    /// A directory of a model, or of an adapter, whose base is the one given here or else the one that it names: an
    /// absolute path, or one from its own directory.
    ///
    /// # Errors
    /// If the base of an adapter is not there, or is an adapter itself; or if a base is given for what is no adapter.
    pub fn find(dir: &Path, base: Option<&Path>) -> Result<Self, KernelError> {
        if !is_adapter(dir) {
            return match base {
                None => Ok(Self { base: dir.to_owned(), adapter: None }),
                Some(base) => {
                    let reason = format!(
                        "is no adapter (it has no {ADAPTER_CONFIG_FILE}), and so has no base such as {}",
                        base.display()
                    );
                    Err(KernelError::content(dir, reason))
                }
            };
        }
        let base = match base {
            Some(base) => base.to_owned(),
            None => files::named_base(dir)?,
        };
        // Checkpoints name it, wherever they are read from.
        let base = std::path::absolute(&base).map_err(|source| KernelError::file(&base, source))?;
        if is_adapter(&base) {
            let reason = format!(
                "its base {} is an adapter itself; merge that one into its own base first",
                base.display()
            );
            return Err(KernelError::content(dir, reason));
        }
        Ok(Self { base, adapter: Some(dir.to_owned()) })
    }
}

#[cfg(test)]
mod tests;
