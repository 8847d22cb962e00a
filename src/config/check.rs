//! What contradicts itself between sections, and files that are not there.
//!
//! The crates check their own sections; their complaints read `key: reason` and get their line here.

use std::collections::BTreeMap;
use std::fmt::Display;

use kernels::Capabilities;
use kernels::rope::POSITIONS_MAX;
use learner::config::{
    AdvantageConfig, GradientsConfig, LayerInputsPlace, MismatchConfig, MptPositive, Surrogates,
};
use learner::optimizer::MomentPrecision;
use learner::{LearnerConfig, OptimizerConfig};
use rewards::{
    Answer, RewardConfig, RewardContext, RewardError, RewardKind, Task, Verdict, Verifier, WeightedSum,
};
use rollout::{DataConfig, DecodePrecision, KvCache, RolloutConfig, Room};

use super::document::Document;
use super::engine::{cache_precision, weights_precision};
use super::{AlarmsSection, ConfigError, DeviceKind, ModelDtype, PROMPT_TOKENS, WatchdogSection};

/// Refuses a number of positions that nothing can have.
pub(super) fn positions(document: &Document, positions_max: Option<usize>) -> Result<(), ConfigError> {
    let key = "model.positions_max";
    match positions_max {
        Some(positions) if !(2..=POSITIONS_MAX).contains(&positions) => {
            let message = format!("{key}: must be from 2 to {POSITIONS_MAX}, got {positions}");
            Err(document.error(key, message))
        }
        _ => Ok(()),
    }
}

pub(super) fn device(
    document: &Document,
    device: DeviceKind,
    threads: Option<usize>,
) -> Result<(), ConfigError> {
    if device == DeviceKind::Cuda && !cfg!(feature = "cuda") {
        let message = "run.device: this build has no \"cuda\"; build it with --features cuda";
        return Err(document.error("run.device", message));
    }
    if threads == Some(0) {
        return Err(
            document.error("run.threads", "run.threads: must be at least 1; leave it out for all cores")
        );
    }
    Ok(())
}

/// Refuses weights of a precision that the engine does not decode with.
pub(super) fn precision(
    document: &Document,
    precision: DecodePrecision,
    device: DeviceKind,
) -> Result<(), ConfigError> {
    if device.capabilities().weights.contains(&weights_precision(precision)) {
        return Ok(());
    }
    Err(cannot(document, "rollout.precision", device, "does not decode with weights of this precision"))
}

/// Refuses a `model.dtype` that is not trained, and moments that the engine does not have.
pub(super) fn dtype(
    document: &Document,
    dtype: Option<ModelDtype>,
    optimizer: &OptimizerConfig,
    trains_adapters: bool,
    device: DeviceKind,
) -> Result<(), ConfigError> {
    let is_half = dtype == Some(ModelDtype::Bf16);
    if is_half && device != DeviceKind::Cpu {
        return Err(cannot(document, "model.dtype", device, "does not train weights in bf16"));
    }
    if optimizer.moments == MomentPrecision::Int8 && device != DeviceKind::Cpu {
        return Err(cannot(document, "optimizer.moments", device, "has moments in f32 only"));
    }
    if is_half && !trains_adapters {
        let key = "model.dtype";
        let message = format!(
            "{key}: bf16 is for the base of adapters, and this config trains all weights, which are in f32; add \
             [learner.lora] or [sft.lora], or leave the key out"
        );
        return Err(document.error(key, message));
    }
    Ok(())
}

/// The error of a key that asks for what the engine of a device does not do.
fn cannot(document: &Document, key: &str, device: DeviceKind, reason: &str) -> ConfigError {
    let device = device.word();
    document.error(
        key,
        format!("{key}: run.device = \"{device}\" {reason}; leave the key out, or use another device"),
    )
}

/// Settles what is done about the actors' other distribution by how they decode.
pub(super) fn mismatch(learner: &mut LearnerConfig, rollout: Option<&RolloutConfig>) {
    let rounded = rollout
        .is_some_and(|rollout| rollout.precision != DecodePrecision::F32 || rollout.kv_cache != KvCache::F32);
    let importance = learner.importance.kind;
    learner.mismatch.get_or_insert_with(|| MismatchConfig::by_default(rounded, importance));
}

