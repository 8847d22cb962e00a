//! Doubles for this crate's tests: a model directory with a tokenizer of a few characters, a generator that
//! follows a script, and a verifier that counts letters.

use std::sync::Arc;

use rewards::{Answer, RewardError, Split, TruncatedReward, Verdict, Verifier, WeightedSum};
use serde_json::Map;
use trajectory::{
    Completion, CompletionRecord, Context, Finish, Group, Prompt, Reward, ScoredCompletion, Segment, Source,
    Span, Token,
};

use crate::actor::ActorContext;
use crate::config::{QueueConfig, RolloutConfig};
use crate::ends::Ends;
use crate::error::{GeneratorError, RolloutError};
use crate::generator::{Drawn, Generator, SegmentRequest};
use crate::heartbeat::Heartbeats;
use crate::ledger::admission::Admission;
use crate::ledger::local::LocalLedger;
use crate::ledger::state::RolloutState;
use crate::modes::Single;
use crate::prompt::{DataConfig, JsonlConfig, Needs, PromptSource};
use crate::scheduler::Pacing;
use crate::scorer::Scorer;
use crate::sync::{Mutex, lock};
use crate::text::Text;
use crate::weights::{Notify, Versioned, WeightsCell};

/// A directory with a character-level tokenizer: `<eos>` 0, `<unk>` 1, `a` to `e` 2 to 6.
pub(crate) struct TextFiles(tempfile::TempDir);

impl TextFiles {
    pub(crate) fn new() -> Self {
        let files = Self(tempfile::tempdir().expect("a temporary directory"));
        files.write("tokenizer.json", TOKENIZER);
        files.write("tokenizer_config.json", r#"{"eos_token": "<eos>"}"#);
        files
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        std::fs::write(self.0.path().join(name), content).expect("the directory is ours");
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.0.path().join(name)).expect("the file is there");
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    pub(crate) fn load(&self) -> Result<Text, RolloutError> {
        Text::load(self.0.path())
    }
}

pub(crate) fn text() -> Arc<Text> {
    Arc::new(TextFiles::new().load().expect("the tokenizer is well formed"))
}

const TOKENIZER: &str = r#"{
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [
    {"id": 0, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false,
     "normalized": false, "special": true}
  ],
  "normalizer": null,
  "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
  "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "merges": [],
            "vocab": {"<eos>": 0, "<unk>": 1, "a": 2, "b": 3, "c": 4, "d": 5, "e": 6}}
}"#;

/// A prompt of two tokens.
pub(crate) fn prompt(index: u64) -> Arc<Prompt> {
    Arc::new(Prompt {
        index,
        id: format!("test:{index}"),
        text: "ab".to_string(),
        tokens: vec![2, 3],
        references: Vec::new(),
        fields: Map::new(),
    })
}

/// A group whose members have one segment each, of the given (version, tokens).
pub(crate) fn group(id: u64, members: &[(u64, usize)]) -> Group {
    let prompt = prompt(id);
    let member = |member: usize, version: u64, tokens: usize| ScoredCompletion {
        completion: Completion {
            prompt: prompt.clone(),
            group: id,
            member: member as u32,
            contexts: vec![answered(&prompt, version, tokens)],
            finish: Finish::Eos,
            stop_reason: None,
            text: "ab".to_string(),
        },
        reward: Reward { total: 1.0, correctness: Some(1), parts: [("letters".to_string(), 1.0)].into() },
    };
    let members = members.iter().enumerate();
    let completions = members.map(|(place, (version, tokens))| member(place, *version, *tokens)).collect();
    Group::new(id, prompt.clone(), completions)
}

/// The prompt, and so many tokens behind it.
fn answered(prompt: &Prompt, version: u64, tokens: usize) -> Context {
    let mut context = Context::given(Source::Prompt, prompt.tokens.clone());
    let tokens = (0..tokens).map(token).collect();
    context.spans.push(Span::Drawn(Segment { version, tokens, drawn_at: None }));
    context
}

fn token(place: usize) -> Token {
    Token { id: 2 + place as u32 % 5, logprob: -0.5 - 0.25 * place as f32 }
}

pub(crate) fn admission(groups_per_step: u64, staleness_versions_max: u64) -> Arc<Admission> {
    Arc::new(Admission::new(Pacing { groups_per_step, staleness_versions_max }, Notify::new()))
}

pub(crate) fn rollout_config(
    slots: usize,
    segment: usize,
    segments: usize,
    group_size: usize,
) -> RolloutConfig {
    let config = serde_json::json!({
        "output_tokens_max": segment * segments, "segments_max": segments, "trajectories_open_max": slots,
        "group_size": group_size, "temperature": 1.0, "on_update": "recompute", "versions_open_max": u64::MAX,
        "precision": "f32", "kv_cache": "f32", "truncated_reward": "zero",
    });
    serde_json::from_value(config).expect("a whole section")
}

