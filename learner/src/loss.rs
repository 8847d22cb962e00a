//! The loss of one completion token and its derivative by that token's log-probability: clipped policy
//! gradient (UloRL's loss, token mean over the whole optimizer step) and the penalty for leaving a
//! reference. Plain arithmetic in `f64`, so it is checked by hand; the tensors are the business of
//! `kernels`, which takes the derivative and goes back from there.

use crate::config::{ClipConfig, ImportanceKind, KlConfig, KlEstimator};

/// What the loss needs to know of one completion token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossToken {
    /// Under the weights in training.
    pub learner_logprob: f64,
    /// As stored when the token was drawn.
    pub actor_logprob: f64,
    /// Under the reference; read only where the penalty is on.
    pub reference_logprob: f64,
    /// Of the token's completion.
    pub advantage: f64,
    /// Masked tokens have no policy loss; they keep their penalty and their place in the denominator.
    pub masked: bool,
}

/// The loss of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// What the importance ratio divides by.
    pub importance: ImportanceKind,
    /// The largest weight of a token by truncated importance sampling, where it is on.
    pub tis_cap: Option<f64>,
    /// Limits of the ratio.
    pub clip: ClipConfig,
    /// Weight and estimator of the penalty, where it is on.
    pub kl: Option<(f64, KlEstimator)>,
    /// Completion tokens of the whole optimizer step, masked ones too: the one denominator, so the loss
    /// does not depend on how the step is cut into micro-batches.
    pub tokens: usize,
}

/// Which limit of the ratio stopped the gradient of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clipped {
    /// None.
    No,
    /// The lower one, with a negative advantage.
    Low,
    /// The upper one, with a positive advantage.
    High,
}

/// What one token adds to a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLoss {
    /// Its part of the loss, penalty included.
    pub loss: f64,
    /// Derivative of the loss by its log-probability under the weights in training.
    pub slope: f64,
    /// Its divergence from the reference, unweighted; 0 where the penalty is off.
    pub kl: f64,
    /// The limit that it ran into.
    pub clipped: Clipped,
    /// What its policy loss was multiplied by; 1 where nothing is corrected.
    pub tis_weight: f64,
}

impl Objective {
    /// The penalty's weight and estimator, as `Objective` holds them.
    #[must_use]
    pub fn kl_of(config: &KlConfig) -> Option<(f64, KlEstimator)> {
        config.enabled.then_some((config.coefficient, config.estimator))
    }

    /// Whether a token of this advantage can have a slope, as far as is known without any log-probability: the
    /// policy's term is proportional to the advantage.
    #[must_use]
    pub fn may_have_slope(&self, advantage: f64) -> bool {
        advantage != 0.0 || self.kl.is_some()
    }

    /// What one token adds to the step.
    #[must_use]
    pub fn token(&self, token: &LossToken) -> TokenLoss {
        let (surrogate, slope, clipped) = self.surrogate(token);
        let tis_weight = self.tis_weight(token);
        let (mut loss, mut slope) = (-tis_weight * surrogate, -tis_weight * slope);
        if token.masked {
            (loss, slope) = (0.0, 0.0);
        }
        let mut kl = 0.0;
        if let Some((coefficient, estimator)) = self.kl {
            let (value, kl_slope) = divergence(estimator, token.reference_logprob - token.learner_logprob);
            kl = value;
            loss += coefficient * value;
            slope += coefficient * kl_slope;
        }
        let share = 1.0 / self.tokens as f64;
        TokenLoss { loss: loss * share, slope: slope * share, kl, clipped, tis_weight }
    }

    /// Truncated importance sampling: `min(p_learner / p_actor, cap)`. A step makes one update, so the learner's
    /// log-probability is that of the weights before it; the weight is a constant of the loss.
    fn tis_weight(&self, token: &LossToken) -> f64 {
        let weight = |cap| (token.learner_logprob - token.actor_logprob).exp().min(cap);
        self.tis_cap.map_or(1.0, weight)
    }