/// Refuses keys of `[data]` that contradict each other.
pub(super) fn data(document: &Document, data: &DataConfig) -> Result<(), ConfigError> {
    complain(document, "data.", data.check())
}

/// Makes the weighted sum once, with stand-ins for verifiers that only the program around the config knows. The
/// rewards stand in `section`, which is empty or ends with a point.
pub(super) fn rewards(
    document: &Document,
    section: &str,
    data: Option<&DataConfig>,
    rewards: &[RewardConfig],
) -> Result<(), ConfigError> {
    let task = match data {
        Some(DataConfig::Task(task)) => Some(complain(document, "data.", Task::new(task.clone()))?),
        Some(DataConfig::File(_)) | None => None,
    };
    let mut context = RewardContext { task, ..RewardContext::default() };
    context.custom = stand_ins(rewards);
    complain(document, section, WeightedSum::from_configs(rewards, context)).map(drop)
}

/// What stands for the verifiers that only the program around a config knows, while nothing is judged.
pub(crate) fn stand_ins(rewards: &[RewardConfig]) -> BTreeMap<String, Box<dyn Verifier>> {
    rewards
        .iter()
        .filter(|reward| reward.kind == (RewardKind::Custom {}))
        .map(|reward| (reward.name.clone(), Box::new(Unasked) as Box<dyn Verifier>))
        .collect()
}

/// Stands for a verifier while a config is checked.
struct Unasked;

impl Verifier for Unasked {
    fn verify(&self, _: &Answer<'_>) -> Result<Verdict, RewardError> {
        unreachable!("a check scores no answer")
    }
}

pub(super) fn correctness(
    document: &Document,
    learner: &LearnerConfig,
    rewards: &[RewardConfig],
) -> Result<(), ConfigError> {
    let marked = rewards.iter().position(|reward| reward.correctness);
    let Some(place) = marked else {
        if learner.advantage.needs_correctness() {
            let message = "learner.advantage.kind = \"grpo_lambda\" ranks groups by how many of their completions are \
                           correct: mark one of [[rewards]] with correctness = true";
            return Err(document.error("learner.advantage.kind", message));
        }
        if learner.mpt.enabled && learner.mpt.positive == MptPositive::Correct {
            let message = "learner.mpt.positive = \"correct\" needs one of [[rewards]] with correctness = true; \
                           without labels, set it to \"advantage\"";
            return Err(document.error("learner.mpt.positive", message));
        }
        return Ok(());
    };
    let adds = matches!(learner.advantage, AdvantageConfig::GrpoLambda { surrogates: Surrogates::Add, .. });
    let weight = rewards[place].weight;
    if adds && weight != 1.0 {
        // What is added is the reward less the correctness, so the correctness must be in it once.
        let key = format!("rewards[{place}].weight");
        let message = format!(
            "{key} = {weight}: learner.advantage.surrogates = \"add\" needs weight = 1 for the reward with correctness"
        );
        return Err(document.error(&key, message));
    }
    Ok(())
}

/// Refuses gradients that the engine does not compute, and a place for the layers' inputs that they do not have.
pub(super) fn layer_inputs(
    document: &Document,
    section: &str,
    gradients: &GradientsConfig,
    device: DeviceKind,
) -> Result<(), ConfigError> {
    let Some(Unable { key, reason }) = unable(gradients, &device.capabilities()) else { return Ok(()) };
    Err(cannot(document, &format!("{section}.gradients.{key}"), device, reason))
}

/// A key of a section `gradients` that an engine cannot follow, and why.
#[derive(Debug, PartialEq, Eq)]
struct Unable {
    key: &'static str,
    reason: &'static str,
}

fn unable(gradients: &GradientsConfig, engine: &Capabilities) -> Option<Unable> {
    let path = gradients.plan(1.0).path;
    if !engine.gradients.contains(&path) {
        return Some(Unable { key: "kind", reason: "does not compute gradients in this way" });
    }
    let place = gradients.streambp().map_or(LayerInputsPlace::Memory, |config| config.layer_inputs);
    let is_elsewhere = place != LayerInputsPlace::Memory && !engine.layer_inputs_elsewhere.contains(&path);
    is_elsewhere.then_some(Unable { key: "layer_inputs", reason: "keeps them in memory as they are" })
}

