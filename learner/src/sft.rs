//! Supervised warm start: cross entropy on given continuations, through the same packing, gradients and
//! optimizer as reinforcement learning. Where a first model comes from that is right now and then.

use std::ops::Range;
use std::time::Instant;

use kernels::{Decoder, Slopes, TokenStats, accumulate_gradients};
use serde::{Deserialize, Serialize};

use crate::batch::{Sequence, SequenceCost, micro_batches};
use crate::config::{GradientsConfig, at_least_one};
use crate::error::LearnerError;
use crate::optimizer::OptimizerConfig;
use crate::snapshot::{Snapshot, Trainee};

/// How supervised steps are cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftConfig {
    /// Tokens, prompts included, in one micro-batch. A longer sequence is a micro-batch of its own.
    pub batch_tokens_max: usize,
    /// How gradients are computed.
    #[serde(default)]
    pub gradients: GradientsConfig,
}

/// A prompt and the continuation that is to be learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisedSequence {
    /// Given; not trained on.
    pub prompt_tokens: Vec<u32>,
    /// Trained on, but for the parts that are given.
    pub target_tokens: Vec<u32>,
    /// Parts of the target that are not trained on: what others say between the turns that are.
    pub given: Vec<Range<usize>>,
}

impl SupervisedSequence {
    /// Whether the token at a place of the target is trained on.
    fn is_learned(&self, place: usize) -> bool {
        !self.given.iter().any(|given| given.contains(&place))
    }

    /// The places of the target that are trained on.
    fn learned(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.target_tokens.len()).filter(|place| self.is_learned(*place))
    }
}

/// One supervised step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SftReport {
    /// Version of the weights after the step.
    pub version: u64,
    /// Cross entropy a target token, in nats.
    pub loss: f64,
    /// Mean entropy of the distributions at the target tokens, in nats.
    pub entropy: f64,
    /// Norm over all gradients together, before clipping.
    pub grad_norm: f64,
    /// Of this step.
    pub learning_rate: f64,
    /// Target tokens: the denominator of the loss.
    pub target_tokens: usize,
    /// Tokens that went through the decoder, prompts included.
    pub packed_tokens: usize,
    /// Passes through the decoder.
    pub micro_batches: usize,
    /// The whole step, in seconds.
    pub seconds: f64,
}

/// Turns supervised sequences into new weights, one optimizer step a call.
#[derive(Debug)]
pub struct SftLearner {
    pub(crate) trainee: Trainee,
    pub(crate) config: SftConfig,
}

impl SftLearner {
    /// A learner at version 0.
    ///
    /// # Errors
    /// [`LearnerError::Config`] for a value that cannot be meant.
    pub fn new(
        decoder: Decoder,
        config: SftConfig,
        optimizer: OptimizerConfig,
        steps_total: u64,
    ) -> Result<Self, LearnerError> {
        at_least_one("sft.batch_tokens_max", config.batch_tokens_max)?;
        config.gradients.check()?;
        Ok(Self { trainee: Trainee::new(decoder, optimizer, steps_total)?, config })
    }