    /// `min(r A, clip(r) A)` and its derivative by the log-probability, as automatic differentiation
    /// gives it: `r A` where the ratio is free or the clipped value is the larger one, else 0.
    fn surrogate(&self, token: &LossToken) -> (f64, f64, Clipped) {
        let advantage = token.advantage;
        // UloRL's POIS: the old log-probability is the learner's own, so the ratio is 1 and no limit binds.
        if self.importance == ImportanceKind::Pois {
            return (advantage, advantage, Clipped::No);
        }
        let (floor, ceiling) = (1.0 - self.clip.low, 1.0 + self.clip.high);
        let ratio = (token.learner_logprob - token.actor_logprob).exp();
        let free = ratio * advantage;
        if ratio < floor && advantage < 0.0 {
            return (floor * advantage, 0.0, Clipped::Low);
        }
        if ratio > ceiling && advantage > 0.0 {
            return (ceiling * advantage, 0.0, Clipped::High);
        }
        (free, free, Clipped::No)
    }
}

/// Divergence at a drawn token and its derivative by the learner's log-probability, for
/// `d = logp_reference - logp_learner`.
fn divergence(estimator: KlEstimator, d: f64) -> (f64, f64) {
    match estimator {
        KlEstimator::K1 => (-d, 1.0),
        KlEstimator::K2 => (0.5 * d * d, -d),
        KlEstimator::K3 => (d.exp_m1() - d, -d.exp_m1()),
    }
}