/// Refuses caches that the engine does not have, and one without room for a single output.
pub(super) fn kv_cache(
    document: &Document,
    rollout: &RolloutConfig,
    device: DeviceKind,
) -> Result<(), ConfigError> {
    let refused = |key: &str, reason: String| Err(document.error(key, format!("{key}: {reason}")));
    let engine = device.capabilities();
    if !engine.caches.contains(&cache_precision(rollout.kv_cache)) {
        return Err(cannot(document, "rollout.kv_cache", device, "has no cache of this precision"));
    }
    let key = "rollout.kv_cache_tokens_max";
    let Some(tokens) = rollout.kv_cache_tokens_per_actor() else { return Ok(()) };
    if !engine.caches_grow {
        return Err(cannot(document, key, device, "takes all memory of its cache at once"));
    }
    let block_tokens = engine.cache_block_tokens;
    let room = Room::of_tokens(tokens, block_tokens);
    let longest = PROMPT_TOKENS + rollout.output_tokens_max;
    if room.holds(longest) {
        return Ok(());
    }
    let least = rollout.actors * room.taken_by(longest) * block_tokens;
    refused(
        key,
        format!(
            "{} blocks of {block_tokens} tokens for each actor do not hold one output of {} tokens with a prompt \
             of {PROMPT_TOKENS}; it takes at least {least}",
            room.blocks, rollout.output_tokens_max
        ),
    )
}

pub(super) fn kl(document: &Document, learner: &LearnerConfig) -> Result<(), ConfigError> {
    if learner.kl.enabled && learner.kl.coefficient == 0.0 {
        let message = "learner.kl.coefficient: must be above 0 where learner.kl.enabled = true";
        return Err(document.error("learner.kl.coefficient", message));
    }
    Ok(())
}

pub(super) fn sampling(
    document: &Document,
    section: &str,
    temperature: f64,
    top_p: f64,
) -> Result<(), ConfigError> {
    if !(temperature.is_finite() && temperature >= 0.0) {
        let key = format!("{section}.temperature");
        return Err(document.error(&key, format!("{key}: must be finite and at least 0, got {temperature}")));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        let key = format!("{section}.top_p");
        return Err(document.error(&key, format!("{key}: must be above 0 and at most 1, got {top_p}")));
    }
    Ok(())
}

pub(super) fn writing(
    document: &Document,
    keep_last: usize,
    completions_every: u64,
) -> Result<(), ConfigError> {
    at_least_one(document, "checkpoint.keep_last", keep_last)?;
    at_least_one(document, "metrics.completions_every_steps", completions_every as usize)
}

pub(super) fn watching(
    document: &Document,
    watchdog: &WatchdogSection,
    alarms: &AlarmsSection,
) -> Result<(), ConfigError> {
    let not_negative = [
        ("watchdog.warn_after_s", watchdog.warn_after_s),
        ("watchdog.end_after_s", watchdog.end_after_s),
        ("watchdog.grace_s", watchdog.grace_s),
        ("alarms.truncated_share", alarms.truncated_share),
        ("alarms.entropy_min", alarms.entropy_min),
        ("alarms.entropy_factor", alarms.entropy_factor),
        ("alarms.grad_norm_factor", alarms.grad_norm_factor),
    ];
    for (key, value) in not_negative {
        if !(value.is_finite() && value >= 0.0) {
            return Err(document.error(key, format!("{key}: must be finite and at least 0, got {value}")));
        }
    }
    at_least_one(document, "alarms.steps", alarms.steps as usize)
}

pub(super) fn at_least_one(document: &Document, key: &str, value: usize) -> Result<(), ConfigError> {
    if value >= 1 { Ok(()) } else { Err(document.error(key, format!("{key}: must be at least 1, got 0"))) }
}

