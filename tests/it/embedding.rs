//! Runs inside of another program, with what it brings along: a loss, a mode of rollouts, a family of models. They touch
//! neither the terminal nor the signals of the process.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kernels::model::families::{self, Family, llama};
use learner::loss::{CompletionStats, Loss, TokenLoss};
use longhaul::{RunConfig, RunOutcome, RunRequest};
use rollout::{Next, RolloutMode};
use serde_json::Value;
use trajectory::{Finish, Source, Span, Trajectory};

use crate::binary::{metrics, repository};

/// Two small steps in turns with the actors.
const SMALL: [&str; 15] = [
    "run.steps=2",
    "run.schedule=lockstep",
    "rollout.output_tokens_max=96",
    "rollout.segments_max=4",
    "rollout.trajectories_open_max=12",
    "rollout.group_size=4",
    "learner.groups_per_step=3",
    "learner.dynamic_sampling=off",
    "learner.mpt.enabled=false",
    "queue.groups_max=3",
    "queue.staleness_versions_max=0",
    "eval.problems=16",
    "eval.every_steps=0",
    "checkpoint.every_steps=1",
    "metrics.completions_logged=0",
];

fn config(set: &[String]) -> RunConfig {
    let set: Vec<String> = SMALL.iter().map(|set| (*set).to_owned()).chain(set.iter().cloned()).collect();
    RunConfig::load(&repository().join("configs/quickstart.toml"), &set).unwrap()
}

fn request(folder: &Path) -> RunRequest<'static> {
    let mut request = RunRequest::new("embedded");
    request.folder = Some(folder.to_owned());
    request
}

fn records(outcome: &RunOutcome, step: u64) -> Vec<Value> {
    let file = outcome.folder.join(format!("rollouts/step-{step:06}.jsonl"));
    fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every token costs the same, whatever it is worth.
#[derive(Debug)]
struct Flat {
    units: Arc<AtomicUsize>,
}

impl Loss for Flat {
    fn unit(&self, unit: &[CompletionStats<'_>]) -> Vec<TokenLoss> {
        self.units.fetch_add(1, Ordering::Relaxed);
        let tokens: usize = unit.iter().map(CompletionStats::tokens).sum();
        vec![TokenLoss { loss: 2.5, dloss_dlogprob: -1.0, ..TokenLoss::default() }; tokens]
    }
}

#[test]
fn a_run_takes_a_loss() {
    let home = tempfile::tempdir().unwrap();
    let units = Arc::<AtomicUsize>::default();
    let mut request = request(&home.path().join("run"));
    request.loss = Some(Arc::new(Flat { units: Arc::clone(&units) }));
    let outcome = longhaul::train(config(&["eval.before=false".into(), "eval.after=false".into()]), &request);
    let outcome = outcome.unwrap();
    assert_eq!((outcome.steps, units.load(Ordering::Relaxed)), (2, 2 * 3 * 4), "a unit a completion");
    for step in metrics(&outcome.folder) {
        assert!((step["loss"].as_f64().unwrap() - 2.5).abs() < 1e-9, "{step}");
    }
}

const ANSWER: [u32; 2] = [5, 6];

/// What the policy ends first is answered once, and it goes on behind that.
#[derive(Debug)]
struct AnswerOnce {
    asked: Arc<AtomicUsize>,
}

impl RolloutMode for AnswerOnce {
    fn next(&self, so_far: &Trajectory, _: Finish) -> Next {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut spans = so_far.contexts.iter().flat_map(|context| &context.spans);
        match spans.any(|span| matches!(span, Span::Given { by: Source::Environment, .. })) {
            true => Next::Done,
            false => Next::Append(ANSWER.to_vec()),
        }
    }
}

#[test]
fn a_run_and_its_evaluations_take_a_mode() {
    let home = tempfile::tempdir().unwrap();
    let asked = Arc::<AtomicUsize>::default();
    let mut request = request(&home.path().join("run"));
    request.mode = Some(Arc::new(AnswerOnce { asked: Arc::clone(&asked) }));
    let outcome = longhaul::train(config(&["eval.after=false".into()]), &request).unwrap();
    let records: Vec<Value> = (1..=2).flat_map(|step| records(&outcome, step)).collect();
    assert_eq!(records.len(), 2 * 3 * 4);
    let answered = |record: &&Value| record["given"][0]["tokens"] == serde_json::json!(ANSWER);
    let answered: Vec<&Value> = records.iter().filter(answered).collect();
    assert!(!answered.is_empty(), "no output ended before its limit");
    for record in &answered {
        assert_eq!(record["given"][0]["by"], "environment");
        let tokens = record["completion_tokens"].as_array().unwrap().len();
        let before = record["segments"].as_array().unwrap();
        let before = before.iter().map(|segment| segment["tokens"].as_u64().unwrap() as usize);
        assert_eq!(before.sum::<usize>(), tokens, "what was given is not among what was drawn");
    }
    // Every answer of the run asked at least once, and those of the evaluation asked as well.
    let of_training = answered.len() + records.iter().filter(|record| record["finish"] == "stop").count();
    assert!(asked.load(Ordering::Relaxed) > of_training, "{asked:?} and {of_training}");
}

/// A Llama by another name.
static OTHER_LLAMA: Family = Family {
    model_type: "other_llama",
    architecture: "OtherLlamaForCausalLM",
    read: llama::read,
    write: llama::write,
    supports: |_| true,
    tensor_names: &[("self_attn.q_proj.weight", "self_attn.queries.weight")],
    positions_are_stretched: false,
};

/// The quickstart's model as one of the other family.
fn other_model(dir: &Path) {
    let quickstart = repository().join("models/quickstart");
    let decoder = kernels::Decoder::load(&quickstart, &kernels::Device::flex()).unwrap();
    let config = kernels::DecoderConfig { family: &OTHER_LLAMA, ..decoder.config.clone() };
    kernels::Decoder { config, ..decoder }.save(dir).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(quickstart.join(name), dir.join(name)).unwrap();
    }
}

#[test]
fn a_run_takes_a_family_also_where_it_is_resumed() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model");
    fs::create_dir(&model).unwrap();
    other_model(&model);
    let with = |steps: u64| {
        config(&[format!("model.path={:?}", model.display().to_string()), format!("run.steps={steps}")])
    };
    let mut request = request(&home.path().join("run"));
    let refused = longhaul::train(with(2), &request).unwrap_err();
    assert!(format!("{refused:#}").contains("other_llama"), "{refused:#}");
    let all: Vec<&'static Family> = families::ALL.into_iter().chain([&OTHER_LLAMA]).collect();
    request.families = &all;
    let outcome = longhaul::train(with(1), &request).unwrap();
    let written: Value =
        serde_json::from_slice(&fs::read(outcome.model.join("config.json")).unwrap()).unwrap();
    assert_eq!(written["model_type"], "other_llama");
    let mut resumed = RunRequest::new("embedded");
    resumed.start =
        longhaul::StartFrom::Resume { from: Some(outcome.folder.clone()), allow_config_change: true };
    resumed.families = &all;
    assert_eq!(longhaul::train(with(2), &resumed).unwrap().steps, 2);
}
