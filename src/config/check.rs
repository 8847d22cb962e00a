//! What contradicts itself between sections, and files that are not there.
//!
//! The crates check their own sections; their complaints read `key: reason` and get their line here.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use kernels::CACHE_BLOCK_TOKENS;
use kernels::rope::POSITIONS_MAX;
use learner::LearnerConfig;
use learner::config::{
    AdvantageConfig, LayerInputsPlace, MismatchConfig, MptPositive, StreambpConfig, Surrogates,
};
use rewards::{
    Answer, MathConfig, RewardConfig, RewardContext, RewardError, RewardKind, Task, Verdict, Verifier,
    WeightedSum,
};
use rollout::{DataConfig, DecodePrecision, KvCache, RolloutConfig, Room};

use super::document::Document;
use super::{
    ConfigError, CreateSection, DeviceKind, EvalSection, PROMPT_TOKENS, ReplayConfig, RunConfig, ScoreConfig,
    SftRunConfig, ToolConfig,
};

/// Refuses what a training run cannot mean, and settles what depends on other sections.
pub(super) fn run(document: &Document, config: &mut RunConfig) -> Result<(), ConfigError> {
    device(document, config.run.device, config.run.threads)?;
    positions(document, config.model.positions_max)?;
    if config.run.steps == 0 {
        return Err(document.error("run.steps", "run.steps: must be given and at least 1"));
    }
    complain(document, "", config.rollout.check())?;
    precision(document, (config.rollout.precision, config.run.device))?;
    mismatch(&mut config.learner, Some(&config.rollout));
    kv_cache(document, (&config.rollout, config.run.device))?;
    complain(document, "", config.learner.check())?;
    complain(document, "", config.queue.check(config.learner.groups_per_step))?;
    complain(document, "", config.optimizer.check())?;
    rewards(document, "", Some(&config.data), &config.rewards)?;
    if !config.eval.rewards.is_empty() {
        rewards(document, "eval.", Some(&config.data), &config.eval.rewards)?;
    }
    correctness(document, &config.learner, &config.rewards)?;
    layer_inputs(document, "learner", (&config.learner.streambp, config.run.device))?;
    kl(document, &config.learner)?;
    eval(document, &config.data, &mut config.eval)?;
    watching(document, config)?;
    writing(document, config.checkpoint.keep_last, config.metrics.completions_every_steps)
}

/// Refuses what a supervised run cannot mean, and settles what depends on other sections.
pub(super) fn sft(document: &Document, config: &mut SftRunConfig) -> Result<(), ConfigError> {
    device(document, config.run.device, config.run.threads)?;
    positions(document, config.model.positions_max)?;
    at_least_one(document, "sft.steps_max", config.sft.steps_max as usize)?;
    at_least_one(document, "sft.batch_size", config.sft.batch_size)?;
    at_least_one(document, "sft.batch_tokens_max", config.sft.batch_tokens_max)?;
    at_least_one(document, "sft.output_tokens_max", config.sft.output_tokens_max)?;
    // The learner names its own section, whose keys these are too.
    let cuts = config.sft.streambp.check().map_err(|error| error.to_string().replacen("learner.", "sft.", 1));
    complain(document, "", cuts)?;
    layer_inputs(document, "sft", (&config.sft.streambp, config.run.device))?;
    complain(document, "", config.optimizer.check())?;
    starting_model(document, config)?;
    demonstrations(document, config)?;
    if config.rewards.is_empty() {
        config.rewards.push(default_correctness(&config.data));
    }
    rewards(document, "", Some(&config.data), &config.rewards)?;
    if !config.eval.rewards.is_empty() {
        let message = "eval.rewards: an sft config is measured by its [[rewards]]; write them there";
        return Err(document.error("eval.rewards", message));
    }
    eval(document, &config.data, &mut config.eval)?;
    stop_accuracy(document, config)?;
    writing(document, config.checkpoint.keep_last, config.metrics.completions_every_steps)
}

