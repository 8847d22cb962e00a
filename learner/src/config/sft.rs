//! The keys of supervised training, and the settings that a checkpoint keeps.

use serde::{Deserialize, Serialize};

use crate::config::{GradientsConfig, LearnerConfig, LoraSection};

/// How supervised steps are cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftConfig {
    /// Tokens, prompts included, in one micro-batch. A longer sequence is a micro-batch of its own.
    pub batch_tokens_max: usize,
    /// How gradients are computed.
    #[serde(default)]
    pub gradients: GradientsConfig,
    /// Adapters that are trained in the place of the weights; absent trains all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSection>,
}

/// The settings of whoever wrote a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settings {
    /// Reinforcement learning.
    Learner(LearnerConfig),
    /// Supervised warm start.
    Sft(SftConfig),
}
