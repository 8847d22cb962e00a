//! Which parameters of a model a run trains: all of them, or adapters beside them; and where adapters come from.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use kernels::{Decoder, Device, Lora, ModelPlace};
use learner::config::LoraSection;
use learner::{BaseModel, LearnerConfig};

use super::ModelFiles;

/// A section `lora` of a config, where there is one.
#[derive(Clone, Copy, Debug)]
pub struct LoraRequest<'a> {
    /// The key of the section, for errors.
    pub key: &'static str,
    /// The section.
    pub section: Option<&'a LoraSection>,
    /// The run's seed: what A begins with.
    pub seed: u64,
    /// Whether the model is that of a checkpoint that a run goes on from, whose adapters are the run's own.
    pub resumes: bool,
}

impl<'a> LoraRequest<'a> {
    /// Of `[learner.lora]`.
    #[must_use]
    pub fn of_learner(learner: &'a LearnerConfig, seed: u64, resumes: bool) -> Self {
        Self { key: "learner.lora", section: learner.lora.as_ref(), seed, resumes }
    }

    /// Gives the model the adapters that are trained, and tells what they belong to. Without the section all weights are
    /// trained, and adapters of the model are added to them first.
    ///
    /// # Errors
    /// Names the key or file that is wrong.
    pub fn prepare(&self, decoder: Decoder, place: &ModelPlace) -> Result<(Decoder, Option<BaseModel>)> {
        let Some(section) = self.section else { return Ok((decoder.merged(), None)) };
        let key = self.key;
        let (mut decoder, base) = (decoder, &place.base);
        let (form, device) = (section.form(), decoder.device());
        match (&decoder.lora, &section.adapter) {
            (Some(_), Some(adapter)) if !self.resumes && !is_same(adapter, place.adapter.as_deref()) => {
                bail!(
                    "{key}.adapter: the model is an adapter itself, and training would go on with that of {}; leave this \
                     key out",
                    place.adapter.as_ref().unwrap_or(base).display()
                );
            }
            (Some(_), _) => {}
            (None, Some(adapter)) => {
                decoder.lora = Some(Lora::load(adapter, base, &decoder.config, &device)?);
            }
            (None, None) => {
                let lora = Lora::new(form, &decoder.config, base, self.seed, &device);
                decoder.lora = Some(lora.map_err(|error| anyhow!("{key}.{error}"))?);
            }
        }
        let digest = BaseModel::of(base).with_context(|| format!("{key}: the base"))?;
        Ok((decoder, Some(digest)))
    }

    /// How many numbers are trained, after a look at the section and at the adapter that training goes on with.
    ///
    /// # Errors
    /// Names the key or file that is wrong.
    pub fn looked_at(&self, model: &ModelFiles) -> Result<usize> {
        let (config, place, device) = (&model.decoder, model.place(), Device::flex());
        let own = place.adapter.as_ref();
        let adapter = self.section.and_then(|section| section.adapter.as_ref());
        let loaded = own.or(adapter).map(|dir| Lora::load(dir, &place.base, config, &device)).transpose()?;
        let Some(section) = self.section else { return Ok(config.parameters()) };
        let (key, form) = (self.key, section.form());
        let trained = form.parameters(config).map_err(|error| anyhow!("{key}.{error}"))?;
        if let Some(lora) = loaded {
            lora.check_form(&form, config).map_err(|error| anyhow!("{key}: {error}"))?;
        }
        Ok(trained)
    }
}

fn is_same(one: &Path, other: Option<&Path>) -> bool {
    other.is_some_and(|other| one.canonicalize().ok() == other.canonicalize().ok())
}

/// How many numbers a model has, with its adapters.
#[must_use]
pub fn parameters(decoder: &Decoder) -> usize {
    decoder.config.parameters() + if decoder.lora.is_some() { decoder.trained_count() } else { 0 }
}

/// A model's numbers for a person: all, and those that are trained.
#[must_use]
pub fn parameters_line(decoder: &Decoder) -> String {
    let millions = |count: usize| count as f64 / 1e6;
    let total = decoder.config.parameters();
    match &decoder.lora {
        None => format!("{:.2} M parameters", millions(total)),
        Some(lora) => format!(
            "{:.2} M parameters, and {:.2} M of adapters that are trained (rank {}, scale {}, {} projections)",
            millions(total),
            millions(decoder.trained_count()),
            lora.config.rank,
            lora.config.scale(),
            lora.count()
        ),
    }
}
