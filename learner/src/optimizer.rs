//! From summed gradients to new weights: AdamW, Adafactor and SGD, the learning rate's schedule, the global norm.
//! `f32` on the device; knows nothing of groups.

use burn::tensor::Tensor;
use kernels::{Adafactor, AdamW, Operations, Trained};
use serde::{Deserialize, Serialize};

use crate::config::within;
use crate::error::LearnerError;
use moments::Moment;

pub(crate) mod moments;

/// The section `[optimizer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The rule of the update.
    pub kind: OptimizerKind,
    /// The highest learning rate of the schedule.
    pub learning_rate: f64,
    /// Decay of AdamW's two moments.
    #[serde(default = "OptimizerConfig::default_betas")]
    pub betas: [f64; 2],
    /// AdamW's guard against division by 0.
    #[serde(default = "OptimizerConfig::default_eps")]
    pub eps: f64,
    /// How AdamW's moments are stored.
    #[serde(default)]
    pub moments: MomentPrecision,
    /// Decoupled decay of the matrices; norms and biases are left alone.
    #[serde(default)]
    pub weight_decay: f64,
    /// Steps over which the learning rate rises to its highest.
    #[serde(default)]
    pub warmup_steps: u64,
    /// The learning rate after warm-up.
    #[serde(default)]
    pub schedule: LearningRateSchedule,
    /// Longest gradient, over all parameters together; absent is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
}

/// The rule of the update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// AdamW (arXiv 1711.05101) with bias correction.
    Adamw,
    /// Adafactor (arXiv 1804.04235) at the given learning rate, without a first moment: of a matrix it keeps two rows of
    /// numbers.
    Adafactor,
    /// `w -= learning_rate * gradient`, without momentum.
    Sgd,
}

/// How weights in bf16 are made of an update ([`crate::Trainer::in_half_precision`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// Of master weights in f32, which are what is trained and what a checkpoint holds.
    #[default]
    Nearest,
    /// At random, so that the mean is the exact number, and without master weights.
    Stochastic,
}

/// How AdamW's moments are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MomentPrecision {
    /// 32 bits.
    #[default]
    F32,
    /// 8 bits in blocks of 256 numbers (arXiv 2110.02861); of parameters with fewer than 4096 numbers 32 bits. On the CPU
    /// alone.
    Int8,
}

/// The learning rate after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearningRateSchedule {
    /// Stays.
    #[default]
    Constant,
    /// Falls on a line to 0 at the last step.
    Linear,
    /// Falls on half a cosine to 0 at the last step.
    Cosine,
}

impl OptimizerConfig {
    fn default_betas() -> [f64; 2] {
        [0.9, 0.999]
    }

    fn default_eps() -> f64 {
        1e-8
    }

    /// Says which value is invalid.
    ///
    /// # Errors
    /// [`LearnerError::Config`] with the first key whose value is out of its range.
    pub fn check(&self) -> Result<(), LearnerError> {
        within("optimizer.learning_rate", self.learning_rate, 0.0, f64::MAX)?;
        for beta in self.betas {
            if !(0.0..1.0).contains(&beta) {
                return Err(LearnerError::config("optimizer.betas", format!("{beta} is not in [0, 1)")));
            }
        }
        if self.eps.is_nan() || self.eps <= 0.0 {
            return Err(LearnerError::config("optimizer.eps", format!("{} is not above 0", self.eps)));
        }
        within("optimizer.weight_decay", self.weight_decay, 0.0, f64::MAX)?;
        match self.clip_norm {
            Some(norm) if norm.is_nan() || norm <= 0.0 => {
                let reason = format!("{norm} is not above 0; leave the key out for no limit");
                Err(LearnerError::config("optimizer.clip_norm", reason))
            }
            _ => Ok(()),
        }
    }

    /// The decay of a parameter. Norms and biases do not decay.
    fn decay_of<T>(&self, parameter: &Trained<T>) -> f64 {
        if parameter.is_matrix { self.weight_decay } else { 0.0 }
    }