    /// How many steps the weights have seen.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.trainee.version
    }

    /// The weights in training.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.trainee.decoder
    }

    /// The weights as they are. Shares memory until the next step.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.trainee.snapshot()
    }

    /// One optimizer step on the mean cross entropy over all target tokens of the step, at temperature 1.
    ///
    /// # Errors
    /// [`LearnerError::Sequence`] for a sequence that cannot be trained on, [`LearnerError::Gradient`]
    /// for gradients that are not finite, [`LearnerError::LayerInputs`] where the layers' inputs have no place;
    /// weights and version are then as before.
    pub fn step(&mut self, sequences: &[SupervisedSequence]) -> Result<SftReport, LearnerError> {
        let start = Instant::now();
        for (index, sequence) in sequences.iter().enumerate() {
            self.check(index, sequence)?;
        }
        let rows = sequences.iter().map(|sequence| Sequence {
            prompt: &sequence.prompt_tokens,
            completion: &sequence.target_tokens,
        });
        let cost = SequenceCost::new(&self.decoder().config);
        let batches = micro_batches(&rows.collect::<Vec<_>>(), (self.config.batch_tokens_max, false), &cost);
        let target_tokens: usize = sequences.iter().map(|sequence| sequence.learned().count()).sum();
        assert!(target_tokens > 0, "a step needs a sequence");
        let share = 1.0 / target_tokens as f64;
        let plan = self.config.gradients.plan(1.0);
        let mut gradients = self.trainee.gradients();
        let (mut loss, mut entropy) = (0.0, 0.0);
        for batch in &batches {
            let mut coefficients = |_: &TokenStats| {
                Slopes::of_logprobs(batch.coefficients(|row| {
                    let sequence = &sequences[row.sequence];
                    let places = 0..sequence.target_tokens.len();
                    places.map(|place| if sequence.is_learned(place) { -share } else { 0.0 }).collect()
                }))
            };
            let (decoder, step) = (self.decoder(), self.version());
            let stats =
                accumulate_gradients(decoder, &batch.packed, &plan, &mut gradients, &mut coefficients)
                    .map_err(|source| LearnerError::LayerInputs {
                        step,
                        key: "sft.gradients.layer_inputs_dir",
                        source,
                    })?;
            for row in &batch.rows {
                let learned = |values: &[f32]| {
                    sequences[row.sequence].learned().map(|place| f64::from(values[place])).sum::<f64>()
                        * share
                };
                loss -= learned(row.logprobs(&stats));
                entropy += learned(row.entropies(&stats));
            }
        }
        let update =
            self.trainee.update(gradients, || format!("{} supervised sequences", sequences.len()))?;
        self.trainee.version += 1;
        Ok(SftReport {
            version: self.version(),
            loss,
            entropy,
            grad_norm: update.grad_norm,
            learning_rate: update.learning_rate,
            target_tokens,
            packed_tokens: batches.iter().map(|batch| batch.tokens).sum(),
            micro_batches: batches.len(),
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn check(&self, index: usize, sequence: &SupervisedSequence) -> Result<(), LearnerError> {
        let vocabulary = self.decoder().config.vocabulary;
        let fail = |reason: String| Err(LearnerError::Sequence { step: self.version(), index, reason });
        if sequence.prompt_tokens.is_empty() || sequence.learned().next().is_none() {
            return fail("it needs a prompt token and a target token at least".to_owned());
        }
        let largest = sequence.prompt_tokens.iter().chain(&sequence.target_tokens).max();
        match largest {
            Some(largest) if *largest as usize >= vocabulary => {
                fail(format!("it has token {largest}, the vocabulary {vocabulary} entries"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use kernels::{Packed, token_stats};

    use super::*;
    use crate::config::StreambpConfig;
    use crate::testing::{decoder, optimizer_config, relative_error, weights_of};

    fn sequences() -> Vec<SupervisedSequence> {
        let sequence = |prompt: &[u32], target: &[u32]| SupervisedSequence {
            prompt_tokens: prompt.to_vec(),
            target_tokens: target.to_vec(),
            given: Vec::new(),
        };
        vec![sequence(&[1, 2, 3], &[4, 5, 6, 7]), sequence(&[9], &[8, 8]), sequence(&[3, 3], &[1])]
    }

    fn learner(batch_tokens_max: usize, kind: &str) -> SftLearner {
        let chunks =
            StreambpConfig { layer_chunk_tokens: 3, head_chunk_tokens: 2, ..StreambpConfig::default() };
        let config = SftConfig { batch_tokens_max, gradients: GradientsConfig::Streambp(chunks) };
        SftLearner::new(decoder(3), config, optimizer_config(kind), 100).unwrap()
    }

    #[test]
    fn the_loss_is_the_mean_over_all_target_tokens_and_over_no_prompt_token() {
        let mut learner = learner(100, "sgd");
        let plan = learner.config.gradients.plan(1.0);
        let mut expected = 0.0;
        for SupervisedSequence { prompt_tokens, target_tokens, .. } in sequences() {
            let ids = [&prompt_tokens[..], &target_tokens].concat();
            let stats = token_stats(learner.decoder(), &Packed::new([&ids[..]]), &plan);
            let targets = &stats.logprobs[prompt_tokens.len() - 1..ids.len() - 1];
            expected -= targets.iter().map(|logprob| f64::from(*logprob)).sum::<f64>() / 7.0;
        }
        let report = learner.step(&sequences()).unwrap();
        assert!((report.loss - expected).abs() < 1e-5, "{} is not {expected}", report.loss);
        assert_eq!((report.target_tokens, report.packed_tokens, report.version), (7, 13, 1));
    }

    #[test]
    fn given_parts_of_a_target_are_read_and_not_learned() {
        let plan = learner(100, "sgd").config.gradients.plan(1.0);
        let mut given = sequences();
        given[0].given.push(1..3);
        let mut learner = learner(100, "sgd");
        let ids = [1, 2, 3, 4, 5, 6, 7];
        let stats = token_stats(learner.decoder(), &Packed::new([&ids[..]]), &plan);
        let learned: f64 = [2, 5].iter().map(|place: &usize| f64::from(stats.logprobs[*place])).sum();
        let report = learner.step(&given[..1]).unwrap();
        assert_eq!(report.target_tokens, 2);
        assert!((report.loss + learned / 2.0).abs() < 1e-5, "{} is not {}", report.loss, -learned / 2.0);
        given[0].given = std::iter::once(0..4).collect();
        let message = learner.step(&given[..1]).unwrap_err().to_string();
        assert!(message.contains("a target token at least"), "{message}");
    }

    // Invariant 6, for the warm start.
    #[test]
    fn no_micro_batch_changes_the_update() {
        let run = |batch_tokens_max| {
            let mut learner = learner(batch_tokens_max, "sgd");
            let report = learner.step(&sequences()).unwrap();
            (report.micro_batches, weights_of(learner.decoder()))
        };
        let (whole, cut) = (run(100), run(1));
        assert_eq!((whole.0, cut.0), (1, 3));
        assert!(relative_error(&cut.1, &whole.1) < 1e-5);
    }

    #[test]
    fn it_learns_its_sequences_by_heart() {
        let mut learner = learner(8, "adamw");
        let first = learner.step(&sequences()).unwrap().loss;
        let last = (0..60).map(|_| learner.step(&sequences()).unwrap().loss).last().unwrap();
        assert!(first > 2.0 && last < 0.1, "from {first} to {last}");
    }

    #[test]
    fn sequences_that_do_not_fit_are_named() {
        for (spoil, reason) in [(vec![], "target token at least"), (vec![2, 99], "token 99")] {
            let mut sequences = sequences();
            sequences[1].target_tokens = spoil;
            let message = learner(8, "sgd").step(&sequences).unwrap_err().to_string();
            assert!(message.starts_with("step 0, sequence 1: ") && message.contains(reason), "{message}");
        }
    }
}
