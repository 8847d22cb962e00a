//! The sections that belong to no other crate, as they stand in a file. `check` refuses their invalid values.

use std::path::PathBuf;

use kernels::LlamaShape;
use learner::config::{GradientsConfig, LoraSection};
use rewards::DemonstrationConfig;
use rollout::{Learn, Sampling, Schedule, StopConfig, TemplateVariables};
use serde::{Deserialize, Serialize};

use super::{DeviceKind, ModelDtype};

/// `[run]`: what holds for the whole run.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RunSection {
    /// Where all randomness comes from.
    #[serde(default)]
    pub seed: u64,
    /// Optimizer steps; 0 replays all recorded groups.
    #[serde(default)]
    pub steps: u64,
    /// Whether actors and learner work at the same time.
    #[serde(default)]
    pub schedule: Schedule,
    /// The device that computes.
    #[serde(default)]
    pub device: DeviceKind,
    /// Threads for arithmetic; absent is one for each core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

/// `[model]` of a train config.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// A Hugging Face directory, or one of an adapter in peft's format. Training goes on with the adapter where
    /// `[learner.lora]` is given, and otherwise with all weights of their sum.
    pub path: PathBuf,
    /// The base of an adapter in `path`, in the place of the one that the adapter names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// Tokens of the longest sequence, prompt and output, in place of what the model's files say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions_max: Option<usize>,
    /// How the base of adapters is stored, once for learner, actors and evaluation; absent is f32. Weights that are all
    /// trained are in f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<ModelDtype>,
}

/// `[checkpoint]`: when checkpoints are written. The last step always has one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSection {
    /// Writes after every so many steps; 0 is only at the end.
    pub every_steps: u64,
    /// How many of the newest checkpoints stay on disk.
    pub keep_last: usize,
    /// Checkpoints of every so many steps are never deleted; 0 is none.
    pub keep_every_steps: u64,
    /// The one at which a metric stood best stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_best: Option<Best>,
}

impl Default for CheckpointSection {
    fn default() -> Self {
        Self { every_steps: 0, keep_last: 2, keep_every_steps: 0, keep_best: None }
    }
}

/// `keep_best = { metric = "eval/accuracy" }`: which checkpoint is the best one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// A tag of `metrics.jsonl`.
    pub metric: String,
    /// Whether the least value is the best one.
    #[serde(default)]
    pub least: bool,
}

/// `[metrics]`: what is written beside the numbers, and what is shown.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// Histograms of lengths, rewards, advantages and ratios in TensorBoard.
    pub histograms: bool,
    /// Completions of a step that TensorBoard shows; 0 is none.
    pub completions_logged: usize,
    /// Shows completions after every so many steps.
    pub completions_every_steps: u64,
    /// Writes the completions of every step into `rollouts/`.
    pub rollouts: bool,
    /// Writes the answers of every evaluation into `evals/`.
    pub evals: bool,
    /// What the terminal shows.
    pub console: Console,
}

impl Default for MetricsSection {
    fn default() -> Self {
        Self {
            histograms: true,
            completions_logged: 2,
            completions_every_steps: 10,
            rollouts: true,
            evals: true,
            console: Console::Auto,
        }
    }
}

/// How much of the progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Console {
    /// A table with a bar on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// Plain lines, also on a terminal.
    Plain,
    /// Nothing.
    Quiet,
}

/// `[watchdog]`: what becomes of a run that makes no progress. It stands still where one stage is at the same piece
/// of work for so long without a token, a verdict or a micro-batch, or where all wait for each other.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchdogSection {
    /// Says after so many seconds without progress which stage waits for which, and again after twice the time;
    /// 0 is never.
    pub warn_after_s: f64,
    /// Saves and ends the run after so many seconds without progress, with exit code 75; 0 is never.
    pub end_after_s: f64,
    /// Ends the process after so many seconds if a run that is to end, for this or for a signal, does not; 0 is
    /// never.
    pub grace_s: f64,
}

impl Default for WatchdogSection {
    fn default() -> Self {
        Self { warn_after_s: 300.0, end_after_s: 3600.0, grace_s: 600.0 }
    }
}

/// `[alarms]`: when a run that does not learn, or diverges, raises an alarm.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlarmsSection {
    /// Steps in a row before an alarm: one can be chance.
    pub steps: u64,
    /// The fraction of completions cut off at the output limit that is too high.
    pub truncated_share: f64,
    /// The mean entropy, in nats, that is too low; 0 is none.
    pub entropy_min: f64,
    /// How many times the entropy of the first ten steps is too high; 0 is none.
    pub entropy_factor: f64,
    /// How many times the median of the last 32 gradient norms is a spike; 0 is none.
    pub grad_norm_factor: f64,
}

impl Default for AlarmsSection {
    fn default() -> Self {
        Self { steps: 3, truncated_share: 0.9, entropy_min: 0.0, entropy_factor: 5.0, grad_norm_factor: 10.0 }
    }
}

/// `[run]` of an sft config.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SftRunSection {
    /// Where all randomness comes from.
    #[serde(default)]
    pub seed: u64,
    /// The device that computes.
    #[serde(default)]
    pub device: DeviceKind,
    /// Threads for arithmetic; absent is one for each core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

