//! A rollout mode from outside the crate: after its first end a trajectory goes on in a second context, which begins
//! with tokens that the mode gave. Everything here goes through what the crate exports.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rewards::{Answer, RewardError, Split, TruncatedReward, Verdict, Verifier, WeightedSum};
use rollout::{
    Actor, ActorContext, DataConfig, Drawn, Generator, GeneratorError, Heartbeats, JsonlConfig, LocalLedger,
    LockstepSchedule, Needs, Next, Notify, Pacing, PromptSource, QueueConfig, ReplayQueue, Reply,
    RolloutConfig, RolloutMode, Scorer, SegmentRequest, StepRequest, Text, Ticket, Versioned, WeightsCell,
};
use trajectory::{Context, Finish, Group, Source, Span, Token, Trajectory};

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

/// Carries the last two tokens before the end into a second context, behind a token of its own.
#[derive(Debug)]
struct CarryOnce;

const CARRIED: u32 = 6;

impl RolloutMode for CarryOnce {
    fn next(&self, so_far: &Trajectory, end: Finish) -> Next {
        assert_eq!(end, Finish::Eos, "nothing else is drawn at an end here");
        if so_far.contexts.len() == 2 {
            return Next::Done;
        }
        let ids = so_far.context_ids();
        Next::NewContext([&[CARRIED], &ids[ids.len() - 3..ids.len() - 1]].concat())
    }
}

/// Asks a tool after the first end, whose answer is there at the third time of asking.
#[derive(Debug, Default)]
struct SlowTool(Mutex<BTreeMap<Ticket, u32>>);

impl RolloutMode for SlowTool {
    fn next(&self, so_far: &Trajectory, _: Finish) -> Next {
        let is_tool = |span: &Span| matches!(span, Span::Given { by: Source::Environment, .. });
        match so_far.contexts[0].spans.iter().any(is_tool) {
            false => Next::Wait(Ticket(u64::from(so_far.member))),
            true => Next::Done,
        }
    }

    fn answer(&self, ticket: Ticket) -> Option<Reply> {
        let mut asked = self.0.lock().expect("no panic");
        let times = asked.entry(ticket).or_default();
        *times += 1;
        (*times == 3).then(|| Reply::Append(vec![CARRIED, 5]))
    }
}

/// How a segment was begun.
struct Begun {
    context: Vec<u32>,
    first_token_index: u64,
    cached: bool,
}

/// Draws `b` and ends each context after four tokens. It writes down the contexts that it is given.
#[derive(Default)]
struct FourEach {
    slots: Vec<Option<usize>>,
    begun: Arc<Mutex<Vec<Begun>>>,
}

impl Generator for FourEach {
    type Weights = ();

    fn begin(
        &mut self,
        slot: usize,
        request: SegmentRequest<'_>,
        _: &Versioned<()>,
    ) -> Result<(), GeneratorError> {
        let drawn = request.trajectory.context().segments().map(|segment| segment.tokens.len()).sum();
        self.slots[slot] = Some(drawn);
        let begun = Begun {
            context: request.context(),
            first_token_index: request.first_token_index(),
            cached: request.cached,
        };
        self.begun.lock().expect("no panic").push(begun);
        Ok(())
    }

    fn step(&mut self) -> Result<Vec<Drawn>, GeneratorError> {
        let slots = self.slots.iter_mut().enumerate();
        Ok(slots
            .filter_map(|(slot, drawn)| {
                let drawn = drawn.as_mut()?;
                *drawn += 1;
                let id = if *drawn == 4 { 0 } else { 3 };
                Some(Drawn { slot, token: Token { id, logprob: -0.25 } })
            })
            .collect())
    }

    fn end_segment(&mut self, _: usize) {}

    fn release(&mut self, slot: usize) {
        self.slots[slot] = None;
    }

    fn slots(&self) -> usize {
        self.slots.len()
    }
}

struct Length;

impl Verifier for Length {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        Ok(Verdict::from(answer.completion.len() as f64))
    }
}

fn rollout_config() -> RolloutConfig {
    let config = serde_json::json!({
        "output_tokens_max": 12, "segments_max": 4, "trajectories_open_max": 2, "group_size": 2, "temperature": 1.0,
        "on_update": "recompute", "versions_open_max": u64::MAX, "truncated_reward": "zero",
    });
    serde_json::from_value(config).expect("a whole section")
}

