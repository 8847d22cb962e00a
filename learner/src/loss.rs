//! The loss of a step, over units: what a loss sees at once is one completion (policy losses, supervised training) or
//! several that are compared (a pair, for DPO).
//!
//! A loss is a pure function from what the model says of a unit's tokens to the loss and its derivatives. It knows no
//! tensors: `kernels` goes backward from the derivatives. The division by the step's denominator is the trainer's, so
//! that no loss depends on how a step is cut.

mod policy;
mod mpt;
mod kl;
mod supervised;

use std::fmt::Debug;

use crate::config::{ImportanceKind, LearnerConfig};

pub use kl::{KlPenalty, mismatch};
pub use mpt::{Mask, MptRule, entropy_mean};
pub use policy::{PolicyLoss, PolicyToken};
pub use supervised::CrossEntropy;

/// What is known of a completion when its loss is asked for. The lists have one entry a trained token; tokens that were
/// given are in none of them.
#[derive(Clone, Copy, Debug)]
pub struct CompletionStats<'a> {
    /// Of the completion; 0 where there are no rewards.
    pub advantage: f64,
    /// Whether the mask of mastered tokens may touch it.
    pub positive: bool,
    /// Under the weights in training, at the sampling temperature.
    pub learner_logprobs: &'a [f32],
    /// Of the distributions that the tokens are drawn from, under the weights in training, in nats.
    pub entropies: &'a [f32],
    /// As stored when the tokens were drawn; empty where no actor drew them.
    pub actor_logprobs: &'a [f32],
    /// Under the frozen reference; empty where there is none.
    pub reference_logprobs: &'a [f32],
}

impl CompletionStats<'_> {
    /// The number of trained tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.learner_logprobs.len()
    }
}

/// Which limit of the ratio stopped the gradient of a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clipped {
    /// None.
    #[default]
    No,
    /// The lower one, with a negative advantage.
    Low,
    /// The upper one, with a positive advantage.
    High,
}

/// What one token adds to the loss of a step, before the division by the step's denominator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLoss {
    /// Its part of the loss, penalty included. A loss of the whole unit is spread over its tokens in any way.
    pub loss: f64,
    /// Derivative of the unit's loss by the token's log-probability under the weights in training.
    pub dloss_dlogprob: f64,
    /// Derivative of the unit's loss by the entropy of the token's distribution under the weights in training.
    pub dloss_dentropy: f64,
    /// Its divergence from the reference, unweighted; 0 where the penalty is off.
    pub kl: f64,
    /// The limit of the ratio that it ran into.
    pub clipped: Clipped,
    /// What its policy loss was multiplied by; 1 where nothing is corrected.
    pub importance_weight: f64,
    /// Whether the mask took it out of the policy loss.
    pub masked: bool,
}

impl Default for TokenLoss {
    fn default() -> Self {
        Self {
            loss: 0.0,
            dloss_dlogprob: 0.0,
            dloss_dentropy: 0.0,
            kl: 0.0,
            clipped: Clipped::No,
            importance_weight: 1.0,
            masked: false,
        }
    }
}

/// What the sum over all units of a step is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Denominator {
    /// Trained tokens of the whole step, masked and skipped ones too.
    #[default]
    Tokens,
    /// Units of the whole step.
    Units,
}

/// A loss over units. Implemented outside of this crate as well: `learner/tests/` adds CISPO, DPO and a bonus for
/// entropy.
pub trait Loss: Debug + Send + Sync {
    /// Loss and derivatives at what the model says of a unit: one entry a trained token, completion after completion.
    fn unit(&self, unit: &[CompletionStats<'_>]) -> Vec<TokenLoss>;

    /// What the sum over the step's units is divided by.
    fn denominator(&self) -> Denominator {
        Denominator::Tokens
    }

    /// Whether a completion of this advantage has no derivative, whatever the model says of it: such completions stay in
    /// the denominator and go through no pass.
    fn has_no_slope(&self, advantage: f64) -> bool {
        let _ = advantage;
        false
    }
}

/// The policy's loss that a configuration asks for: where a kind of loss is chosen.
pub(crate) fn of_config(config: &LearnerConfig) -> Box<dyn Loss> {
    match config.importance.kind {
        ImportanceKind::Pois | ImportanceKind::Sais => Box::new(PolicyLoss::from_config(config)),
    }
}

/// A policy's loss with the mask and the penalty that are laid over it.
#[derive(Clone, Copy, Debug)]
pub struct RegularisedLoss<'a> {
    /// The loss of the policy alone.
    pub policy: &'a dyn Loss,
    /// The mask of mastered tokens, where it is on.
    pub mask: Option<Mask>,
    /// The penalty for leaving a reference, where it is on. Masked tokens have it too.
    pub penalty: Option<KlPenalty>,
}

impl Loss for RegularisedLoss<'_> {
    fn unit(&self, unit: &[CompletionStats<'_>]) -> Vec<TokenLoss> {
        let mut tokens = self.policy.unit(unit);
        let mut rest = &mut tokens[..];
        for completion in unit {
            let (own, behind) = rest.split_at_mut(completion.tokens());
            if let Some(mask) = &self.mask {
                mask.apply(completion, own);
            }
            if let Some(penalty) = &self.penalty {
                penalty.add(completion, own);
            }
            rest = behind;
        }
        tokens
    }

    fn denominator(&self) -> Denominator {
        self.policy.denominator()
    }

    fn has_no_slope(&self, advantage: f64) -> bool {
        self.penalty.is_none() && self.policy.has_no_slope(advantage)
    }
}
