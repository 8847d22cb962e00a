//! Cross entropy: the negative log-probability of each token that is to be learned.

use crate::loss::{CompletionStats, Loss, TokenLoss};

/// The loss of supervised training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrossEntropy;

impl Loss for CrossEntropy {
    fn unit(&self, unit: &[CompletionStats<'_>]) -> Vec<TokenLoss> {
        let logprobs = unit.iter().flat_map(|completion| completion.learner_logprobs);
        let token = |logprob: &f32| TokenLoss {
            loss: -f64::from(*logprob),
            dloss_dlogprob: -1.0,
            ..TokenLoss::default()
        };
        logprobs.map(token).collect()
    }
}
