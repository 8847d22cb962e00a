//! The penalty for leaving a reference model, and the divergence between learner and actor. Estimators of a divergence at
//! single drawn tokens.

use crate::config::{KlConfig, KlEstimator};
use crate::loss::{CompletionStats, TokenLoss};

/// The penalty of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KlPenalty {
    /// Its weight in the loss.
    pub coefficient: f64,
    /// How the divergence is estimated at a token.
    pub estimator: KlEstimator,
}

impl KlPenalty {
    /// The penalty of a section that is enabled; `None` where it is off.
    #[must_use]
    pub fn from_config(config: &KlConfig) -> Option<Self> {
        config.enabled.then_some(Self { coefficient: config.coefficient, estimator: config.estimator })
    }

    /// Adds the penalty to each token of a completion.
    pub fn add(&self, completion: &CompletionStats<'_>, tokens: &mut [TokenLoss]) {
        let logprobs = completion.learner_logprobs.iter().zip(completion.reference_logprobs);
        assert_eq!(tokens.len(), completion.reference_logprobs.len(), "a penalty needs its reference");
        for (token, (learner, reference)) in tokens.iter_mut().zip(logprobs) {
            self.add_to(token, f64::from(*learner), f64::from(*reference));
        }
    }

    pub(crate) fn add_to(&self, token: &mut TokenLoss, learner_logprob: f64, reference_logprob: f64) {
        let divergence = divergence(self.estimator, reference_logprob - learner_logprob);
        token.kl = divergence.value;
        token.loss += self.coefficient * divergence.value;
        token.dloss_dlogprob += self.coefficient * divergence.slope;
    }
}

/// Divergence at a drawn token.
struct Divergence {
    value: f64,
    /// Its derivative by the learner's log-probability.
    slope: f64,
}

/// For `d = logp_reference - logp_learner`.
fn divergence(estimator: KlEstimator, d: f64) -> Divergence {
    let (value, slope) = match estimator {
        KlEstimator::K1 => (-d, 1.0),
        KlEstimator::K2 => (0.5 * d * d, -d),
        KlEstimator::K3 => (d.exp_m1() - d, -d.exp_m1()),
    };
    Divergence { value, slope }
}

/// Divergence of the learner from the actor at a token that the actor drew (k3): how far the weights and the two ways
/// of computing have moved apart.
#[must_use]
pub fn mismatch(learner_logprob: f64, actor_logprob: f64) -> f64 {
    divergence(KlEstimator::K3, learner_logprob - actor_logprob).value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mismatch_is_zero_for_equal_and_positive_for_unequal_logprobs() {
        assert_eq!(mismatch(-0.25, -0.25), 0.0);
        // d = 1: e - 2.
        assert!((mismatch(-1.0, -2.0) - (1_f64.exp() - 2.0)).abs() < 1e-12);
    }
}