/// `[model]` of an sft config: a model to go on with, or the shape of a new one.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SftModelSection {
    /// A Hugging Face directory, or one of an adapter in peft's format. Training goes on with the adapter where `[sft.lora]`
    /// is given, and otherwise with all weights of their sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The base of an adapter in `path`, in the place of the one that the adapter names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// `[model.create]`: a new Llama, whose vocabulary is the alphabet of the tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<CreateSection>,
    /// Tokens of the longest sequence, prompt and output, in place of what the model's files say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions_max: Option<usize>,
    /// How the base of adapters is stored, once for learner, actors and evaluation; absent is f32. Weights that are all
    /// trained are in f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<ModelDtype>,
}

/// `[model.create]`: the shape of a new Llama.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSection {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// The longest sequence that the model is made for, in tokens.
    pub max_positions: usize,
    /// Base of the rotary frequencies.
    #[serde(default = "CreateSection::default_rope_theta")]
    pub rope_theta: f64,
    /// Whether the embedding is the head as well.
    #[serde(default = "CreateSection::default_tied")]
    pub tied: bool,
}

impl CreateSection {
    /// The shape with so many token ids.
    #[must_use]
    pub fn shape(&self, vocabulary: usize) -> LlamaShape {
        LlamaShape {
            hidden: self.hidden,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            intermediate: self.intermediate,
            vocabulary,
            positions: self.max_positions,
            rms_eps: 1e-6,
            rope_theta: self.rope_theta,
        }
    }

    fn default_rope_theta() -> f64 {
        10_000.0
    }

    fn default_tied() -> bool {
        true
    }
}

/// `[sft]`: the supervised steps.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SftSection {
    /// The most optimizer steps.
    pub steps_max: u64,
    /// Demonstrations in one step.
    pub batch_size: usize,
    /// Tokens, prompts included, in one micro-batch.
    pub batch_tokens_max: usize,
    /// The most tokens of an answer in evaluation.
    pub output_tokens_max: usize,
    /// Which turns of the assistant are learned where a row is a conversation.
    #[serde(default)]
    pub learn: Learn,
    /// Stops as soon as an evaluation reaches this accuracy; absent is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_accuracy: Option<f64>,
    /// How a task's demonstrations are written; data in a file has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demonstrations: Option<DemonstrationConfig>,
    /// `[sft.gradients]`: as `[learner.gradients]`.
    #[serde(default)]
    pub gradients: GradientsConfig,
    /// `[sft.lora]`: as `[learner.lora]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSection>,
    /// `[[sft.phases]]`: what comes before the rest, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<SftPhase>,
}

/// `[[sft.phases]]`: some first steps on easier problems or with other styles.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SftPhase {
    /// Optimizer steps of this phase.
    pub steps: u64,
    /// Difficulty of the easiest problems; absent is as in `[data]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difficulty_min: Option<usize>,
    /// Difficulty of the hardest problems; absent is as in `[data]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difficulty_max: Option<usize>,
    /// How the demonstrations are written; absent is as in `[sft]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demonstrations: Option<DemonstrationConfig>,
}

/// What a command without data needs of `[data]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToolData {
    /// Variables of the chat template by name.
    pub template: TemplateVariables,
}

/// `[model]` of the commands that read no config file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToolModel {
    /// Tokens of the longest sequence, prompt and output, in place of what the model's files say.
    pub positions_max: Option<usize>,
    /// How the weights are stored; absent is as the model's files have them.
    pub dtype: Option<ModelDtype>,
}

/// How `longhaul generate` draws.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToolSampling {
    /// The most tokens of the answer.
    pub output_tokens_max: usize,
    /// The temperature; 0 takes the likeliest token each time.
    pub temperature: f64,
    /// The probability mass that tokens are drawn from; 1 is all of it.
    pub top_p: f64,
    /// The number of likeliest tokens that are drawn from; 0 is all of them.
    pub top_k: usize,
    /// The answer ends with the token that completes one of these strings.
    pub stop: Vec<String>,
    /// The answer ends with one of these tokens.
    pub stop_token_ids: Vec<u32>,
    /// Nothing ends the answer before it has so many tokens.
    pub min_tokens: usize,
    /// Whether the stop string is shown, and what its last token writes behind it.
    pub include_stop_str_in_output: bool,
}

impl ToolSampling {
    /// How tokens are drawn.
    pub fn sampling(&self) -> Sampling {
        Sampling { temperature: self.temperature, top_p: self.top_p, top_k: self.top_k }
    }

    /// What ends the answer before its limit.
    pub fn stops(&self) -> StopConfig {
        StopConfig {
            stop: self.stop.clone(),
            stop_token_ids: self.stop_token_ids.clone(),
            min_tokens: self.min_tokens,
            include_stop_str_in_output: self.include_stop_str_in_output,
        }
    }
}

impl Default for ToolSampling {
    fn default() -> Self {
        Self {
            output_tokens_max: 1024,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            min_tokens: 0,
            include_stop_str_in_output: true,
        }
    }
}