    /// The learning rate of a step, counted from 0, in a run of `steps_total` steps.
    #[must_use]
    pub fn learning_rate_at(&self, step: u64, steps_total: u64) -> f64 {
        if step < self.warmup_steps {
            // The first step has a rate above 0, or it would be wasted.
            return self.learning_rate * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let falling = steps_total.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / falling as f64).min(1.0);
        self.learning_rate
            * match self.schedule {
                LearningRateSchedule::Constant => 1.0,
                LearningRateSchedule::Linear => 1.0 - progress,
                LearningRateSchedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            }
    }
}

/// The optimizer's state: what must come back with a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Optimizer {
    pub(crate) config: OptimizerConfig,
    /// The engine's.
    pub(crate) operations: Operations,
    /// One a trained parameter, in their order; `None` for SGD, which keeps nothing.
    pub(crate) moments: Option<Vec<Moment>>,
    /// Updates made so far: AdamW's bias correction counts them, not the steps.
    pub(crate) updates: u64,
    /// Whether the moments may be other than 0.
    pub(crate) has_moved: bool,
}

/// The numbers of one update besides the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    pub(crate) learning_rate: f64,
    /// Factor that brings the gradient within `clip_norm`.
    pub(crate) gradient_scale: f64,
}

impl Optimizer {
    pub(crate) fn new(
        config: OptimizerConfig,
        parameters: &[Trained<&Tensor<2>>],
        operations: Operations,
    ) -> Self {
        let moments =
            parameters.iter().map(|parameter| Moment::new(&config, parameter, operations)).collect();
        Self { config, operations, moments, updates: 0, has_moved: false }
    }

    /// The factor that brings a gradient of this norm within the limit.
    pub(crate) fn gradient_scale(&self, gradient_norm: f64) -> f64 {
        self.config.clip_norm.map_or(1.0, |limit| (limit / (gradient_norm + 1e-6)).min(1.0))
    }

    /// Whether an update along gradients of 0 changes neither weights nor moments: nothing decays, and no update before
    /// it has made a moment.
    pub(crate) fn rests_without_gradient(&self) -> bool {
        self.config.weight_decay == 0.0 && (self.moments.is_none() || !self.has_moved)
    }

    /// Moves the parameters one update along their gradients, which are of the same order. What is left in the place of
    /// the gradients has their shapes and numbers that nobody needs.
    pub(crate) fn update(
        &mut self,
        parameters: Vec<Trained<&mut Tensor<2>>>,
        gradients: Vec<&mut Tensor<2>>,
        rates: Rates,
    ) {
        assert_eq!(parameters.len(), gradients.len(), "one gradient a trained parameter");
        self.begin_update();
        for (place, (parameter, gradient)) in parameters.into_iter().zip(gradients).enumerate() {
            self.update_one(place, parameter, gradient, rates);
        }
    }

    /// Counts an update, of which [`Optimizer::update_one`] makes the parts.
    pub(crate) fn begin_update(&mut self) {
        self.updates += 1;
        self.has_moved = true;
    }

    /// Moves the parameter at a place in their order.
    pub(crate) fn update_one(
        &mut self,
        place: usize,
        parameter: Trained<&mut Tensor<2>>,
        gradient: &mut Tensor<2>,
        rates: Rates,
    ) {
        let (updates, weight_decay) = (self.updates, self.config.decay_of(&parameter));
        let Rates { learning_rate, gradient_scale } = rates;
        let (operations, weight) = (self.operations, parameter.value);
        let adamw = AdamW {
            learning_rate,
            betas: self.config.betas,
            eps: self.config.eps,
            weight_decay,
            updates,
            gradient_scale,
        };
        let left = take(gradient);
        *gradient = match self.moments.as_mut().map(|moments| &mut moments[place]) {
            None => {
                let kept = 1.0 - learning_rate * weight_decay;
                operations.descend(weight, left, kept, learning_rate * gradient_scale)
            }
            Some(Moment::Two { first, second }) => operations.adamw(&adamw, weight, left, (first, second)),
            Some(Moment::Blocks(blocks)) => operations.adamw_in_blocks(&adamw, weight, left, blocks),
            Some(Moment::Second(moment)) => {
                let rule = Adafactor { learning_rate, weight_decay, updates, gradient_scale };
                operations.adafactor(&rule, weight, left, moment)
            }
        };
    }
}

