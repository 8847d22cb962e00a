//! The weights in training with their optimizer.

use std::sync::Arc;

use kernels::sampling::key;
use kernels::{Decoder, GradientSums, Operations, Precision, Stored, Trained};

use crate::base::BaseModel;
use crate::error::LearnerError;
use crate::optimizer::{MomentPrecision, Optimizer, OptimizerConfig, Rates, Rounding, gradient_norm};

/// Weights in training.
#[derive(Debug)]
pub(crate) struct TrainState {
    /// What passes are computed with.
    pub(crate) decoder: Decoder,
    half: Option<HalfPrecision>,
    /// What is trained, by its order.
    pub(crate) names: Vec<Trained<()>>,
    pub(crate) optimizer: Optimizer,
    pub(crate) version: u64,
    steps_total: u64,
    /// What the last update left over: the memory of the next gradients.
    spare: Option<GradientSums>,
    /// What adapters belong to, where they are trained.
    pub(crate) base: Option<BaseModel>,
}

/// How weights in bf16 are made of an update.
#[derive(Debug)]
enum HalfPrecision {
    /// Of master weights in f32, which are what is trained, rounded to the nearest.
    Master(Box<Decoder>),
    /// Of the weights in bf16 before it, rounded at random by this seed.
    Stochastic(u64),
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
        if optimizer.moments == MomentPrecision::Int8 && operations != Operations::Fused {
            let reason = "int8 is for run.device = \"cpu\"; leave the key out";
            return Err(LearnerError::config("optimizer.moments", reason));
        }
        let trained = decoder.trained();
        let optimizer = Optimizer::new(optimizer, &trained, operations);
        let named =
            trained.into_iter().map(|Trained { name, is_matrix, .. }| Trained { name, value: (), is_matrix });
        let names = named.collect();
        Ok(Self { decoder, half: None, names, optimizer, version: 0, steps_total, spare: None, base: None })
    }

    /// From here on passes are computed with weights in bf16, which updates are rounded to.
    pub(crate) fn in_half_precision(self, rounding: Rounding, seed: u64) -> Self {
        let half = match rounding {
            Rounding::Nearest => HalfPrecision::Master(Box::new(self.decoder.clone())),
            Rounding::Stochastic => HalfPrecision::Stochastic(seed),
        };
        Self { decoder: self.decoder.packed(Precision::Bf16), half: Some(half), ..self }
    }

    /// The model whose parameters, or adapters, a checkpoint holds.
    pub(crate) fn kept(&self) -> &Decoder {
        match &self.half {
            Some(HalfPrecision::Master(master)) => master,
            Some(HalfPrecision::Stochastic(_)) | None => &self.decoder,
        }
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
        let norm = gradient_norm(&self.names, &gradients.values(), self.optimizer.operations);
        let grad_norm =
            norm.map_err(|tensor| LearnerError::Gradient { step: self.version, tensor, prompts: prompts() })?;
        let learning_rate = self.optimizer.config.learning_rate_at(self.version, self.steps_total);
        let rates = Rates { learning_rate, gradient_scale: self.optimizer.gradient_scale(grad_norm) };
        self.descend(gradients, rates);
        Ok(Update { grad_norm, learning_rate })
    }

    fn descend(&mut self, mut gradients: GradientSums, rates: Rates) {
        let optimizer = &mut self.optimizer;
        match &mut self.half {
            None => optimizer.update(self.decoder.trained_mut(), gradients.values_mut(), rates),
            Some(HalfPrecision::Master(master)) => {
                optimizer.update(master.trained_mut(), gradients.values_mut(), rates);
                self.decoder = Decoder::clone(master).packed(Precision::Bf16);
            }
            Some(HalfPrecision::Stochastic(seed)) => {
                let Stored::Packed(packed) = &self.decoder.weights else {
                    unreachable!("weights in bf16 are packed")
                };
                optimizer.begin_update();
                let random_key = key(&[*seed, optimizer.updates]);
                let mut sums = gradients.values_mut();
                let new = packed.updated(&self.decoder.config, random_key, |place, mut weight| {
                    let Trained { name, is_matrix, .. } = self.names[place].clone();
                    let parameter = Trained { name, value: &mut weight, is_matrix };
                    optimizer.update_one(place, parameter, &mut *sums[place], rates);
                    weight
                });
                self.decoder.weights = Stored::Packed(Arc::new(new));
            }
        }
        self.spare = Some(gradients);
    }
}
