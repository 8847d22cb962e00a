//! CISPO (MiniMax-M1, arXiv 2506.13585): `sg(clip(rho, 1 - low, 1 + high)) A log p`. Every token keeps its gradient; the
//! importance weight is clipped and has none of its own. A loss that no other file knows.

// A test that cannot go on says where; that is what `unwrap` does.
#![allow(clippy::unwrap_used)]

#[path = "losses/fixture.rs"]
#[allow(dead_code)]
mod fixture;

use std::sync::Arc;

use fixture::{cpu, decoder, groups, learner_config, plain_descent};
use learner::Trainer;
use learner::config::MismatchConfig;
use learner::loss::{CompletionStats, Loss, TokenLoss};

#[derive(Debug)]
struct Cispo {
    low: f64,
    high: f64,
}

impl Loss for Cispo {
    fn unit(&self, unit: &[CompletionStats<'_>]) -> Vec<TokenLoss> {
        let mut losses = Vec::new();
        for completion in unit {
            for (learner, actor) in completion.learner_logprobs.iter().zip(completion.actor_logprobs) {
                let logprob = f64::from(*learner);
                let ratio = (logprob - f64::from(*actor)).exp();
                let weight = ratio.clamp(1.0 - self.low, 1.0 + self.high);
                losses.push(TokenLoss {
                    loss: -weight * completion.advantage * logprob,
                    dloss_dlogprob: -weight * completion.advantage,
                    importance_weight: weight,
                    ..TokenLoss::default()
                });
            }
        }
        losses
    }

    fn has_no_slope(&self, advantage: f64) -> bool {
        advantage == 0.0
    }
}

/// The check that others use: ratios .5, 1, 1.5; advantages 1, -1, 2.
#[test]
fn the_slopes_of_the_known_case() {
    let cispo = Cispo { low: 1.0, high: 0.2 };
    let slopes: Vec<f64> = [(0.5_f32, 1.0), (1.0, -1.0), (1.5, 2.0)]
        .into_iter()
        .flat_map(|(ratio, advantage)| {
            let completion = CompletionStats {
                advantage,
                positive: false,
                learner_logprobs: &[-1.5 + ratio.ln()],
                entropies: &[1.0],
                actor_logprobs: &[-1.5],
                reference_logprobs: &[],
            };
            cispo.unit(&[completion])
        })
        .map(|token| token.dloss_dlogprob)
        .collect();
    for (slope, expected) in slopes.iter().zip([-0.5, 1.0, -2.4]) {
        assert!((slope - expected).abs() < 1e-6, "{slopes:?}");
    }
}

fn weights_after(trainer: &mut Trainer) -> (Vec<f32>, f64) {
    let report = trainer.step(&groups()).unwrap().update.unwrap();
    let mut weights = Vec::new();
    trainer.decoder().weights.tensors().for_each(|_, tensor| weights.extend(tensor.to_data().iter::<f32>()));
    (weights, report.grad_norm)
}

/// Without a lower limit its gradient is that of the policy gradient under truncated importance sampling, which
/// `tests/it/replay_parity.rs` holds against PyTorch; with one it is another.
#[test]
fn a_step_has_the_gradient_of_truncated_importance_sampling() {
    let new = |config| Trainer::new(cpu(), decoder("model"), config, plain_descent(), 0.85, 1, None).unwrap();
    let mut truncated_config = learner_config(61);
    truncated_config.mismatch = Some(MismatchConfig::Tis { cap: 1.2 });
    let (truncated, grad_norm) = weights_after(&mut new(truncated_config));
    let by_cispo = |low| {
        let mut trainer = new(learner_config(61)).with_loss(Arc::new(Cispo { low, high: 0.2 }));
        weights_after(&mut trainer)
    };
    let (open, open_norm) = by_cispo(1.0);
    assert!(open == truncated, "the gradient is another one");
    assert!(grad_norm > 0.0 && (open_norm - grad_norm).abs() < 1e-12 * grad_norm);
    assert!(by_cispo(0.1).0 != truncated, "the lower limit is in play");
}
