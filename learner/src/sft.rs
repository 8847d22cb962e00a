//! Supervised warm start: cross entropy on given continuations, through the same packing, gradients and
//! optimizer as reinforcement learning. Where a first model comes from that is right now and then.

use std::ops::Range;
use std::sync::Arc;

use kernels::{Decoder, TrainingEngine};

use crate::config::{Settings, SftConfig, at_least_one, check_trained};
use crate::error::LearnerError;
use crate::loss::CrossEntropy;
use crate::optimizer::OptimizerConfig;
use crate::train_state::TrainState;
use crate::trainer::{Objective, Passes, Trainer, UnitReport};
use crate::unit::{Unit, UnitCompletion, UnitSequence};

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
    fn unit(&self) -> Unit<'_> {
        let written = UnitSequence::written(&self.prompt_tokens, &self.target_tokens);
        Unit::of(UnitCompletion::of(UnitSequence { given: &self.given, ..written }))
    }
}

/// Training on written units: supervised sequences, or pairs.
#[derive(Debug)]
pub struct Supervised {
    config: SftConfig,
}

impl Objective for Supervised {
    fn settings(&self) -> Settings {
        Settings::Sft(self.config.clone())
    }
}

impl Trainer<Supervised> {
    /// A trainer at version 0.
    ///
    /// # Errors
    /// [`LearnerError::Config`] for an invalid value.
    pub fn supervised(
        engine: Arc<dyn TrainingEngine>,
        decoder: Decoder,
        config: SftConfig,
        optimizer: OptimizerConfig,
        steps_total: u64,
    ) -> Result<Self, LearnerError> {
        at_least_one("sft.batch_tokens_max", config.batch_tokens_max)?;
        config.gradients.check()?;
        check_trained("sft.lora", config.lora.as_ref(), &decoder)?;
        let key = "sft.gradients.layer_inputs_dir";
        let state = TrainState::new(decoder, optimizer, steps_total, engine.operations())?;
        let gradients = config.gradients.clone();
        let passes = Passes::new(engine, config.batch_tokens_max, gradients, key, 1.0, false);
        Ok(Self { state, objective: Supervised { config }, passes })
    }

    /// One optimizer step on the mean cross entropy over all target tokens of the step, at temperature 1.
    ///
    /// # Errors
    /// As [`Trainer::step_units`].
    pub fn step(&mut self, sequences: &[SupervisedSequence]) -> Result<UnitReport, LearnerError> {
        let units: Vec<Unit<'_>> = sequences.iter().map(SupervisedSequence::unit).collect();
        self.step_units(&units, &CrossEntropy)
    }
}

#[cfg(test)]
mod tests {
    use kernels::Packed;

    use super::*;
    use crate::config::{GradientsConfig, StreambpConfig};
    use crate::testing::{cpu, decoder, optimizer_config, relative_error, weights_of};

    fn sequences() -> Vec<SupervisedSequence> {
        let sequence = |prompt: &[u32], target: &[u32]| SupervisedSequence {
            prompt_tokens: prompt.to_vec(),
            target_tokens: target.to_vec(),
            given: Vec::new(),
        };
        vec![sequence(&[1, 2, 3], &[4, 5, 6, 7]), sequence(&[9], &[8, 8]), sequence(&[3, 3], &[1])]
    }

    fn learner(batch_tokens_max: usize, kind: &str) -> Trainer<Supervised> {
        let chunks =
            StreambpConfig { layer_chunk_tokens: 3, head_chunk_tokens: 2, ..StreambpConfig::default() };
        let config = SftConfig { batch_tokens_max, gradients: GradientsConfig::Streambp(chunks), lora: None };
        Trainer::supervised(cpu(), decoder(3), config, optimizer_config(kind), 100).unwrap()
    }

    #[test]
    fn the_loss_is_the_mean_over_all_target_tokens_and_over_no_prompt_token() {
        let mut learner = learner(100, "sgd");
        let plan = learner.passes.chunk_plan();
        let mut expected = 0.0;
        for SupervisedSequence { prompt_tokens, target_tokens, .. } in sequences() {
            let ids = [&prompt_tokens[..], &target_tokens].concat();
            let stats = learner.passes.engine.statistics(learner.decoder(), &Packed::new([&ids[..]]), &plan);
            let targets = &stats.logprobs[prompt_tokens.len() - 1..ids.len() - 1];
            expected -= targets.iter().map(|logprob| f64::from(*logprob)).sum::<f64>() / 7.0;
        }
        let report = learner.step(&sequences()).unwrap();
        assert!((report.loss - expected).abs() < 1e-5, "{} is not {expected}", report.loss);
        assert_eq!((report.target_tokens, report.packed_tokens, report.version), (7, 13, 1));
    }

    #[test]
    fn given_parts_of_a_target_are_read_and_not_learned() {
        let plan = learner(100, "sgd").passes.chunk_plan();
        let mut given = sequences();
        given[0].given.push(1..3);
        let mut learner = learner(100, "sgd");
        let ids = [1, 2, 3, 4, 5, 6, 7];
        let stats = learner.passes.engine.statistics(learner.decoder(), &Packed::new([&ids[..]]), &plan);
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
