//! The clipped policy gradient (UloRL's loss): the loss of one completion token and its derivative by that token's
//! log-probability. Plain arithmetic in `f64`, so it is checked by hand.

use crate::config::{ClipConfig, ImportanceKind, LearnerConfig};
use crate::loss::{Clipped, CompletionStats, Loss, TokenLoss};

/// What the loss needs to know of one completion token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyToken {
    /// Under the weights in training.
    pub learner_logprob: f64,
    /// As stored when the token was drawn.
    pub actor_logprob: f64,
    /// Of the token's completion.
    pub advantage: f64,
}

/// The clipped policy gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyLoss {
    /// What the importance ratio divides by.
    pub importance: ImportanceKind,
    /// The largest weight of a token by truncated importance sampling, where it is on.
    pub tis_cap: Option<f64>,
    /// Limits of the ratio.
    pub clip: ClipConfig,
}

/// The clipped surrogate `min(r A, clip(r) A)` of a token.
struct Surrogate {
    value: f64,
    /// Its derivative by the log-probability.
    slope: f64,
    clipped: Clipped,
}

impl PolicyLoss {
    /// The loss that a configuration asks for.
    #[must_use]
    pub fn from_config(config: &LearnerConfig) -> Self {
        Self {
            importance: config.importance.kind,
            tis_cap: config.mismatch.and_then(|mismatch| mismatch.cap()),
            clip: config.clip,
        }
    }

    /// What one token adds to the step, before the division by the denominator.
    #[must_use]
    pub fn token(&self, token: &PolicyToken) -> TokenLoss {
        let surrogate = self.surrogate(token);
        let importance_weight = self.importance_weight(token);
        TokenLoss {
            loss: -importance_weight * surrogate.value,
            dloss_dlogprob: -importance_weight * surrogate.slope,
            clipped: surrogate.clipped,
            importance_weight,
            ..TokenLoss::default()
        }
    }

    /// Truncated importance sampling: `min(p_learner / p_actor, cap)`. A step makes one update, so the learner's
    /// log-probability is that of the weights before it; the weight is a constant of the loss.
    fn importance_weight(&self, token: &PolicyToken) -> f64 {
        let weight = |cap| (token.learner_logprob - token.actor_logprob).exp().min(cap);
        self.tis_cap.map_or(1.0, weight)
    }

    /// As automatic differentiation gives it: the slope is `r A` where the ratio is free or the clipped value is the
    /// larger one, else 0.
    fn surrogate(&self, token: &PolicyToken) -> Surrogate {
        let advantage = token.advantage;
        // UloRL's POIS: the old log-probability is the learner's own, so the ratio is 1 and no limit binds.
        if self.importance == ImportanceKind::Pois {
            return Surrogate { value: advantage, slope: advantage, clipped: Clipped::No };
        }
        let (floor, ceiling) = (1.0 - self.clip.low, 1.0 + self.clip.high);
        let ratio = (token.learner_logprob - token.actor_logprob).exp();
        if ratio < floor && advantage < 0.0 {
            return Surrogate { value: floor * advantage, slope: 0.0, clipped: Clipped::Low };
        }
        if ratio > ceiling && advantage > 0.0 {
            return Surrogate { value: ceiling * advantage, slope: 0.0, clipped: Clipped::High };
        }
        let free = ratio * advantage;
        Surrogate { value: free, slope: free, clipped: Clipped::No }
    }
}