/// Everything around actors, with four prompts of two tokens and weights that are their own version, from the beginning
/// of a run and with much room in the queue.
pub(crate) fn context(
    config: RolloutConfig,
    seed: u64,
    groups_per_step: u64,
    staleness_versions_max: u64,
) -> Arc<ActorContext<u64>> {
    let queue = QueueConfig { groups_max: 1000, staleness_versions_max };
    let start = Start { version: 0, queue, state: &RolloutState::default() };
    context_at(config, seed, Pacing { groups_per_step, staleness_versions_max }, start).0
}

/// Where a run begins.
pub(crate) struct Start<'a> {
    pub(crate) version: u64,
    pub(crate) queue: QueueConfig,
    pub(crate) state: &'a RolloutState,
}

/// As [`context`], with weights of this version, and the ledger, whose groups on the way are those of a state.
pub(crate) fn context_at(
    config: RolloutConfig,
    seed: u64,
    pacing: Pacing,
    start: Start<'_>,
) -> (Arc<ActorContext<u64>>, Arc<LocalLedger>) {
    let Start { version, queue, state } = start;
    let files = TextFiles::new();
    let lines = ["ab", "cd", "bb", "ca"].map(|text| format!("{{\"prompt\": \"{text}\"}}\n")).concat();
    files.write("prompts.jsonl", &lines);
    let path = files.path().join("prompts.jsonl");
    let data = DataConfig::File(JsonlConfig::new(path));
    let text = text();
    let notify = Notify::new();
    let ends = Ends::new(text.clone(), config.stops(), 7).expect("stops of the seven tokens");
    let ledger = Arc::new(LocalLedger::restored(pacing, queue, notify.clone(), state));
    let context = Arc::new(ActorContext {
        config,
        seed,
        prompts: PromptSource::open(&data, Split::Train, seed, text.clone(), &Needs::default())
            .expect("four good lines")
            .0,
        scorer: Scorer::new(text, letters()).with_ends(ends),
        weights: Arc::new(WeightsCell::new(version, Arc::new(version), notify)),
        ledger: ledger.clone(),
        mode: Arc::new(Single),
        heartbeats: Heartbeats::default(),
    });
    (context, ledger)
}

/// Counts the letter `a`, tells the number of tokens, fails on the letter `e`, and skips a group for an unknown
/// token.
struct Letters;

impl Verifier for Letters {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        if answer.completion.contains('e') {
            return Err(RewardError::Custom("the letter e".to_string()));
        }
        if answer.completion.contains("<unk>") {
            return Err(RewardError::SkipGroup { reason: "an unknown token".to_string() });
        }
        let value = answer.completion.matches('a').count() as f64;
        Ok(Verdict {
            value,
            parts: [("tokens".to_string(), answer.tokens as f64)].into(),
            ..Verdict::default()
        })
    }
}

/// Rewards by the verifier of letters, in full for truncated completions too.
pub(crate) fn letters() -> WeightedSum {
    let sum = WeightedSum::new(TruncatedReward::Scored);
    sum.with_verifier("letters", 1.0, false, Box::new(Letters)).expect("the only reward")
}

/// The groups as a recording has them.
pub(crate) fn records(groups: &[Group]) -> Vec<String> {
    let scored = groups.iter().flat_map(|group| &group.completions);
    let record = |scored: &ScoredCompletion| {
        let record = CompletionRecord::of(scored);
        // Each run of a test has its prompts in a folder of its own.
        let file = |id: String| id.rsplit('/').next().unwrap_or_default().to_string();
        let record = CompletionRecord { prompt_id: record.prompt_id.clone().map(file), ..record };
        serde_json::to_string(&record).expect("plain numbers")
    };
    scored.map(record).collect()
}

/// A generator that draws letters `a` to `d` by the random key and ends each trajectory at a length by
/// script. It checks how it is called and writes down what it drew. Clones share that log and nothing else.
#[derive(Clone)]
pub(crate) struct Script {
    length: Arc<dyn Fn(u64, u32) -> usize + Send + Sync>,
    slots: Vec<Option<Part>>,
    log: Arc<Mutex<Vec<Draw>>>,
    /// Whether each cache that a segment met on its slot was to be rebuilt.
    rebuilt: Arc<Mutex<Vec<bool>>>,
    steps: usize,
    /// Drawn instead of a scripted log-prob.
    pub(crate) logprob: Option<f32>,
    /// The step that is an error.
    pub(crate) fails_at_step: Option<usize>,
    /// The group that is answered in unknown tokens, so that it gets no verdict.
    pub(crate) unscored_group: Option<u64>,
    /// Tokens of a block of the cache, and the most blocks that all contexts may have together.
    pub(crate) cache: (usize, usize),
    /// The group that is answered with the letter that makes the verifier fail.
    pub(crate) unjudged_group: Option<u64>,
}

/// A trajectory on a slot.
#[derive(Clone)]
struct Part {
    group: u64,
    member: u32,
    key: u64,
    version: u64,
    length: usize,
    prompt_tokens: usize,
    context: Vec<u32>,
    /// Whether a segment is open.
    open: bool,
}

/// A token as it was drawn.
#[derive(Debug, Clone, Copy)]
struct Draw {
    step: usize,
    slot: usize,
    group: u64,
    member: u32,
    version: u64,
    token: Token,
}

