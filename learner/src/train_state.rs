//! The weights in training with their optimizer.

use kernels::{Decoder, GradientSums, Operations};

use crate::base::BaseModel;
use crate::error::LearnerError;
use crate::optimizer::{Optimizer, OptimizerConfig, Rates, gradient_norm};

/// Weights in training.
#[derive(Debug)]
pub(crate) struct TrainState {
    pub(crate) decoder: Decoder,
    pub(crate) optimizer: Optimizer,
    pub(crate) version: u64,
    steps_total: u64,
    /// What the last update left over: the memory of the next gradients.
    spare: Option<GradientSums>,
    /// What adapters belong to, where they are trained.
    pub(crate) base: Option<BaseModel>,
}

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    pub(crate) grad_norm: f64,
    pub(crate) learning_rate: f64,
}

impl TrainState {
    pub(crate) fn new(
        decoder: Decoder,
        optimizer: OptimizerConfig,
        steps_total: u64,
        operations: Operations,
    ) -> Result<Self, LearnerError> {
        optimizer.check()?;
        let optimizer = Optimizer::new(optimizer, &decoder.trained(), operations);
        Ok(Self { decoder, optimizer, version: 0, steps_total, spare: None, base: None })
    }

    /// One optimizer step of a gradient that is 0, to the bit as [`TrainState::update`] makes it.
    pub(crate) fn update_without_gradient(&mut self) -> Update {
        let learning_rate = self.optimizer.config.learning_rate_at(self.version, self.steps_total);
        if self.optimizer.rests_without_gradient() {
            self.optimizer.updates += 1;
        } else {
            let gradients = self.gradients();
            let rates = Rates { learning_rate, gradient_scale: self.optimizer.gradient_scale(0.0) };
            self.descend(gradients, rates);
        }
        Update { grad_norm: 0.0, learning_rate }
    }

    /// Zeros, one a parameter: where a step's gradients are summed. They have the same memory in every step, so that a
    /// step asks for none, and none is kept back between pieces that are in use.
    pub(crate) fn gradients(&mut self) -> GradientSums {
        let operations = self.optimizer.operations;
        match self.spare.take() {
            Some(spare) => spare.into_zeros(operations),
            None => GradientSums::zeros_of(&self.decoder, operations),
        }
    }

    /// One optimizer step. `prompts` names what the gradients came from, for an error.
    ///
    /// # Errors
    /// [`LearnerError::Gradient`], before any weight changes, where a gradient is not finite.
    pub(crate) fn update(
        &mut self,
        gradients: GradientSums,
        prompts: impl FnOnce() -> String,
    ) -> Result<Update, LearnerError> {
        let norm = gradient_norm(&self.decoder.trained(), &gradients.values(), self.optimizer.operations);
        let grad_norm =
            norm.map_err(|tensor| LearnerError::Gradient { step: self.version, tensor, prompts: prompts() })?;
        let learning_rate = self.optimizer.config.learning_rate_at(self.version, self.steps_total);
        let rates = Rates { learning_rate, gradient_scale: self.optimizer.gradient_scale(grad_norm) };
        self.descend(gradients, rates);
        Ok(Update { grad_norm, learning_rate })
    }

    fn descend(&mut self, mut gradients: GradientSums, rates: Rates) {
        self.optimizer.update(self.decoder.trained_mut(), gradients.values_mut(), rates);
        self.spare = Some(gradients);
    }
}
