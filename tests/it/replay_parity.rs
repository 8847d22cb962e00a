//! One optimizer step on recorded completions against PyTorch: loss, gradient norm and the change of every
//! tensor, for all combinations of advantage, importance, mask and penalty, with truncated weights, and under
//! several micro-batch budgets and chunk lengths. `tests/fixtures/reference_step.py` made the numbers, those of other
//! families `tests/fixtures/family_steps.py`; they share no code with longhaul. Fails when a formula of the loss, or
//! invariant 4 or 6, is broken.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use kernels::{Cpu, Decoder, TrainingEngine};
use learner::{LearnerConfig, OptimizerConfig, StepReport, Trainer};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::{Value, json};

/// Of the norm of a tensor's change. At most 2e-5 was measured, most of it the rounding of f32 weights; a
/// wrong formula gives far more.
const RELATIVE_ERROR_MAX: f64 = 1e-4;
/// The same of families whose smallest tensors, single experts, change by sums over few tokens.
const FAMILY_ERROR_MAX: f64 = 1e-3;

/// How a step is cut into micro-batches and chunks.
#[derive(Debug, Clone, Copy)]
struct Cut {
    batch_tokens_max: usize,
    /// Chunks of StreamBP; none is the whole batch on one tape.
    chunks: Option<Chunks>,
}

#[derive(Debug, Clone, Copy)]
struct Chunks {
    layer_tokens: usize,
    head_tokens: usize,
}

impl Cut {
    const fn whole(batch_tokens_max: usize) -> Self {
        Self { batch_tokens_max, chunks: None }
    }

    const fn streamed(batch_tokens_max: usize, layer_tokens: usize, head_tokens: usize) -> Self {
        Self { batch_tokens_max, chunks: Some(Chunks { layer_tokens, head_tokens }) }
    }
}

/// All in one, each sequence alone and chunks of one token, and budgets and chunks that divide nothing.
const CUTS: [Cut; 5] = [
    Cut::whole(4096),
    Cut::streamed(4096, 4096, 4096),
    Cut::streamed(1, 1, 1),
    Cut::streamed(40, 7, 3),
    Cut::whole(61),
];

