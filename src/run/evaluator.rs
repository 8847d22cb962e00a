//! Held-out prompts answered and judged: during training, after it, and by `longhaul eval`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Result;
use kernels::sampling::SamplingConfig;
use kernels::{CachePrecision, CacheRoom, DecoderConfig, Engine};
use rollout::{
    Completion, Ends, EvaluationParts, EvaluationPlan, Heartbeat, MinTokens, OutputLimits, Prompt,
    RolloutMode, Scorer, Text, Versioned, evaluate, modes,
};

use crate::config::Evaluation;
use crate::model::generator::DecoderGenerator;
use crate::model::policy::{Policy, sampling};
use crate::records::answers::AnswerRecord;
use crate::run::eval_report::{EvalReport, Summing};
use crate::run::prompts::{CustomVerifiers, JudgedPrompts, tell};

/// The name in files of a set that has none of its own.
const ONLY_SET: &str = "held_out";

/// What came of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    /// The numbers.
    pub report: EvalReport,
    /// The prompts with their answers, in the order of the set.
    pub answers: Vec<AnswerRecord>,
}

/// The held-out prompts of a set and what answers and judges them.
pub struct Evaluator<E> {
    engine: Arc<E>,
    /// The set's name among several.
    set: Option<String>,
    prompts: Vec<Arc<Prompt>>,
    plan: EvaluationPlan,
    scorer: Scorer,
    mode: Arc<dyn RolloutMode>,
    shape: DecoderConfig,
    room: CacheRoom,
    sampling: SamplingConfig,
    min_tokens: Option<MinTokens>,
    /// Rows of the held-out data that are left out.
    rows_skipped: usize,
    heartbeat: Heartbeat,
    stop: Arc<AtomicBool>,
}

impl<E: Engine> Evaluator<E> {
    /// Reads the held-out prompts: all of a file if it has fewer than `eval.problems`.
    ///
    /// # Errors
    /// Names the file and line, or the reward, that is wrong.
    pub fn new(
        engine: &Arc<E>,
        config: &Evaluation,
        text: &Arc<Text>,
        decoder: &DecoderConfig,
        custom: CustomVerifiers<'_>,
    ) -> Result<Self> {
        let held_out = JudgedPrompts::held_out(config, text, decoder, custom)?;
        tell(&held_out.survey);
        Self::of(engine, config, held_out, text, decoder)
    }

    /// An evaluation on prompts that were looked at before.
    pub(crate) fn of(
        engine: &Arc<E>,
        config: &Evaluation,
        held_out: JudgedPrompts,
        text: &Arc<Text>,
        decoder: &DecoderConfig,
    ) -> Result<Self> {
        let (eval, output_tokens_max) = (&config.eval, config.output_tokens_max);
        let JudgedPrompts { source, rewards, survey } = held_out;
        let count =
            source.epoch_prompts().map_or(eval.problems as u64, |rows| rows.min(eval.problems as u64));
        let prompts =
            (0..count).map(|index| Ok(Arc::new(source.prompt(index)?))).collect::<Result<Vec<_>>>()?;
        let ends = Ends::new(Arc::clone(text), config.stops.clone(), decoder.vocabulary)?;
        let min_tokens = ends.min_tokens();
        let longest = prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(1);
        let slots = eval.trajectories_open_max;
        let positions = longest + output_tokens_max;
        Ok(Self {
            set: config.set.clone(),
            prompts,
            plan: EvaluationPlan {
                limits: OutputLimits { segment_tokens_max: output_tokens_max, output_tokens_max },
                group_size: eval.pass_k,
                seed: eval.seed,
            },
            scorer: Scorer::new(Arc::clone(text), rewards).with_ends(ends),
            mode: modes::of_config(&config.mode),
            shape: decoder.clone(),
            engine: Arc::clone(engine),
            room: CacheRoom { slots, positions, precision: CachePrecision::F32 },
            sampling: sampling(eval.sampling()),
            min_tokens,
            rows_skipped: survey.rows_skipped(),
            heartbeat: Heartbeat::default(),
            stop: Arc::default(),
        })
    }

    /// Tells a watchdog of every decode step.
    #[must_use]
    pub fn watched_by(self, heartbeat: Heartbeat) -> Self {
        Self { heartbeat, ..self }
    }

    /// Ends an evaluation with [`RolloutError::Closed`](rollout::RolloutError::Closed) once this is set.
    #[must_use]
    pub fn stopped_by(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..self }
    }

    /// Goes on with answers by another mode than the config's.
    #[must_use]
    pub fn with_mode(self, mode: Arc<dyn RolloutMode>) -> Self {
        Self { mode, ..self }
    }

    /// The name of the set in files: that of a set without one is `held_out`.
    #[must_use]
    pub fn set(&self) -> &str {
        self.set.as_deref().unwrap_or(ONLY_SET)
    }

    /// Answers and judges all prompts with these weights, at the precision that they are packed at.
    ///
    /// # Errors
    /// If decoding or a verifier fails.
    pub fn run(&mut self, policy: Arc<Policy<E>>, version: u64) -> Result<Evaluated> {
        let (start, before) = (Instant::now(), self.scorer.counters());
        let weights = Versioned { version, weights: policy };
        let (scorer, mode, heartbeat) = (&self.scorer, &self.mode, &self.heartbeat);
        let parts = EvaluationParts { scorer, mode, heartbeat, stop: &self.stop };
        // The caches last as long as this evaluation.
        let engine = Arc::clone(&self.engine);
        let mut generator = DecoderGenerator::new(engine, &self.shape, self.room, self.sampling)
            .with_min_tokens(self.min_tokens.clone());
        let groups = evaluate(&mut generator, &weights, &self.prompts, &self.plan, parts)?;
        let extracted = |completion: &Completion| self.scorer.final_answer(completion);
        let answers: Vec<_> =
            groups.iter().map(|group| AnswerRecord::of(self.set(), group, extracted)).collect();
        let summing = Summing {
            is_same: &|one, other| self.scorer.is_same_answer(one, other),
            seed: self.plan.seed,
            seconds: start.elapsed().as_secs_f64(),
        };
        // The verifiers go on counting from one evaluation to the next.
        let verifiers = self.scorer.counters().into_iter().filter_map(|(name, count)| {
            let count = count - before.get(&name).copied().unwrap_or(0);
            (count > 0).then_some((name, count))
        });
        let report = EvalReport {
            set: self.set.clone(),
            problems_unscored: self.prompts.len() - groups.len(),
            rows_skipped: self.rows_skipped,
            verifiers: verifiers.collect(),
            ..EvalReport::of(&answers, &summing)
        };
        Ok(Evaluated { report, answers })
    }
}
