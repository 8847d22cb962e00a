//! The mask of well-mastered positive tokens (UloRL, arXiv 2507.19766, equations 9 and 10): once a policy
//! answers with little entropy, the tokens that it is sure of in right answers teach nothing but to be
//! surer, so they leave the loss while their place in the denominator stays.

use crate::config::MptConfig;
use crate::loss::{CompletionStats, TokenLoss};

/// The mask's rule for one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MptRule {
    tau: f64,
    sigma: f64,
}

impl MptRule {
    /// The rule of a section that is enabled; `None` where masking is off.
    #[must_use]
    pub fn from_config(config: &MptConfig) -> Option<Self> {
        config.enabled.then_some(Self { tau: config.tau, sigma: config.sigma })
    }

    /// Whether a completion is open to masking: positive, and with a mean token entropy (its own or the
    /// step's) strictly below sigma.
    #[must_use]
    pub fn opens(&self, positive: bool, entropy_mean: f64) -> bool {
        positive && entropy_mean < self.sigma
    }

    /// Whether a token of this log-probability is mastered: its probability, at the sampling
    /// temperature, is at least tau.
    #[must_use]
    pub fn mastered(&self, logprob: f64) -> bool {
        logprob.exp() >= self.tau
    }
}

/// The mask of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    /// Which tokens it takes.
    pub rule: MptRule,
    /// Mean token entropy over the step, where the mask goes by it and not by the completion's own.
    pub entropy_of_step: Option<f64>,
}

impl Mask {
    /// Whether a completion is open to masking.
    #[must_use]
    pub fn opens(&self, completion: &CompletionStats<'_>) -> bool {
        let entropy = self.entropy_of_step.unwrap_or_else(|| entropy_mean(completion.entropies));
        self.rule.opens(completion.positive, entropy)
    }

    /// Takes the mastered tokens of a completion that is open out of the loss.
    pub fn apply(&self, completion: &CompletionStats<'_>, tokens: &mut [TokenLoss]) {
        if !self.opens(completion) {
            return;
        }
        for (token, logprob) in tokens.iter_mut().zip(completion.learner_logprobs) {
            if self.rule.mastered(f64::from(*logprob)) {
                token.mask();
            }
        }
    }
}

impl TokenLoss {
    /// Takes the token out of the policy loss; its place in the denominator stays.
    pub(crate) fn mask(&mut self) {
        (self.loss, self.dloss_dlogprob, self.dloss_dentropy) = (0.0, 0.0, 0.0);
        self.masked = true;
    }
}

/// Mean of token entropies; 0 for no tokens.
#[must_use]
pub fn entropy_mean(entropies: &[f32]) -> f64 {
    entropies.iter().map(|entropy| f64::from(*entropy)).sum::<f64>() / entropies.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> MptRule {
        MptRule::from_config(&MptConfig { enabled: true, ..MptConfig::default() }).unwrap()
    }

    #[test]
    fn masking_that_is_off_has_no_rule() {
        assert_eq!(MptRule::from_config(&MptConfig::default()), None);
    }

    #[test]
    fn only_positive_completions_of_low_entropy_are_open() {
        // Sigma is 0.2 and the paper's inequality is strict.
        for (positive, entropy, open) in
            [(true, 0.19, true), (true, 0.2, false), (true, 0.21, false), (false, 0.0, false)]
        {
            assert_eq!(rule().opens(positive, entropy), open, "positive {positive}, entropy {entropy}");
        }
    }

    #[test]
    fn a_token_is_mastered_from_tau_on() {
        // Tau is 0.99 and the paper's inequality holds at equality.
        assert!(rule().mastered(0.0));
        assert!(rule().mastered(0.991_f64.ln()));
        assert!(!rule().mastered(0.989_f64.ln()));
        let half = MptRule { tau: 0.5, sigma: 0.2 };
        assert!(half.mastered(0.5_f64.ln()), "exp(ln 0.5) is 0.5 exactly");
    }

    #[test]
    fn the_mean_is_over_the_tokens() {
        assert_eq!(entropy_mean(&[0.5, 0.25, 0.0]), 0.25);
        assert_eq!(entropy_mean(&[]), 0.0);
    }
}