fn context(
    folder: &std::path::Path,
    mode: Arc<dyn RolloutMode>,
) -> (Arc<ActorContext<()>>, Arc<ReplayQueue>) {
    let write = |name: &str, content: &str| std::fs::write(folder.join(name), content).expect("a folder");
    write("tokenizer.json", TOKENIZER);
    write("tokenizer_config.json", r#"{"eos_token": "<eos>"}"#);
    write("prompts.jsonl", "{\"prompt\": \"ac\"}\n");
    let text = Arc::new(Text::load(folder).expect("a tokenizer"));
    let data = DataConfig::File(JsonlConfig::new(folder.join("prompts.jsonl")));
    let prompts = PromptSource::open(&data, Split::Train, 1, text.clone(), &Needs::default());
    let rewards = WeightedSum::new(TruncatedReward::Scored);
    let rewards = rewards.with_verifier("length", 1.0, false, Box::new(Length)).expect("one reward");
    let notify = Notify::new();
    let pacing = Pacing { groups_per_step: 1, staleness_versions_max: 0 };
    let queue = QueueConfig { groups_max: 1, staleness_versions_max: 0 };
    let ledger = Arc::new(LocalLedger::new(pacing, queue, notify.clone()));
    let queue = Arc::clone(ledger.queue());
    let context = Arc::new(ActorContext {
        config: rollout_config(),
        seed: 1,
        prompts: prompts.expect("one line").0,
        scorer: Scorer::new(text, rewards),
        weights: Arc::new(WeightsCell::new(0, Arc::new(()), notify)),
        ledger,
        mode,
        heartbeats: Heartbeats::default(),
    });
    (context, queue)
}

fn first_group(folder: &std::path::Path, generator: FourEach, mode: Arc<dyn RolloutMode>) -> Group {
    let (context, queue) = context(folder, mode);
    let actor = Actor::new(context, 0, generator);
    let mut lockstep = LockstepSchedule::new(vec![actor], Vec::new());
    lockstep.take(&queue, &StepRequest::of(1), 0).expect("no failure").remove(0)
}

#[test]
fn a_second_context_begins_with_what_the_mode_carries() {
    let folder = tempfile::tempdir().expect("a folder");
    let begun = Arc::default();
    let generator = FourEach { slots: vec![None; 2], begun: Arc::clone(&begun) };
    let group = first_group(folder.path(), generator, Arc::new(CarryOnce));
    for scored in &group.completions {
        let contexts = &scored.completion.contexts;
        let ids: Vec<Vec<u32>> = contexts.iter().map(|context| context.ids().collect()).collect();
        assert_eq!(ids, [vec![2, 4, 3, 3, 3, 0], vec![CARRIED, 3, 3, 3, 3, 3, 0]]);
        let given = Span::Given { by: Source::Mode, ids: vec![CARRIED, 3, 3] };
        assert_eq!(contexts[1].spans[0], given);
        // Invariant 2: a loss sees what was drawn in both contexts, and neither the prompt nor what was carried.
        let drawn = contexts.iter().flat_map(Context::drawn_ranges);
        assert_eq!(drawn.collect::<Vec<_>>(), [2..6, 3..7]);
        assert_eq!(scored.completion.token_ids(), [3, 3, 3, 0, 3, 3, 3, 0]);
        assert_eq!(scored.completion.text, "bbbbbb");
    }
    // The slot's cache is not that of the second context, and the random numbers go on where they were.
    let begun = begun.lock().expect("no panic");
    let is_second = |begun: &&Begun| begun.context == [CARRIED, 3, 3];
    let second: Vec<&Begun> = begun.iter().filter(is_second).collect();
    assert_eq!(second.len(), 2);
    assert!(second.iter().all(|begun| begun.first_token_index == 4 && !begun.cached));
}

/// Both members wait for the tool at the same time, so that nothing is decoded until it answers.
#[test]
fn an_answer_that_comes_later_is_waited_for_without_a_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let begun = Arc::default();
    let generator = FourEach { slots: vec![None; 2], begun: Arc::clone(&begun) };
    let tool = Arc::new(SlowTool::default());
    let group = first_group(folder.path(), generator, tool.clone());
    for scored in &group.completions {
        let [context] = &scored.completion.contexts[..] else { panic!("one context") };
        assert!(context.spans.contains(&Span::Given { by: Source::Environment, ids: vec![CARRIED, 5] }));
        // Invariant 2: what the tool wrote is not among what a loss may look at.
        assert_eq!(context.drawn_ranges(), [2..6, 8..16]);
        assert_eq!(scored.completion.finish, Finish::Length);
    }
    let begun = begun.lock().expect("no panic");
    let behind_tool: Vec<&Begun> =
        begun.iter().filter(|begun| begun.context.ends_with(&[CARRIED, 5])).collect();
    assert_eq!(behind_tool.len(), 2);
    assert!(behind_tool.iter().all(|begun| !begun.cached && begun.first_token_index == 4));
    assert!(tool.0.lock().expect("no panic").values().all(|times| *times == 3), "an answer is taken once");
}

// Invariant 2 and 9: contexts and what was given come back from a recording as they were.
#[test]
fn two_contexts_survive_being_recorded() {
    let folder = tempfile::tempdir().expect("a folder");
    let generator = FourEach { slots: vec![None; 2], ..FourEach::default() };
    let group = first_group(folder.path(), generator, Arc::new(CarryOnce));
    let mut lines = Vec::new();
    trajectory::write_group(&mut lines, &group).expect("memory has room");
    let path = folder.path().join("recorded.jsonl");
    std::fs::write(&path, lines).expect("a folder");
    let read = trajectory::read_groups(&path).expect("our own lines");
    for (before, after) in group.completions.iter().zip(&read[0].completions) {
        assert_eq!(before.completion.contexts, after.completion.contexts);
    }
}