/// Refuses what a replay cannot mean. Where the correctness comes from is a matter of the records.
pub(super) fn replay(document: &Document, config: &mut ReplayConfig) -> Result<(), ConfigError> {
    device(document, config.run.device, config.run.threads)?;
    positions(document, config.model.positions_max)?;
    if let Some(rollout) = &config.rollout {
        complain(document, "", rollout.check())?;
    }
    mismatch(&mut config.learner, config.rollout.as_ref());
    complain(document, "", config.learner.check())?;
    complain(document, "", config.optimizer.check())?;
    layer_inputs(document, "learner", (&config.learner.streambp, config.run.device))?;
    kl(document, &config.learner)?;
    if config.learner.advantage.combines_advantages() && config.rewards.is_empty() {
        let key = "learner.advantage.combine";
        return Err(document.error(key, format!("{key}: which rewards? This config has no [[rewards]]")));
    }
    writing(document, config.checkpoint.keep_last, config.metrics.completions_every_steps)
}

/// Refuses rewards that cannot judge rows of a file.
pub(super) fn score(document: &Document, config: &ScoreConfig) -> Result<(), ConfigError> {
    rewards(document, "", config.data.as_ref(), &config.rewards)
}

/// Refuses settings that a command without a config file cannot mean.
pub(super) fn tool(document: &Document, config: &ToolConfig) -> Result<(), ConfigError> {
    device(document, config.run.device, config.run.threads)?;
    positions(document, config.model.positions_max)?;
    at_least_one(document, "rollout.output_tokens_max", config.rollout.output_tokens_max)?;
    complain(document, "", config.rollout.stops().check(config.rollout.output_tokens_max))?;
    sampling(document, "rollout", config.rollout.temperature, config.rollout.top_p)
}

/// Refuses a number of positions that nothing can have.
fn positions(document: &Document, positions_max: Option<usize>) -> Result<(), ConfigError> {
    let key = "model.positions_max";
    match positions_max {
        Some(positions) if !(2..=POSITIONS_MAX).contains(&positions) => {
            let message = format!("{key}: must be from 2 to {POSITIONS_MAX}, got {positions}");
            Err(document.error(key, message))
        }
        _ => Ok(()),
    }
}

