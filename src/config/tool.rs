//! The settings of the commands that read no config file.

use super::check::{at_least_one, complain, device, positions, sampling};
use super::document::Document;
use super::{ConfigError, SftRunSection, ToolData, ToolModel, ToolSampling, apply};

/// The settings of the commands that read no config file, from `--set` alone.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolConfig {
    /// `run.{seed,device,threads}`
    pub run: SftRunSection,
    /// `model.{positions_max,dtype}`
    pub model: ToolModel,
    /// `rollout.{output_tokens_max,temperature,top_p,top_k}` and what ends the answer.
    pub rollout: ToolSampling,
    /// `data.template`
    pub data: ToolData,
}

impl ToolConfig {
    /// The settings of `longhaul generate`: `run.*`, `rollout.*`, `model.*` and `data.template.*`.
    ///
    /// # Errors
    /// If an assignment has an unknown key or an invalid value.
    pub fn for_generate(set: &[String]) -> Result<Self, ConfigError> {
        Self::from_sections(set, &["run", "model", "rollout", "data"])
    }

    /// The settings of `longhaul tokenize`: `data.template.*`.
    ///
    /// # Errors
    /// If an assignment has an unknown key or an invalid value.
    pub fn for_tokenize(set: &[String]) -> Result<Self, ConfigError> {
        Self::from_sections(set, &["data"])
    }

    /// The settings of `longhaul logprobs`: `run.*` and `model.*`.
    ///
    /// # Errors
    /// If an assignment has an unknown key or an invalid value.
    pub fn for_logprobs(set: &[String]) -> Result<Self, ConfigError> {
        Self::from_sections(set, &["run", "model"])
    }

    fn from_sections(set: &[String], sections: &[&str]) -> Result<Self, ConfigError> {
        let mut document = Document::empty();
        apply(&mut document, set)?;
        document.allow_only(sections)?;
        let config = Self {
            run: document.section("run")?,
            model: document.section("model")?,
            rollout: document.section("rollout")?,
            data: document.section("data")?,
        };
        config.check(&document)?;
        Ok(config)
    }

    fn check(&self, document: &Document) -> Result<(), ConfigError> {
        device(document, self.run.device, self.run.threads)?;
        positions(document, self.model.positions_max)?;
        at_least_one(document, "rollout.output_tokens_max", self.rollout.output_tokens_max)?;
        complain(document, "", self.rollout.stops().check(self.rollout.output_tokens_max))?;
        sampling(document, "rollout", self.rollout.temperature, self.rollout.top_p)
    }
}