#[derive(Deserialize)]
struct Fixture {
    constants: Constants,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Constants {
    temperature: f64,
    learning_rate: f64,
    clip: Value,
    lambda: f64,
    alpha: f64,
    tau: f64,
    kl: f64,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    advantage: String,
    importance: String,
    mpt: bool,
    kl: bool,
    surrogates: String,
    scope: String,
    positive: String,
    estimator: String,
    dynamic_sampling: bool,
    clip_norm: Option<f64>,
    tis_cap: Option<f64>,
    sigma: f64,
    loss: f64,
    grad_norm: f64,
    tokens: usize,
    masked_tokens: usize,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A folder of one model: its cases, and what PyTorch says of them.
struct Folder {
    dir: PathBuf,
    fixture: Fixture,
    expected: Vec<u8>,
    /// How far numbers may be off, of PyTorch's.
    error_max: f64,
}

impl Folder {
    fn read(dir: PathBuf, error_max: f64) -> Self {
        let text = std::fs::read(dir.join("cases.json")).expect("the fixture's cases");
        let fixture = serde_json::from_slice(&text).expect("the fixture's cases");
        let expected = std::fs::read(dir.join("expected.safetensors")).expect("the fixture's numbers");
        Self { dir, fixture, expected, error_max }
    }

    /// Compares every case under every cut.
    fn compare(&self) {
        let file = SafeTensors::deserialize(&self.expected).expect("the fixture's numbers");
        for case in &self.fixture.cases {
            for cut in CUTS {
                compare(self, case, &file, cut);
            }
        }
    }
}

impl Case {
    fn learner_config(&self, dir: &Path, constants: &Constants, cut: Cut) -> LearnerConfig {
        let mut advantage = json!({"kind": self.advantage});
        if self.advantage == "grpo_lambda" {
            advantage["lambda"] = json!(constants.lambda);
            advantage["alpha"] = json!(constants.alpha);
            advantage["surrogates"] = json!(self.surrogates);
        }
        let mismatch = match self.tis_cap {
            Some(cap) => json!({"kind": "tis", "cap": cap}),
            None => json!({"kind": "none"}),
        };
        let gradients = match cut.chunks {
            Some(chunks) => json!({"kind": "streambp", "layer_chunk_tokens": chunks.layer_tokens,
                                   "head_chunk_tokens": chunks.head_tokens}),
            None => json!({"kind": "whole"}),
        };
        let config = json!({
            "groups_per_step": 5, "batch_tokens_max": cut.batch_tokens_max,
            "dynamic_sampling": self.dynamic_sampling, "advantage": advantage,
            "importance": {"kind": self.importance}, "mismatch": mismatch, "clip": constants.clip,
            "mpt": {"enabled": self.mpt, "tau": constants.tau, "sigma": self.sigma,
                    "positive": self.positive, "scope": self.scope},
            "gradients": gradients,
            "kl": {"enabled": self.kl, "coefficient": constants.kl, "estimator": self.estimator,
                   "reference": dir.join("reference")},
        });
        serde_json::from_value(config).expect("the fixture's case is a learner section")
    }

    fn optimizer_config(&self, constants: &Constants) -> OptimizerConfig {
        let mut config = json!({"kind": "sgd", "learning_rate": constants.learning_rate});
        if let Some(limit) = self.clip_norm {
            config["clip_norm"] = json!(limit);
        }
        serde_json::from_value(config).expect("the fixture's case is an optimizer section")
    }
}

/// The numbers of every parameter, by the name that files of the family have for it.
fn numbers(decoder: &Decoder) -> HashMap<String, Vec<f64>> {
    let values = |tensor: &burn::tensor::Tensor<2>| tensor.to_data().iter::<f64>().collect();
    let of_files = |name: String| decoder.config.family.file_name(&name);
    decoder
        .weights
        .tensors()
        .named()
        .into_iter()
        .map(|(name, tensor)| (of_files(name), values(tensor)))
        .collect()
}

fn engine() -> Arc<dyn TrainingEngine> {
    Arc::new(Cpu::default())
}

/// One step of a fresh learner: its report and the change of every tensor.
fn step(dir: &Path, case: &Case, constants: &Constants, cut: Cut) -> (StepReport, HashMap<String, Vec<f64>>) {
    let load = |name| Decoder::load(&dir.join(name), &Device::flex()).expect("the fixture's model");
    let reference = case.kl.then(|| load("reference"));
    let config = case.learner_config(dir, constants, cut);
    let optimizer = case.optimizer_config(constants);
    let mut learner =
        Trainer::new(engine(), load("model"), config, optimizer, constants.temperature, 1, reference)
            .expect("the fixture's settings are sound");
    let groups = rollout::read_groups(&dir.join("completions.jsonl")).expect("the fixture's recording");
    let before = numbers(learner.decoder());
    let report = learner.step(&groups).expect("the fixture's groups can be trained on");
    let mut change = numbers(learner.decoder());
    for (name, values) in &mut change {
        for (value, before) in values.iter_mut().zip(&before[name]) {
            *value -= before;
        }
    }
    (report, change)
}

fn expected_change(file: &SafeTensors<'_>, case: &str, name: &str) -> Vec<f64> {
    let stored = file.tensor(&format!("{case}/{name}")).expect("the fixture has every tensor of the model");
    let (numbers, _) = stored.data().as_chunks::<4>();
    numbers.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
}

fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn compare(folder: &Folder, case: &Case, file: &SafeTensors<'_>, cut: Cut) {
    let place = format!("{}: {} with {cut:?}", folder.dir.display(), case.name);
    let (report, change) = step(&folder.dir, case, &folder.fixture.constants, cut);
    let update = report.update.expect("there are live groups");
    assert_eq!(update.completion_tokens, case.tokens, "{place}: the denominator");
    let seen = (case.tokens - update.skipped.tokens) as f64;
    let tokens = update.tokens.expect("there are live groups");
    // Nothing is mastered in the completions that are skipped.
    let masked = tokens.mpt.map_or(0.0, |mpt| mpt.masked_fraction * seen);
    assert!((masked - case.masked_tokens as f64).abs() < 1e-6, "{place}: {masked} tokens are masked");
    for (quantity, actual, expected) in
        [("loss", update.loss, case.loss), ("grad_norm", update.grad_norm, case.grad_norm)]
    {
        let error = (actual - expected).abs() / expected.abs();
        assert!(error < folder.error_max, "{place}: {quantity} is {actual}, PyTorch says {expected}");
    }
    for (name, actual) in change {
        let expected = expected_change(file, &case.name, &name);
        let error = norm(actual.iter().zip(&expected).map(|(a, b)| a - b));
        let size = norm(expected.iter().copied());
        // An expert that no token goes through does not change at all.
        assert!(
            error <= folder.error_max * size,
            "{place}: the change of {name} is off by {error} of {size}"
        );
    }
}

#[test]
fn a_step_changes_the_weights_as_pytorch_does() {
    let folder = Folder::read(fixtures().join("replay"), RELATIVE_ERROR_MAX);
    assert_eq!(folder.fixture.cases.len(), 3 * 2 * 2 * 2 + 9);
    folder.compare();
}

#[test]
fn a_step_of_other_families_changes_the_weights_as_pytorch_does() {
    for family in ["mistral", "smollm3", "granite", "qwen3_moe_normalised", "qwen3_moe", "gemma3"] {
        let folder = Folder::read(fixtures().join("steps").join(family), FAMILY_ERROR_MAX);
        assert_eq!(folder.fixture.cases.len(), 2, "{family}");
        folder.compare();
    }
}