/// Takes a tensor out of its place, so that the next operation on it may reuse its memory.
fn take(place: &mut Tensor<2>) -> Tensor<2> {
    let empty = Tensor::empty([0, 0], &place.device());
    std::mem::replace(place, empty)
}

/// The norm over all gradients together; one read from the device.
///
/// # Errors
/// The name of the first parameter whose gradient holds a number that is not finite.
pub(crate) fn gradient_norm<T>(
    parameters: &[Trained<T>],
    gradients: &[&Tensor<2>],
    operations: Operations,
) -> Result<f64, String> {
    assert_eq!(parameters.len(), gradients.len(), "one gradient a trained parameter");
    let squares = operations.sums_of_squares(gradients);
    match squares.iter().position(|square| !square.is_finite()) {
        Some(place) => Err(parameters[place].name.clone()),
        None => Ok(squares.iter().sum::<f64>().sqrt()),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use kernels::{Decoder, GradientSums};

    use crate::testing::{adapted, decoder, optimizer_config};

    fn matrix<const R: usize, const C: usize>(values: [[f32; C]; R]) -> Tensor<2> {
        Tensor::from_data(TensorData::from(values), &Device::flex())
    }

    /// A matrix and a norm.
    fn two_parameters(matrix_values: [[f32; 2]; 2], norm_values: [f32; 2]) -> [Tensor<2>; 2] {
        [matrix(matrix_values), matrix([norm_values])]
    }

    /// The same as what is trained.
    fn trained<T>([matrix, norm]: [T; 2]) -> Vec<Trained<T>> {
        let parameter = |name: &str, value, is_matrix| Trained { name: name.to_owned(), value, is_matrix };
        vec![parameter("matrix", matrix, true), parameter("norm", norm, false)]
    }

    fn optimizer(config: OptimizerConfig, weights: &[Tensor<2>; 2]) -> Optimizer {
        Optimizer::new(config, &trained(weights.each_ref()), Operations::Fused)
    }

    fn update(
        optimizer: &mut Optimizer,
        weights: &mut [Tensor<2>; 2],
        mut gradients: [Tensor<2>; 2],
        rates: Rates,
    ) {
        optimizer.update(trained(weights.each_mut()), gradients.iter_mut().collect(), rates);
    }

    fn norm(weights: &[Tensor<2>; 2], gradients: &[Tensor<2>; 2]) -> Result<f64, String> {
        let gradients: Vec<_> = gradients.iter().collect();
        gradient_norm(&trained(weights.each_ref()), &gradients, Operations::Fused)
    }

    fn values(weights: &[Tensor<2>; 2]) -> Vec<f32> {
        weights.iter().flat_map(|tensor| tensor.to_data().iter::<f32>().collect::<Vec<_>>()).collect()
    }

    fn assert_close(actual: &[f32], expected: &[f32]) {
        assert_eq!(actual.len(), expected.len());
        for (a, b) in actual.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{actual:?} is not {expected:?}");
        }
    }

    fn plain(learning_rate: f64) -> Rates {
        Rates { learning_rate, gradient_scale: 1.0 }
    }

    /// The numbers are those of `torch.optim.AdamW` with decay on the matrix alone.
    #[test]
    fn adamw_makes_the_steps_of_pytorch() {
        let mut config = optimizer_config("adamw");
        config.betas = [0.9, 0.95];
        config.weight_decay = 0.1;
        let mut weights = two_parameters([[1.0, -2.0], [0.5, 3.0]], [1.0, -1.0]);
        let mut optimizer = optimizer(config, &weights);
        let steps = [
            (([[0.1, -0.2], [0.0, 1.0]], [0.5, 0.01]), [0.989, -1.988, 0.4995, 2.987, 0.99, -1.01]),
            (
                ([[0.3, 0.1], [0.2, -1.0]], [-0.5, 0.02]),
                [0.978_924_16, -1.983_328_5, 0.491_650_9, 2.984_539_5, 0.990_526_3, -1.019_579_9],
            ),
            (
                ([[-0.2, 0.4], [0.1, 0.5]], [0.25, 0.03]),
                [0.975_379_47, -1.985_853_4, 0.483_194_35, 2.979_792_8, 0.988_764_1, -1.029_025],
            ),
        ];
        for ((matrix, norm), expected) in steps {
            update(&mut optimizer, &mut weights, two_parameters(matrix, norm), plain(0.01));
            assert_close(&values(&weights), &expected);
        }
        assert_eq!(optimizer.updates, 3);
    }

    #[test]
    fn sgd_goes_down_the_gradient_and_decays_matrices_alone() {
        let mut weights = two_parameters([[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0]);
        let gradients = || two_parameters([[1.0, 0.0], [-1.0, 2.0]], [1.0, -1.0]);
        let mut config = optimizer_config("sgd");
        update(&mut optimizer(config.clone(), &weights), &mut weights, gradients(), plain(0.5));
        assert_close(&values(&weights), &[0.5, 2.0, 3.5, 3.0, 4.5, 6.5]);
        config.weight_decay = 0.2;
        update(&mut optimizer(config, &weights), &mut weights, gradients(), plain(0.5));
        assert_close(&values(&weights), &[-0.05, 1.8, 3.65, 1.7, 4.0, 7.0]);
    }

    #[test]
    fn the_limit_is_on_the_norm_over_all_parameters() {
        let gradients = two_parameters([[2.0, 0.0], [0.0, 2.0]], [2.0, 2.0]);
        assert_eq!(norm(&gradients, &gradients), Ok(4.0));
        let mut config = optimizer_config("sgd");
        config.clip_norm = Some(1.0);
        let mut weights = two_parameters([[0.0; 2]; 2], [0.0; 2]);
        let mut optimizer = optimizer(config, &weights);
        assert_eq!(optimizer.gradient_scale(0.5), 1.0);
        let rates = Rates { learning_rate: 1.0, gradient_scale: optimizer.gradient_scale(4.0) };
        update(&mut optimizer, &mut weights, gradients, rates);
        assert_close(&values(&weights), &[-0.5, 0.0, 0.0, -0.5, -0.5, -0.5]);
    }

    // Invariant 8: the tensor is named.
    #[test]
    fn a_gradient_that_is_not_finite_is_named() {
        let spoiled = |decoder: Decoder, name: &str| {
            let mut gradients = GradientSums::zeros_of(&decoder, Operations::Fused);
            let place = decoder.trained().iter().position(|parameter| parameter.name == name).unwrap();
            let gradient = gradients.values_mut().swap_remove(place);
            *gradient = gradient.clone().add_scalar(f32::INFINITY);
            let named = gradient_norm(&decoder.trained(), &gradients.values(), Operations::Fused);
            assert_eq!(named, Err(name.to_owned()));
        };
        spoiled(decoder(1), "model.layers.1.mlp.up_proj.weight");
        let name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight";
        spoiled(adapted(decoder(1), &["up_proj", "q_proj"]), name);
    }

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let mut config = OptimizerConfig { learning_rate: 8.0, warmup_steps: 4, ..optimizer_config("sgd") };
        let rates =
            |config: &OptimizerConfig| [0, 1, 3, 4, 8, 12, 99].map(|step| config.learning_rate_at(step, 12));
        assert_eq!(rates(&config), [2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
        config.schedule = LearningRateSchedule::Linear;
        assert_eq!(rates(&config), [2.0, 4.0, 8.0, 8.0, 4.0, 0.0, 0.0]);
        config.schedule = LearningRateSchedule::Cosine;
        for (rate, expected) in rates(&config).iter().zip([2.0, 4.0, 8.0, 8.0, 4.0, 0.0, 0.0]) {
            assert!((rate - expected).abs() < 1e-12, "{rate} is not {expected}");
        }
    }

    /// Makes a config wrong in one place.
    type Spoil = fn(&mut OptimizerConfig);

    #[test]
    fn errors_name_the_key() {
        let cases: [(&str, Spoil); 4] = [
            ("optimizer.learning_rate", |config| config.learning_rate = -1.0),
            ("optimizer.betas", |config| config.betas = [0.9, 1.0]),
            ("optimizer.eps", |config| config.eps = 0.0),
            ("optimizer.clip_norm", |config| config.clip_norm = Some(0.0)),
        ];
        for (key, spoil) in cases {
            let mut config = optimizer_config("adamw");
            spoil(&mut config);
            assert!(config.check().unwrap_err().to_string().starts_with(key), "{key}");
        }
    }
}