/// Gives a crate's complaint, `key: reason`, its place in the file.
pub(super) fn complain<T, E: Display>(
    document: &Document,
    section: &str,
    result: Result<T, E>,
) -> Result<T, ConfigError> {
    result.map_err(|error| {
        let message = format!("{section}{error}");
        let key = message.split(": ").next().unwrap_or_default();
        document.error(key, message.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::{
        Capabilities, DecodePrecision, DeviceKind, Document, GradientsConfig, KvCache, LayerInputsPlace,
        RolloutConfig, kv_cache, layer_inputs, precision, unable,
    };
    use kernels::{Cpu, GradientPath};
    use learner::config::StreambpConfig;

    #[test]
    fn other_devices_decode_in_f32() {
        let complaint =
            |bits, device| precision(&Document::empty(), bits, device).map_err(|error| error.to_string());
        assert_eq!(complaint(DecodePrecision::F32, DeviceKind::Cuda), Ok(()));
        assert_eq!(complaint(DecodePrecision::I8, DeviceKind::Cpu), Ok(()));
        let message = complaint(DecodePrecision::Bf16, DeviceKind::Cuda).unwrap_err();
        assert!(message.contains("rollout.precision: run.device = \"cuda\" does not"), "{message}");
        assert!(message.ends_with("leave the key out, or use another device"), "{message}");
    }

    #[test]
    fn other_devices_keep_layer_inputs_in_memory() {
        let complaint = |place, device| {
            let keys = StreambpConfig { layer_inputs: place, ..StreambpConfig::default() };
            let gradients = GradientsConfig::Streambp(keys);
            layer_inputs(&Document::empty(), "sft", &gradients, device).map_err(|error| error.to_string())
        };
        assert_eq!(complaint(LayerInputsPlace::Memory, DeviceKind::Cuda), Ok(()));
        assert_eq!(complaint(LayerInputsPlace::File, DeviceKind::Cpu), Ok(()));
        let message = complaint(LayerInputsPlace::Bf16, DeviceKind::Cuda).unwrap_err();
        let expected = "sft.gradients.layer_inputs: run.device = \"cuda\" keeps them in memory";
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn gradients_that_an_engine_lacks_are_refused_by_their_kind() {
        let streams = Capabilities { gradients: &[GradientPath::StreamBp], ..Cpu::CAPABILITIES };
        let key = |gradients: GradientsConfig, engine| unable(&gradients, engine).map(|unable| unable.key);
        for gradients in [GradientsConfig::Whole {}, GradientsConfig::Checkpointed {}] {
            assert_eq!(key(gradients.clone(), &streams), Some("kind"));
            assert_eq!(key(gradients, &Cpu::CAPABILITIES), None);
        }
        assert_eq!(key(GradientsConfig::default(), &streams), None);
    }

    #[test]
    fn caches_are_rounded_and_bounded_on_the_cpu_and_hold_an_output() {
        let text = "output_tokens_max = 64\nsegments_max = 4\ntrajectories_open_max = 4\nactors = 2\n\
                    group_size = 2\ntemperature = 1.0";
        let plain: RolloutConfig = toml::from_str(text).unwrap();
        let complaint = |rollout: &RolloutConfig, device| {
            kv_cache(&Document::empty(), rollout, device).map_err(|error| error.to_string())
        };
        assert_eq!(complaint(&plain, DeviceKind::Cuda), Ok(()));
        let rounded = RolloutConfig { kv_cache: KvCache::Bf16, ..plain.clone() };
        assert_eq!(complaint(&rounded, DeviceKind::Cpu), Ok(()));
        let message = complaint(&rounded, DeviceKind::Cuda).unwrap_err();
        assert!(message.contains("rollout.kv_cache: run.device = \"cuda\" has no cache"), "{message}");
        let bounded = |tokens| RolloutConfig { kv_cache_tokens_max: Some(tokens), ..plain.clone() };
        // An output of 64 and a prompt of 64 are two blocks, for each of two actors.
        assert_eq!(complaint(&bounded(256), DeviceKind::Cpu), Ok(()));
        let message = complaint(&bounded(255), DeviceKind::Cpu).unwrap_err();
        assert!(message.contains("rollout.kv_cache_tokens_max: 1 blocks of 64"), "{message}");
        assert!(message.ends_with("it takes at least 256"), "{message}");
        let message = complaint(&bounded(256), DeviceKind::Cuda).unwrap_err();
        let expected = "rollout.kv_cache_tokens_max: run.device = \"cuda\" takes all memory";
        assert!(message.contains(expected), "{message}");
    }
}