impl Loss for PolicyLoss {
    fn unit(&self, unit: &[CompletionStats<'_>]) -> Vec<TokenLoss> {
        let mut tokens = Vec::new();
        for completion in unit {
            let logprobs = completion.learner_logprobs.iter().zip(completion.actor_logprobs);
            tokens.extend(logprobs.map(|(learner, actor)| {
                self.token(&PolicyToken {
                    learner_logprob: f64::from(*learner),
                    actor_logprob: f64::from(*actor),
                    advantage: completion.advantage,
                })
            }));
        }
        tokens
    }

    /// The policy's term is proportional to the advantage.
    fn has_no_slope(&self, advantage: f64) -> bool {
        advantage == 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KlEstimator;
    use crate::loss::{KlPenalty, RegularisedLoss};
    use proptest::prelude::*;

    fn objective(importance: ImportanceKind, tokens: usize) -> Objective {
        let policy = PolicyLoss { importance, tis_cap: None, clip: ClipConfig::default() };
        Objective { policy, penalty: None, tokens }
    }

    fn token(ratio: f64, advantage: f64) -> LossToken {
        let actor_logprob = -1.5;
        LossToken {
            policy: PolicyToken { learner_logprob: actor_logprob + ratio.ln(), actor_logprob, advantage },
            reference_logprob: -1.0,
            masked: false,
        }
    }

    /// A policy's loss with its penalty, as the mean over so many tokens.
    #[derive(Clone, Copy)]
    struct Objective {
        policy: PolicyLoss,
        penalty: Option<KlPenalty>,
        tokens: usize,
    }

    #[derive(Clone, Copy)]
    struct LossToken {
        policy: PolicyToken,
        reference_logprob: f64,
        masked: bool,
    }

    impl Objective {
        fn with_cap(self, cap: f64) -> Self {
            Self { policy: PolicyLoss { tis_cap: Some(cap), ..self.policy }, ..self }
        }

        fn with_penalty(self, coefficient: f64, estimator: KlEstimator) -> Self {
            Self { penalty: Some(KlPenalty { coefficient, estimator }), ..self }
        }

        fn regularised(&self) -> RegularisedLoss<'_> {
            RegularisedLoss { policy: &self.policy, mask: None, penalty: self.penalty }
        }

        /// One token on its way through policy, mask, penalty and mean.
        fn token(&self, token: &LossToken) -> TokenLoss {
            let mut loss = self.policy.token(&token.policy);
            if token.masked {
                loss.mask();
            }
            if let Some(penalty) = &self.penalty {
                penalty.add_to(&mut loss, token.policy.learner_logprob, token.reference_logprob);
            }
            let share = 1.0 / self.tokens as f64;
            loss.loss *= share;
            loss.dloss_dlogprob *= share;
            loss
        }
    }

    /// The check that others use: ratios .5, 1, 1.5; advantages 1, -1, 2; eps .2.
    fn known_case() -> [LossToken; 3] {
        [token(0.5, 1.0), token(1.0, -1.0), token(1.5, 2.0)]
    }

    #[test]
    fn the_clipped_loss_of_the_known_case() {
        // -(0.5 * 1 + 1 * -1 + 1.2 * 2) / 3 = -1.9 / 3.
        let results = known_case().map(|token| objective(ImportanceKind::Sais, 3).token(&token));
        let loss: f64 = results.iter().map(|result| result.loss).sum();
        assert!((loss - -1.9 / 3.0).abs() < 1e-12, "{loss}");
        let slopes = results.map(|result| result.dloss_dlogprob * 3.0);
        for (slope, expected) in slopes.iter().zip([-0.5, 1.0, 0.0]) {
            assert!((slope - expected).abs() < 1e-12, "{slopes:?}");
        }
        assert_eq!(results.map(|result| result.clipped), [Clipped::No, Clipped::No, Clipped::High]);
    }

    #[test]
    fn the_on_policy_loss_of_the_known_case() {
        // -(1 - 1 + 2) / 3, whatever the actor's log-probabilities are.
        let results = known_case().map(|token| objective(ImportanceKind::Pois, 3).token(&token));
        let loss: f64 = results.iter().map(|result| result.loss).sum();
        assert!((loss - -2.0 / 3.0).abs() < 1e-12, "{loss}");
        assert_eq!(results.map(|result| result.dloss_dlogprob * 3.0), [-1.0, 1.0, -2.0]);
        assert!(results.iter().all(|result| result.clipped == Clipped::No));
    }

    #[test]
    fn the_truncated_weights_of_the_known_case() {
        // Ratios .5, 1, 1.5 with the cap 1.2: -(0.5 * 1 + 1 * -1 + 1.2 * 2) / 3.
        let capped = objective(ImportanceKind::Pois, 3).with_cap(1.2);
        let results = known_case().map(|token| capped.token(&token));
        for (result, weight) in results.iter().zip([0.5, 1.0, 1.2]) {
            assert!((result.importance_weight - weight).abs() < 1e-12, "{results:?}");
        }
        let loss: f64 = results.iter().map(|result| result.loss).sum();
        assert!((loss - -1.9 / 3.0).abs() < 1e-12, "{loss}");
        // Above the cap the gradient is held and not stopped, other than by the clip of SAIS.
        for (result, slope) in results.iter().zip([-0.5, 1.0, -2.4]) {
            assert!((result.dloss_dlogprob * 3.0 - slope).abs() < 1e-12, "{results:?}");
        }
    }

    #[test]
    fn a_weight_changes_no_penalty_and_unmasks_nothing() {
        let plain = objective(ImportanceKind::Pois, 2).with_penalty(0.1, KlEstimator::K3);
        let weighted = plain.with_cap(2.0);
        let masked = LossToken { masked: true, ..token(0.25, 3.0) };
        let (expected, found) = (plain.token(&masked), weighted.token(&masked));
        assert_eq!(
            (found.loss, found.dloss_dlogprob, found.kl),
            (expected.loss, expected.dloss_dlogprob, expected.kl)
        );
        // A quarter of the policy's part alone: the penalty is the whole of the masked token's.
        let (free, whole) =
            (weighted.token(&token(0.25, 3.0)), plain.token(&token(0.25, 3.0)).loss - expected.loss);
        assert!((free.loss - (expected.loss + 0.25 * whole)).abs() < 1e-12, "{free:?}");
    }

    #[test]
    fn equal_logprobs_have_the_weight_one_and_far_ones_the_cap() {
        let weighted = objective(ImportanceKind::Pois, 1).with_cap(2.0);
        assert_eq!(weighted.token(&token(1.0, 1.0)).importance_weight, 1.0);
        let (mut far, mut never) = (token(1.0, 1.0), token(1.0, 1.0));
        (far.policy.actor_logprob, never.policy.learner_logprob) = (-1e4, -1e4);
        assert_eq!(weighted.token(&far).importance_weight, 2.0);
        let never = weighted.token(&never);
        assert_eq!((never.importance_weight, never.dloss_dlogprob), (0.0, 0.0));
    }

    #[test]
    fn a_limit_binds_only_on_the_side_that_the_advantage_pushes_to() {
        let sais = objective(ImportanceKind::Sais, 1);
        for (ratio, advantage, loss, clipped) in [
            (0.5, -1.0, 0.8, Clipped::Low),
            (0.5, 1.0, -0.5, Clipped::No),
            (1.5, -1.0, 1.5, Clipped::No),
            (1.5, 1.0, -1.2, Clipped::High),
        ] {
            let result = sais.token(&token(ratio, advantage));
            assert!((result.loss - loss).abs() < 1e-12, "ratio {ratio}, advantage {advantage}: {result:?}");
            assert_eq!(result.clipped, clipped);
        }
    }

    #[test]
    fn a_masked_token_keeps_its_penalty() {
        let objective = objective(ImportanceKind::Pois, 2);
        let masked = LossToken { masked: true, ..token(1.0, 3.0) };
        let result = objective.token(&masked);
        assert_eq!((result.loss, result.dloss_dlogprob), (0.0, 0.0));
        let objective = objective.with_penalty(0.1, KlEstimator::K3);
        // d = -1 - -1.5 = 0.5; k3 = e^.5 - 1.5 = 0.148721271.
        let result = objective.token(&masked);
        assert!((result.kl - 0.148_721_270_700_128).abs() < 1e-12, "{result:?}");
        assert!((result.loss - 0.1 * result.kl / 2.0).abs() < 1e-15, "{result:?}");
    }

    proptest! {
        /// What is skipped has a slope of 0, whatever the log-probabilities are.
        #[test]
        fn without_advantage_and_penalty_there_is_no_slope(
            learner_logprob in -40.0_f64..0.0,
            actor_logprob in -40.0_f64..0.0,
            importance in prop::sample::select(vec![ImportanceKind::Pois, ImportanceKind::Sais]),
            tis_cap in prop::option::of(0.1_f64..4.0),
            masked in any::<bool>(),
        ) {
            let mut plain = objective(importance, 3);
            plain.policy.tis_cap = tis_cap;
            let policy = PolicyToken { learner_logprob, actor_logprob, advantage: 0.0 };
            let token = LossToken { policy, reference_logprob: -1.0, masked };
            let regularised = plain.regularised();
            prop_assert!(regularised.has_no_slope(0.0) && regularised.has_no_slope(-0.0));
            prop_assert_eq!((plain.token(&token).dloss_dlogprob, plain.token(&token).loss), (0.0, 0.0));
            prop_assert!(!regularised.has_no_slope(1e-9));
            prop_assert!(!plain.with_penalty(0.1, KlEstimator::K1).regularised().has_no_slope(0.0));
        }
    }

    proptest! {
        /// The slope is the derivative where the weight and the old log-probability stand still.
        #[test]
        fn the_weighted_slope_is_the_derivative_with_the_weight_held(
            learner_logprob in -4.0_f64..-0.01,
            actor_logprob in -4.0_f64..-0.01,
            advantage in -3.0_f64..3.0,
            cap in 0.1_f64..4.0,
        ) {
            let objective = objective(ImportanceKind::Pois, 7).with_cap(cap);
            let policy = PolicyToken { learner_logprob, actor_logprob, advantage };
            let token = LossToken { policy, reference_logprob: 0.0, masked: false };
            let weight = (learner_logprob - actor_logprob).exp().min(cap);
            // What automatic differentiation sees: the ratio to the log-probability with its gradient stopped.
            let at = |moved: f64| -weight * (moved - learner_logprob).exp() * advantage / 7.0;
            let step = 1e-6;
            let difference = (at(learner_logprob + step) - at(learner_logprob - step)) / (2.0 * step);
            let result = objective.token(&token);
            prop_assert!((difference - result.dloss_dlogprob).abs() < 1e-6 * (1.0 + difference.abs()));
            prop_assert!((result.loss - at(learner_logprob)).abs() < 1e-12);
        }

        /// The slope is the derivative: central differences, away from the kinks at the limits.
        #[test]
        fn the_slope_is_the_derivative(
            learner_logprob in -4.0_f64..-0.01,
            actor_logprob in -4.0_f64..-0.01,
            reference_logprob in -4.0_f64..-0.01,
            advantage in -3.0_f64..3.0,
            estimator in prop::sample::select(vec![KlEstimator::K1, KlEstimator::K2, KlEstimator::K3]),
            masked in any::<bool>(),
        ) {
            let mut objective = objective(ImportanceKind::Sais, 7).with_penalty(0.05, estimator);
            objective.policy.clip = ClipConfig { low: 0.2, high: 0.28 };
            let ratio = (learner_logprob - actor_logprob).exp();
            prop_assume!((ratio - 0.8).abs() > 1e-3 && (ratio - 1.28).abs() > 1e-3);
            let at = |learner_logprob| {
                let policy = PolicyToken { learner_logprob, actor_logprob, advantage };
                objective.token(&LossToken { policy, reference_logprob, masked })
            };
            let step = 1e-6;
            let difference = (at(learner_logprob + step).loss - at(learner_logprob - step).loss) / (2.0 * step);
            let slope = at(learner_logprob).dloss_dlogprob;
            prop_assert!((difference - slope).abs() < 1e-5 * (1.0 + slope.abs()), "{difference} {slope}");
        }
    }
}
