//! A bonus for entropy beside the policy gradient: a loss with slopes by entropy, against PyTorch.

use std::sync::Arc;

use learner::Trainer;
use learner::loss::{CompletionStats, Loss, TokenLoss};

use crate::fixture::{assert_gradients, cpu, decoder, expected_loss, groups, learner_config, plain_descent};

/// The on-policy gradient, less `bonus` times the entropy of every token.
#[derive(Debug)]
struct EntropyBonus {
    bonus: f64,
}

impl Loss for EntropyBonus {
    fn unit(&self, unit: &[CompletionStats<'_>]) -> Vec<TokenLoss> {
        let token = |advantage: f64, entropy: &f32| TokenLoss {
            loss: -advantage - self.bonus * f64::from(*entropy),
            dloss_dlogprob: -advantage,
            dloss_dentropy: -self.bonus,
            ..TokenLoss::default()
        };
        let tokens = unit.iter().flat_map(|completion| {
            completion.entropies.iter().map(move |entropy| token(completion.advantage, entropy))
        });
        tokens.collect()
    }
}

/// In one micro-batch, and cut so that some completions are alone.
#[test]
fn a_step_with_a_bonus_has_the_gradient_of_pytorch() {
    let (expected, constants) = expected_loss("bonus");
    let bonus = constants["bonus"].as_f64().unwrap();
    let temperature = constants["temperature"].as_f64().unwrap();
    for batch_tokens_max in [1000, 30] {
        let before = decoder("model");
        let config = learner_config(batch_tokens_max);
        let mut trainer = Trainer::new(cpu(), before.clone(), config, plain_descent(), temperature, 1, None)
            .unwrap()
            .with_loss(Arc::new(EntropyBonus { bonus }));
        let update = trainer.step(&groups()).unwrap().update.unwrap();
        assert!((update.loss - expected).abs() < 1e-5, "{} is not {expected}", update.loss);
        // Also those without an advantage have a slope.
        assert_eq!(update.skipped.completions, 0);
        assert_gradients("bonus", before.weights.tensors(), trainer.decoder().weights.tensors());
    }
}
