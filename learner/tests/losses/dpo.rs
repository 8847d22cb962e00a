//! Direct preference optimisation (arXiv 2305.18290): a unit of two, the chosen completion and the rejected one, against
//! PyTorch.

use kernels::Decoder;
use learner::config::{GradientsConfig, SftConfig, StreambpConfig};
use learner::loss::{CompletionStats, Denominator, Loss, TokenLoss};
use learner::unit::{Unit, UnitCompletion};
use learner::{LearnerError, Supervised, Trainer};

use crate::fixture::{assert_gradients, cpu, decoder, expected_loss, groups, plain_descent};

/// `-log sigmoid(beta c)`, where c is how much likelier than under the reference the chosen completion is, less the same
/// of the rejected one.
#[derive(Debug)]
struct Dpo {
    beta: f64,
}

fn log_ratio(completion: &CompletionStats<'_>) -> f64 {
    let pairs = completion.learner_logprobs.iter().zip(completion.reference_logprobs);
    pairs.map(|(learner, reference)| f64::from(*learner) - f64::from(*reference)).sum()
}

impl Loss for Dpo {
    fn unit(&self, unit: &[CompletionStats<'_>]) -> Vec<TokenLoss> {
        let [chosen, rejected] = unit else { panic!("a pair has two completions, not {}", unit.len()) };
        let margin = self.beta * (log_ratio(chosen) - log_ratio(rejected));
        let slope = -self.beta / (1.0 + margin.exp());
        let loss = (-margin).exp().ln_1p() / (chosen.tokens() + rejected.tokens()) as f64;
        let token = |dloss_dlogprob| TokenLoss { loss, dloss_dlogprob, ..TokenLoss::default() };
        [vec![token(slope); chosen.tokens()], vec![token(-slope); rejected.tokens()]].concat()
    }

    fn denominator(&self) -> Denominator {
        Denominator::Units
    }
}

/// Prompt and ids of a recorded completion.
type Recorded = (Vec<u32>, Vec<u32>);

/// The pairs of the fixture, chosen completion first.
fn pairs() -> Vec<[Recorded; 2]> {
    let recorded: Vec<Recorded> = groups()
        .iter()
        .flat_map(|group| &group.completions)
        .map(|scored| (scored.completion.prompt.tokens.clone(), scored.completion.token_ids()))
        .collect();
    let (_, constants) = expected_loss("dpo");
    let lines = constants["pairs"].as_array().unwrap();
    let line =
        |pair: &serde_json::Value, place: usize| recorded[pair[place].as_u64().unwrap() as usize].clone();
    lines.iter().map(|pair| [line(pair, 0), line(pair, 1)]).collect()
}

fn units(pairs: &[[Recorded; 2]]) -> Vec<Unit<'_>> {
    pairs
        .iter()
        .map(|[chosen, rejected]| Unit {
            completions: vec![
                UnitCompletion::written(&chosen.0, &chosen.1),
                UnitCompletion::written(&rejected.0, &rejected.1),
            ],
        })
        .collect()
}

fn trainer(before: &Decoder, batch_tokens_max: usize) -> Trainer<Supervised> {
    let chunks = StreambpConfig { layer_chunk_tokens: 7, head_chunk_tokens: 5, ..StreambpConfig::default() };
    let config = SftConfig { batch_tokens_max, gradients: GradientsConfig::Streambp(chunks), lora: None };
    let trainer = Trainer::supervised(cpu(), before.clone(), config, plain_descent(), 1).unwrap();
    trainer.with_reference(decoder("reference"))
}

/// However the pairs are cut into micro-batches, of which a pair never lies in two.
#[test]
fn a_step_on_pairs_has_the_gradient_of_pytorch() {
    let (expected, constants) = expected_loss("dpo");
    let dpo = Dpo { beta: constants["beta"].as_f64().unwrap() };
    let pairs = pairs();
    for (batch_tokens_max, micro_batches) in [(1000, 1), (60, 2), (1, 4)] {
        let before = decoder("model");
        let mut trainer = trainer(&before, batch_tokens_max);
        let report = trainer.step_units(&units(&pairs), &dpo).unwrap();
        assert_eq!(report.micro_batches, micro_batches);
        assert!((report.loss - expected).abs() < 1e-5 * expected, "{} is not {expected}", report.loss);
        assert_gradients("dpo", before.weights.tensors(), trainer.decoder().weights.tensors());
    }
}

/// Half of beta for each token of a pair that is as likely as under the reference: the limit of no preference.
#[test]
fn a_pair_without_a_preference_has_half_the_slope() {
    let completion = |logprobs| CompletionStats {
        advantage: 0.0,
        positive: false,
        learner_logprobs: logprobs,
        entropies: &[1.0; 2],
        actor_logprobs: &[],
        reference_logprobs: logprobs,
    };
    let tokens = Dpo { beta: 0.4 }.unit(&[completion(&[-1.0, -2.0]), completion(&[-3.0, -0.5])]);
    let slopes: Vec<f64> = tokens.iter().map(|token| token.dloss_dlogprob).collect();
    assert_eq!(slopes, [-0.2, -0.2, 0.2, 0.2]);
    let loss: f64 = tokens.iter().map(|token| token.loss).sum();
    assert!((loss - 2_f64.ln()).abs() < 1e-12, "{loss}");
}

#[test]
fn a_pair_without_a_target_is_named() {
    let mut pairs = pairs();
    pairs[2][1].1.clear();
    let mut trainer = trainer(&decoder("model"), 100);
    let error = trainer.step_units(&units(&pairs), &Dpo { beta: 0.1 }).unwrap_err();
    assert!(matches!(error, LearnerError::Sequence { step: 0, index: 2, .. }), "{error}");
}