fn device(document: &Document, device: DeviceKind, threads: Option<usize>) -> Result<(), ConfigError> {
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

/// Refuses rounded weights where nothing decodes with them.
fn precision(
    document: &Document,
    (precision, device): (DecodePrecision, DeviceKind),
) -> Result<(), ConfigError> {
    if precision == DecodePrecision::F32 || device == DeviceKind::Cpu {
        return Ok(());
    }
    let message = "rollout.precision: only run.device = \"cpu\" decodes with rounded weights; leave it out";
    Err(document.error("rollout.precision", message))
}

/// Settles what is done about the actors' other distribution by how they decode.
fn mismatch(learner: &mut LearnerConfig, rollout: Option<&RolloutConfig>) {
    let rounded = rollout
        .is_some_and(|rollout| rollout.precision != DecodePrecision::F32 || rollout.kv_cache != KvCache::F32);
    let importance = learner.importance.kind;
    learner.mismatch.get_or_insert_with(|| MismatchConfig::by_default(rounded, importance));
}

/// Makes the weighted sum once, with stand-ins for verifiers that only the program around the config knows. The
/// rewards stand in `section`, which is empty or ends with a point.
fn rewards(
    document: &Document,
    section: &str,
    data: Option<&DataConfig>,
    rewards: &[RewardConfig],
) -> Result<(), ConfigError> {
    let task = match data {
        Some(DataConfig::Task(task)) => Some(complain(document, "data.", Task::new(task.clone()))?),
        Some(DataConfig::Jsonl(_)) | None => None,
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

fn correctness(
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

/// Refuses what a device's gradients cannot do with the layers' inputs.
fn layer_inputs(
    document: &Document,
    section: &str,
    (streambp, device): (&StreambpConfig, DeviceKind),
) -> Result<(), ConfigError> {
    if streambp.layer_inputs == LayerInputsPlace::Memory || device == DeviceKind::Cpu {
        return Ok(());
    }
    let key = format!("{section}.streambp.layer_inputs");
    let message = format!("{key}: only run.device = \"cpu\" keeps them elsewhere than in memory as they are");
    Err(document.error(&key, message))
}

/// Refuses caches that only the CPU has, and one without room for a single output.
fn kv_cache(document: &Document, (rollout, device): (&RolloutConfig, DeviceKind)) -> Result<(), ConfigError> {
    let refused = |key: &str, reason: String| Err(document.error(key, format!("{key}: {reason}")));
    let on_cpu = device == DeviceKind::Cpu;
    if rollout.kv_cache != KvCache::F32 && !on_cpu {
        return refused("rollout.kv_cache", "only run.device = \"cpu\" caches in fewer bits".to_owned());
    }
    let key = "rollout.kv_cache_tokens_max";
    let Some(tokens) = rollout.kv_cache_tokens_per_actor() else { return Ok(()) };
    if !on_cpu {
        let reason = "only run.device = \"cpu\" takes memory for its cache as contexts grow".to_owned();
        return refused(key, reason);
    }
    let room = Room::of_tokens(tokens, CACHE_BLOCK_TOKENS);
    let longest = PROMPT_TOKENS + rollout.output_tokens_max;
    if room.holds(longest) {
        return Ok(());
    }
    let least = rollout.actors * room.taken_by(longest) * CACHE_BLOCK_TOKENS;
    refused(
        key,
        format!(
            "{} blocks of {CACHE_BLOCK_TOKENS} tokens for each actor do not hold one output of {} tokens with a prompt \
             of {PROMPT_TOKENS}; it takes at least {least}",
            room.blocks, rollout.output_tokens_max
        ),
    )
}

fn kl(document: &Document, learner: &LearnerConfig) -> Result<(), ConfigError> {
    if learner.kl.enabled && learner.kl.coefficient == 0.0 {
        let message = "learner.kl.coefficient: must be above 0 where learner.kl.enabled = true";
        return Err(document.error("learner.kl.coefficient", message));
    }
    Ok(())
}

fn eval(document: &Document, data: &DataConfig, eval: &mut EvalSection) -> Result<(), ConfigError> {
    match (data, &eval.data) {
        (DataConfig::Task(_), Some(_)) => {
            let message = "eval.data: data.kind = \"task\" makes its own held-out problems; leave it out";
            return Err(document.error("eval.data", message));
        }
        (DataConfig::Jsonl(_), None) => nothing_held_out(document, eval)?,
        _ => {}
    }
    at_least_one(document, "eval.problems", eval.problems)?;
    at_least_one(document, "eval.pass_k", eval.pass_k)?;
    at_least_one(document, "eval.trajectories_open_max", eval.trajectories_open_max)?;
    sampling(document, "eval", eval.temperature, eval.top_p)?;
    if eval.pass_k > 1 && eval.temperature == 0.0 {
        let message = format!(
            "eval.pass_k = {}: at eval.temperature = 0 all answers to a prompt are the same; raise the temperature",
            eval.pass_k
        );
        return Err(document.error("eval.pass_k", message));
    }
    Ok(())
}

/// Without held-out data the measurements that are on by default are off; one that was asked for is refused.
fn nothing_held_out(document: &Document, eval: &mut EvalSection) -> Result<(), ConfigError> {
    let asked = [
        ("eval.before", eval.before),
        ("eval.after", eval.after),
        ("eval.every_steps", eval.every_steps > 0),
    ];
    for (key, is_on) in asked {
        if is_on && document.is_given(key) {
            let message =
                format!("{key}: there is nothing to measure on; name held-out prompts with eval.data");
            return Err(document.error(key, message));
        }
    }
    (eval.before, eval.after) = (false, false);
    Ok(())
}

fn sampling(document: &Document, section: &str, temperature: f64, top_p: f64) -> Result<(), ConfigError> {
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

fn writing(document: &Document, keep_last: usize, completions_every: u64) -> Result<(), ConfigError> {
    at_least_one(document, "checkpoint.keep_last", keep_last)?;
    at_least_one(document, "metrics.completions_every_steps", completions_every as usize)
}

fn watching(document: &Document, config: &RunConfig) -> Result<(), ConfigError> {
    let (watchdog, alarms) = (&config.watchdog, &config.alarms);
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

fn starting_model(document: &Document, config: &SftRunConfig) -> Result<(), ConfigError> {
    let create = match (&config.model.path, &config.model.create) {
        (Some(_), None) => return Ok(()),
        (None, Some(_)) if config.model.positions_max.is_some() => {
            let key = "model.positions_max";
            let message = format!("{key}: a new model has model.create.max_positions; leave it out");
            return Err(document.error(key, message));
        }
        (None, Some(create)) => create,
        _ => {
            let message = "[model] needs either path (a model to go on with) or [model.create] (a new one)";
            return Err(document.error("model", message));
        }
    };
    if !matches!(config.data, DataConfig::Task(_)) {
        let message =
            "model.create: a new model knows the alphabet of the tasks only, so data.kind must be \"task\"";
        return Err(document.error("model.create", message));
    }
    shape(document, create)
}

fn shape(document: &Document, create: &CreateSection) -> Result<(), ConfigError> {
    for (key, value) in [
        ("hidden", create.hidden),
        ("layers", create.layers),
        ("heads", create.heads),
        ("kv_heads", create.kv_heads),
        ("intermediate", create.intermediate),
        ("max_positions", create.max_positions),
    ] {
        at_least_one(document, &format!("model.create.{key}"), value)?;
    }
    // The two halves of a head are rotated against each other.
    if !create.hidden.is_multiple_of(2 * create.heads) {
        let message = format!(
            "model.create.heads: {} heads of an even width do not divide hidden = {}",
            create.heads, create.hidden
        );
        return Err(document.error("model.create.heads", message));
    }
    if !create.heads.is_multiple_of(create.kv_heads) {
        let message =
            format!("model.create.kv_heads: {} does not divide heads = {}", create.kv_heads, create.heads);
        return Err(document.error("model.create.kv_heads", message));
    }
    if !(create.rope_theta.is_finite() && create.rope_theta > 0.0) {
        let message = format!("model.create.rope_theta: must be above 0, got {}", create.rope_theta);
        return Err(document.error("model.create.rope_theta", message));
    }
    Ok(())
}

fn demonstrations(document: &Document, config: &SftRunConfig) -> Result<(), ConfigError> {
    let phase_steps: u64 = config.sft.phases.iter().map(|phase| phase.steps).sum();
    if phase_steps > config.sft.steps_max {
        let message =
            format!("sft.phases: {phase_steps} steps together, but sft.steps_max = {}", config.sft.steps_max);
        return Err(document.error("sft.phases", &message));
    }
    for styles in config.sft.phases.iter().filter_map(|phase| phase.demonstrations.as_ref()) {
        complain(document, "sft.phases.demonstrations.", styles.check())?;
    }
    match (&config.data, &config.sft.demonstrations) {
        (DataConfig::Task(_), Some(styles)) => complain(document, "sft.demonstrations.", styles.check()),
        (DataConfig::Task(_), None) => {
            let message =
                "[sft.demonstrations] is missing: data.kind = \"task\" needs the weights of the styles";
            Err(document.error("sft", message))
        }
        (DataConfig::Jsonl(_), Some(_)) => {
            let message =
                "sft.demonstrations: data.kind = \"jsonl\" has its demonstrations in the file; leave it out";
            Err(document.error("sft.demonstrations", message))
        }
        (DataConfig::Jsonl(_), None) => Ok(()),
    }
}

fn stop_accuracy(document: &Document, config: &SftRunConfig) -> Result<(), ConfigError> {
    let Some(accuracy) = config.sft.stop_accuracy else { return Ok(()) };
    if !(accuracy > 0.0 && accuracy <= 1.0) {
        let message = format!("sft.stop_accuracy: must be above 0 and at most 1, got {accuracy}");
        return Err(document.error("sft.stop_accuracy", message));
    }
    if config.eval.every_steps == 0 {
        let message = "sft.stop_accuracy: nothing is measured on the way; set eval.every_steps";
        return Err(document.error("sft.stop_accuracy", message));
    }
    Ok(())
}

/// A task judges its own problems; other data has the reference answers that mathematics is compared with.
fn default_correctness(data: &DataConfig) -> RewardConfig {
    let kind = match data {
        DataConfig::Task(_) => RewardKind::Task {},
        DataConfig::Jsonl(_) => RewardKind::Math(MathConfig::default()),
    };
    RewardConfig::new(kind, 1.0, true)
}

fn at_least_one(document: &Document, key: &str, value: usize) -> Result<(), ConfigError> {
    if value >= 1 { Ok(()) } else { Err(document.error(key, format!("{key}: must be at least 1, got 0"))) }
}

/// Gives a crate's complaint, `key: reason`, its place in the file.
fn complain<T, E: Display>(
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

/// Makes the paths of a train config absolute, so that the resolved config holds wherever it is read.
pub(super) fn find_paths(
    document: &Document,
    file: &Path,
    config: &mut RunConfig,
) -> Result<(), ConfigError> {
    let find = Finder { document, file };
    find.replace("model.path", &mut config.model.path)?;
    if let DataConfig::Jsonl(data) = &mut config.data {
        find.replace("data.path", &mut data.path)?;
    }
    find.commands(&mut config.rewards);
    find.commands(&mut config.eval.rewards);
    find.replace_given("eval.data", &mut config.eval.data)?;
    find.replace_given("learner.streambp.layer_inputs_dir", &mut config.learner.streambp.layer_inputs_dir)?;
    find.replace_given("learner.kl.reference", &mut config.learner.kl.reference)
}

/// Finds the files that plugins are started with.
pub(super) fn find_commands(document: &Document, file: &Path, rewards: &mut [RewardConfig]) {
    Finder { document, file }.commands(rewards);
}

/// Makes the paths of an sft config absolute.
pub(super) fn find_sft_paths(
    document: &Document,
    file: &Path,
    config: &mut SftRunConfig,
) -> Result<(), ConfigError> {
    let find = Finder { document, file };
    find.replace_given("model.path", &mut config.model.path)?;
    if let DataConfig::Jsonl(data) = &mut config.data {
        find.replace("data.path", &mut data.path)?;
    }
    find.replace_given("sft.streambp.layer_inputs_dir", &mut config.sft.streambp.layer_inputs_dir)?;
    find.replace_given("eval.data", &mut config.eval.data)
}

/// Makes the paths of a replay absolute.
pub(super) fn find_replay_paths(
    document: &Document,
    file: &Path,
    config: &mut ReplayConfig,
) -> Result<(), ConfigError> {
    let find = Finder { document, file };
    find.replace("model.path", &mut config.model.path)?;
    find.replace_given("learner.streambp.layer_inputs_dir", &mut config.learner.streambp.layer_inputs_dir)?;
    find.replace_given("learner.kl.reference", &mut config.learner.kl.reference)
}

/// Finds what a relative path means: from the current directory first, then from the config file's own folder.
struct Finder<'a> {
    document: &'a Document,
    file: &'a Path,
}

impl Finder<'_> {
    fn replace(&self, key: &str, path: &mut PathBuf) -> Result<(), ConfigError> {
        let beside = self.file.parent().unwrap_or(Path::new("")).join(&*path);
        if let Ok(found) = path.canonicalize().or_else(|_| beside.canonicalize()) {
            *path = found;
            return Ok(());
        }
        let mut message = format!("{key}: there is no {}", path.display());
        if beside != *path {
            message = format!("{message} (nor {})", beside.display());
        }
        if key == "model.path" && is_hub_name(path) {
            let name = path.display();
            message = format!(
                "{message}; a name on the Hugging Face Hub? Download it first (hf download {name} --local-dir DIR)"
            );
        }
        Err(self.document.error(key, message))
    }

    /// A word of a plugin's command that is no file from the current directory, but one beside the config, is that.
    fn commands(&self, rewards: &mut [RewardConfig]) {
        let folder = self.file.parent().unwrap_or(Path::new(""));
        for reward in rewards {
            let RewardKind::Process(process) = &mut reward.kind else { continue };
            for word in process.command.iter_mut().filter(|word| !Path::new(word).is_file()) {
                let beside = folder.join(&*word);
                if let Some(found) = beside.canonicalize().ok().filter(|path| path.is_file()) {
                    *word = found.to_string_lossy().into_owned();
                }
            }
        }
    }

    fn replace_given(&self, key: &str, path: &mut Option<PathBuf>) -> Result<(), ConfigError> {
        path.as_mut().map_or(Ok(()), |path| self.replace(key, path))
    }
}

/// Whether a path could be the name of a model on the hub: an owner and a name.
fn is_hub_name(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.split_once('/').is_some_and(|(owner, name)| {
        !owner.is_empty() && !owner.starts_with(['.', '~']) && !name.is_empty() && !name.contains('/')
    })
}

#[cfg(test)]
mod tests {
    use super::{
        DecodePrecision, DeviceKind, Document, KvCache, LayerInputsPlace, RolloutConfig, StreambpConfig,
        kv_cache, layer_inputs, precision,
    };

    #[test]
    fn other_devices_decode_in_f32() {
        let complaint =
            |bits, device| precision(&Document::empty(), (bits, device)).map_err(|error| error.to_string());
        assert_eq!(complaint(DecodePrecision::F32, DeviceKind::Cuda), Ok(()));
        assert_eq!(complaint(DecodePrecision::I8, DeviceKind::Cpu), Ok(()));
        let message = complaint(DecodePrecision::Bf16, DeviceKind::Cuda).unwrap_err();
        assert!(message.contains("rollout.precision: only run.device = \"cpu\""), "{message}");
    }

    #[test]
    fn other_devices_keep_layer_inputs_in_memory() {
        let complaint = |place, device| {
            let streambp = StreambpConfig { layer_inputs: place, ..StreambpConfig::default() };
            layer_inputs(&Document::empty(), "sft", (&streambp, device)).map_err(|error| error.to_string())
        };
        assert_eq!(complaint(LayerInputsPlace::Memory, DeviceKind::Cuda), Ok(()));
        assert_eq!(complaint(LayerInputsPlace::File, DeviceKind::Cpu), Ok(()));
        let message = complaint(LayerInputsPlace::Bf16, DeviceKind::Cuda).unwrap_err();
        assert!(message.contains("sft.streambp.layer_inputs: only run.device = \"cpu\""), "{message}");
    }

    #[test]
    fn caches_are_rounded_and_bounded_on_the_cpu_and_hold_an_output() {
        let text = "output_tokens_max = 64\nsegments_max = 4\ntrajectories_open_max = 4\nactors = 2\n\
                    group_size = 2\ntemperature = 1.0";
        let plain: RolloutConfig = toml::from_str(text).unwrap();
        let complaint = |rollout: &RolloutConfig, device| {
            kv_cache(&Document::empty(), (rollout, device)).map_err(|error| error.to_string())
        };
        assert_eq!(complaint(&plain, DeviceKind::Cuda), Ok(()));
        let rounded = RolloutConfig { kv_cache: KvCache::Bf16, ..plain.clone() };
        assert_eq!(complaint(&rounded, DeviceKind::Cpu), Ok(()));
        let message = complaint(&rounded, DeviceKind::Cuda).unwrap_err();
        assert!(message.contains("rollout.kv_cache: only run.device = \"cpu\""), "{message}");
        let bounded = |tokens| RolloutConfig { kv_cache_tokens_max: Some(tokens), ..plain.clone() };
        // An output of 64 and a prompt of 64 are two blocks, for each of two actors.
        assert_eq!(complaint(&bounded(256), DeviceKind::Cpu), Ok(()));
        let message = complaint(&bounded(255), DeviceKind::Cpu).unwrap_err();
        assert!(message.contains("rollout.kv_cache_tokens_max: 1 blocks of 64"), "{message}");
        assert!(message.ends_with("it takes at least 256"), "{message}");
        let message = complaint(&bounded(256), DeviceKind::Cuda).unwrap_err();
        assert!(message.contains("rollout.kv_cache_tokens_max: only run.device = \"cpu\""), "{message}");
    }
}