/// Divergence of the learner from the actor at a token that the actor drew (k3): how far the weights
/// and the two ways of computing have moved apart.
#[must_use]
pub fn mismatch(learner_logprob: f64, actor_logprob: f64) -> f64 {
    divergence(KlEstimator::K3, learner_logprob - actor_logprob).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn objective(importance: ImportanceKind, tokens: usize) -> Objective {
        Objective { importance, tis_cap: None, clip: ClipConfig::default(), kl: None, tokens }
    }

    fn token(ratio: f64, advantage: f64) -> LossToken {
        let actor_logprob = -1.5;
        LossToken {
            learner_logprob: actor_logprob + ratio.ln(),
            actor_logprob,
            reference_logprob: -1.0,
            advantage,
            masked: false,
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
        let slopes = results.map(|result| result.slope * 3.0);
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
        assert_eq!(results.map(|result| result.slope * 3.0), [-1.0, 1.0, -2.0]);
        assert!(results.iter().all(|result| result.clipped == Clipped::No));
    }

    #[test]
    fn the_truncated_weights_of_the_known_case() {
        // Ratios .5, 1, 1.5 with the cap 1.2: -(0.5 * 1 + 1 * -1 + 1.2 * 2) / 3.
        let capped = Objective { tis_cap: Some(1.2), ..objective(ImportanceKind::Pois, 3) };
        let results = known_case().map(|token| capped.token(&token));
        for (result, weight) in results.iter().zip([0.5, 1.0, 1.2]) {
            assert!((result.tis_weight - weight).abs() < 1e-12, "{results:?}");
        }
        let loss: f64 = results.iter().map(|result| result.loss).sum();
        assert!((loss - -1.9 / 3.0).abs() < 1e-12, "{loss}");
        // Above the cap the gradient is held and not stopped, other than by the clip of SAIS.
        for (result, slope) in results.iter().zip([-0.5, 1.0, -2.4]) {
            assert!((result.slope * 3.0 - slope).abs() < 1e-12, "{results:?}");
        }
    }

    #[test]
    fn a_weight_changes_no_penalty_and_unmasks_nothing() {
        let mut plain = objective(ImportanceKind::Pois, 2);
        plain.kl = Some((0.1, KlEstimator::K3));
        let weighted = Objective { tis_cap: Some(2.0), ..plain };
        let masked = LossToken { masked: true, ..token(0.25, 3.0) };
        let (expected, found) = (plain.token(&masked), weighted.token(&masked));
        assert_eq!((found.loss, found.slope, found.kl), (expected.loss, expected.slope, expected.kl));
        // A quarter of the policy's part alone: the penalty is the whole of the masked token's.
        let (free, whole) =
            (weighted.token(&token(0.25, 3.0)), plain.token(&token(0.25, 3.0)).loss - expected.loss);
        assert!((free.loss - (expected.loss + 0.25 * whole)).abs() < 1e-12, "{free:?}");
    }

    #[test]
    fn equal_logprobs_have_the_weight_one_and_far_ones_the_cap() {
        let weighted = Objective { tis_cap: Some(2.0), ..objective(ImportanceKind::Pois, 1) };
        assert_eq!(weighted.token(&token(1.0, 1.0)).tis_weight, 1.0);
        let far = LossToken { actor_logprob: -1e4, ..token(1.0, 1.0) };
        let never = LossToken { learner_logprob: -1e4, ..token(1.0, 1.0) };
        assert_eq!(weighted.token(&far).tis_weight, 2.0);
        assert_eq!((weighted.token(&never).tis_weight, weighted.token(&never).slope), (0.0, 0.0));
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
        let mut objective = objective(ImportanceKind::Pois, 2);
        let masked = LossToken { masked: true, ..token(1.0, 3.0) };
        let result = objective.token(&masked);
        assert_eq!((result.loss, result.slope), (0.0, 0.0));
        objective.kl = Some((0.1, KlEstimator::K3));
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
            let plain = Objective { tis_cap, ..objective(importance, 3) };
            let token =
                LossToken { learner_logprob, actor_logprob, reference_logprob: -1.0, advantage: 0.0, masked };
            prop_assert!(!plain.may_have_slope(0.0) && !plain.may_have_slope(-0.0));
            prop_assert_eq!((plain.token(&token).slope, plain.token(&token).loss), (0.0, 0.0));
            prop_assert!(plain.may_have_slope(1e-9));
            let penalised = Objective { kl: Some((0.1, KlEstimator::K1)), ..plain };
            prop_assert!(penalised.may_have_slope(0.0));
        }
    }

    #[test]
    fn mismatch_is_zero_for_equal_and_positive_for_unequal_logprobs() {
        assert_eq!(mismatch(-0.25, -0.25), 0.0);
        // d = 1: e - 2.
        assert!((mismatch(-1.0, -2.0) - (1_f64.exp() - 2.0)).abs() < 1e-12);
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
            let objective =
                Objective { tis_cap: Some(cap), ..objective(ImportanceKind::Pois, 7) };
            let token = LossToken {
                learner_logprob, actor_logprob, reference_logprob: 0.0, advantage, masked: false,
            };
            let weight = (learner_logprob - actor_logprob).exp().min(cap);
            // What automatic differentiation sees: the ratio to the log-probability with its gradient stopped.
            let at = |moved: f64| -weight * (moved - learner_logprob).exp() * advantage / 7.0;
            let step = 1e-6;
            let difference = (at(learner_logprob + step) - at(learner_logprob - step)) / (2.0 * step);
            let result = objective.token(&token);
            prop_assert!((difference - result.slope).abs() < 1e-6 * (1.0 + difference.abs()));
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
            let objective = Objective {
                importance: ImportanceKind::Sais,
                tis_cap: None,
                clip: ClipConfig { low: 0.2, high: 0.28 },
                kl: Some((0.05, estimator)),
                tokens: 7,
            };
            let ratio = (learner_logprob - actor_logprob).exp();
            prop_assume!((ratio - 0.8).abs() > 1e-3 && (ratio - 1.28).abs() > 1e-3);
            let at = |learner_logprob| objective.token(&LossToken {
                learner_logprob, actor_logprob, reference_logprob, advantage, masked,
            });
            let step = 1e-6;
            let difference = (at(learner_logprob + step).loss - at(learner_logprob - step).loss) / (2.0 * step);
            let slope = at(learner_logprob).slope;
            prop_assert!((difference - slope).abs() < 1e-5 * (1.0 + slope.abs()), "{difference} {slope}");
        }
    }
}