impl Script {
    /// `length` of (group, member) is the number of tokens after which it stops, the end of output included.
    pub(crate) fn new(slots: usize, length: impl Fn(u64, u32) -> usize + Send + Sync + 'static) -> Self {
        Self {
            length: Arc::new(length),
            slots: vec![None; slots],
            log: Arc::default(),
            rebuilt: Arc::default(),
            steps: 0,
            logprob: None,
            fails_at_step: None,
            unscored_group: None,
            cache: (1, usize::MAX),
            unjudged_group: None,
        }
    }

    /// (slot, group, member) of the draws in a step, from 0.
    pub(crate) fn drawn_in_step(&self, step: usize) -> Vec<(usize, u64, u32)> {
        let log = lock(&self.log);
        log.iter().filter(|draw| draw.step == step).map(|draw| (draw.slot, draw.group, draw.member)).collect()
    }

    /// The tokens of a trajectory.
    pub(crate) fn drawn_for(&self, group: u64, member: u32) -> Vec<Token> {
        self.draws(group, member).iter().map(|draw| draw.token).collect()
    }

    /// The tokens that were drawn in all.
    pub(crate) fn tokens_drawn(&self) -> usize {
        lock(&self.log).len()
    }

    /// Whether the caches that segments met on their slots were to be rebuilt, in order.
    pub(crate) fn rebuilt(&self) -> Vec<bool> {
        lock(&self.rebuilt).clone()
    }

    /// The version that drew each token of a trajectory.
    pub(crate) fn versions_drawn(&self, group: u64, member: u32) -> Vec<u64> {
        self.draws(group, member).iter().map(|draw| draw.version).collect()
    }

    fn draws(&self, group: u64, member: u32) -> Vec<Draw> {
        let log = lock(&self.log);
        log.iter().filter(|draw| (draw.group, draw.member) == (group, member)).copied().collect()
    }
}

impl Generator for Script {
    type Weights = u64;

    fn begin(
        &mut self,
        slot: usize,
        request: SegmentRequest<'_>,
        weights: &Versioned<u64>,
    ) -> Result<(), GeneratorError> {
        assert_eq!(*weights.weights, weights.version, "weights and version come together");
        let (group, member) = (request.trajectory.group, request.trajectory.member);
        match &self.slots[slot] {
            // Invariant 2: the ids are carried on as they were drawn.
            Some(part) => {
                assert_eq!((part.group, part.member), (group, member), "slot {slot} was not released");
                assert!(!part.open, "a segment of slot {slot} is open");
                assert_eq!(part.context, request.context());
                assert_eq!(request.version_before(), Some(part.version));
                assert_eq!(request.first_token_index() as usize, part.context.len() - part.prompt_tokens);
                assert!(request.kept || part.version != weights.version, "nothing made the cache old");
                lock(&self.rebuilt).push(!request.kept);
            }
            None => assert_eq!((request.version_before(), request.kept), (None, false)),
        }
        self.slots[slot] = Some(Part {
            group,
            member,
            key: request.random_key,
            version: weights.version,
            length: (self.length)(group, member),
            prompt_tokens: request.prompt.tokens.len(),
            context: request.context(),
            open: true,
        });
        Ok(())
    }

    fn step(&mut self) -> Result<Vec<Drawn>, GeneratorError> {
        if self.fails_at_step == Some(self.steps) {
            return Err(GeneratorError::new("the script ends here"));
        }
        let mut drawn = Vec::new();
        for (slot, part) in self.slots.iter_mut().enumerate() {
            let Some(part) = part else { continue };
            assert!(part.open, "slot {slot} is neither begun again nor released");
            let index = part.context.len() - part.prompt_tokens;
            let random = part.key.rotate_left(index as u32 * 7);
            let id = match index + 1 == part.length {
                true => 0,
                false if self.unscored_group == Some(part.group) => 1,
                false if self.unjudged_group == Some(part.group) => 6,
                false => 2 + (random % 4) as u32,
            };
            let token = Token { id, logprob: self.logprob.unwrap_or(-((random % 1000) as f32) / 300.0) };
            part.context.push(id);
            let Part { group, member, version, .. } = *part;
            lock(&self.log).push(Draw { step: self.steps, slot, group, member, version, token });
            drawn.push(Drawn { slot, token });
        }
        let parts = self.slots.iter().flatten();
        let blocks: usize = parts.map(|part| part.context.len().div_ceil(self.cache.0)).sum();
        assert!(blocks <= self.cache.1, "{blocks} blocks of at most {}", self.cache.1);
        self.steps += 1;
        // The order of the answers is not promised.
        drawn.reverse();
        Ok(drawn)
    }

    fn end_segment(&mut self, slot: usize) {
        let part = self.slots[slot].as_mut().expect("a segment was begun");
        assert!(std::mem::replace(&mut part.open, false), "a segment of slot {slot} ends twice");
    }

    fn release(&mut self, slot: usize) {
        assert!(self.slots[slot].take().is_some(), "slot {slot} is released twice");
    }

    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn cache_block_tokens(&self) -> usize {
        self.cache.0
    }
}
