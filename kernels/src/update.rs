//! What an optimizer does to one parameter: the update of AdamW, with moments in f32 or in 8 bits ([`blocks`]), that of
//! Adafactor ([`adafactor`]), and sums of squares for the gradient's norm.
//!
//! On the CPU an update is one pass over memory by all threads, where the same in tensor operations is twelve passes
//! by one of them; an update's numbers come from the same operations in the same order, so both give the same bits.

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::flex::{Rows, Sum, take};
use crate::simd;

pub(crate) mod adafactor;
pub(crate) mod blocks;

/// Numbers of a parameter that one task updates: large enough that handing it over costs nothing beside it, small
/// enough that a model of a few million parameters feeds many cores.
const TASK_NUMBERS: usize = 32 << 10;
/// Squares that are summed in `f32` before their sum is added in `f64`.
const SQUARES: usize = 1 << 10;

/// The numbers of one AdamW update (arXiv 1711.05101, algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The learning rate of this update.
    pub learning_rate: f64,
    /// Decay of the two moments.
    pub betas: [f64; 2],
    /// What is added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay.
    pub weight_decay: f64,
    /// The update's number, counted from 1, which bias correction needs.
    pub updates: u64,
    /// The factor of the gradient, below 1 where it is clipped.
    pub gradient_scale: f64,
}

impl AdamW {
    /// The factors that undo the moments' bias to zero: of the first moment, and of the root of the second.
    fn corrections(&self) -> [f64; 2] {
        // In f64: 1 - beta^t loses half its digits in f32 at the first updates.
        let [first, second] = self.betas.map(|beta| 1.0 - beta.powf(self.updates as f64));
        [1.0 / first, 1.0 / second.sqrt()]
    }

    /// In burn's own operations, on any device; what is left over is the gradient.
    pub(crate) fn on_tensors(
        &self,
        weight: &mut Tensor<2>,
        gradient: Tensor<2>,
        (first, second): (&mut Tensor<2>, &mut Tensor<2>),
    ) -> Tensor<2> {
        let [beta1, beta2] = self.betas;
        let [correction1, correction2] = self.corrections();
        let gradient =
            if self.gradient_scale < 1.0 { gradient.mul_scalar(self.gradient_scale) } else { gradient };
        *first = take(first).mul_scalar(beta1) + gradient.clone().mul_scalar(1.0 - beta1);
        *second = take(second).mul_scalar(beta2) + gradient.clone().square().mul_scalar(1.0 - beta2);
        let root = second.clone().sqrt().mul_scalar(correction2);
        let step = first.clone().mul_scalar(correction1) / root.add_scalar(self.eps);
        let kept = if self.weight_decay == 0.0 {
            take(weight)
        } else {
            take(weight).mul_scalar(1.0 - self.learning_rate * self.weight_decay)
        };
        *weight = kept - step.mul_scalar(self.learning_rate);
        gradient
    }

    /// In one pass over memory on the CPU; what is left over is the parameter as it was.
    pub(crate) fn on_slices(
        &self,
        weight: &mut Tensor<2>,
        mut gradient: Tensor<2>,
        (first, second): (&mut Tensor<2>, &mut Tensor<2>),
    ) -> Tensor<2> {
        let shape = weight.shape();
        let shapes = [&gradient, &*first, &*second].map(|tensor| tensor.shape());
        assert!(shapes.iter().all(|other| *other == shape), "a parameter {shape:?} is moved by {shapes:?}");
        let old = Rows::of_tensor(weight);
        // Decoders that were handed out share the old numbers. The new ones take the place of the gradient, which
        // nobody needs after this, so that no memory is asked for, and the old ones can be the next gradient.
        let [mut new, mut first_sum, mut second_sum] =
            [&mut gradient, &mut *first, &mut *second].map(Sum::take);
        let moments = first_sum
            .slice_mut()
            .par_chunks_mut(TASK_NUMBERS)
            .zip(second_sum.slice_mut().par_chunks_mut(TASK_NUMBERS));
        let numbers = new.slice_mut().par_chunks_mut(TASK_NUMBERS).zip(old.slice().par_chunks(TASK_NUMBERS));
        numbers.zip(moments).for_each(|((gradient, old), moments)| self.on_part(gradient, old, moments));
        *first = first_sum.into_tensor();
        *second = second_sum.into_tensor();
        drop(old);
        std::mem::replace(weight, new.into_tensor())
    }

    /// Replaces gradients by new weights.
    fn on_part(&self, gradients: &mut [f32], old: &[f32], (first, second): (&mut [f32], &mut [f32])) {
        let [beta1, beta2] = self.betas.map(|beta| beta as f32);
        let [rest1, rest2] = self.betas.map(|beta| (1.0 - beta) as f32);
        let [correction1, correction2] = self.corrections().map(|factor| factor as f32);
        let (rate, eps, scale) =
            (self.learning_rate as f32, self.eps as f32, self.gradient_scale.min(1.0) as f32);
        let kept = (1.0 - self.learning_rate * self.weight_decay) as f32;
        simd::vectorized(
            #[inline(always)]
            || {
                let moments = first.iter_mut().zip(second);
                for ((number, old), (first, second)) in gradients.iter_mut().zip(old).zip(moments) {
                    let gradient = *number * scale;
                    *first = *first * beta1 + gradient * rest1;
                    *second = *second * beta2 + gradient * gradient * rest2;
                    let step = *first * correction1 / (second.sqrt() * correction2 + eps);
                    *number = old * kept - step * rate;
                }
            },
        );
    }
}

/// `weight * kept - gradient * factor` in burn's own operations, on any device.
pub(crate) fn descend_on_tensors(weight: &mut Tensor<2>, gradient: &Tensor<2>, kept: f64, factor: f64) {
    *weight = take(weight).mul_scalar(kept) - gradient.clone().mul_scalar(factor);
}

/// `weight * kept - gradient * factor` in one pass over memory on the CPU.
pub(crate) fn descend_on_slices(weight: &mut Tensor<2>, gradient: &Tensor<2>, kept: f64, factor: f64) {
    assert_eq!(weight.shape(), gradient.shape(), "a parameter and its gradient");
    let (kept, factor) = (kept as f32, factor as f32);
    let (mut numbers, slopes) = (Sum::take(weight), Rows::of_tensor(gradient));
    let parts = numbers.slice_mut().par_chunks_mut(TASK_NUMBERS).zip(slopes.slice().par_chunks(TASK_NUMBERS));
    parts.for_each(|(numbers, slopes)| {
        simd::vectorized(
            #[inline(always)]
            || {
                for (number, slope) in numbers.iter_mut().zip(slopes) {
                    *number = *number * kept - slope * factor;
                }
            },
        );
    });
    *weight = numbers.into_tensor();
}

/// The sum of the squares of each tensor's numbers, on the CPU.
pub(crate) fn squares_on_slices(tensors: &[&Tensor<2>]) -> Vec<f64> {
    tensors.iter().map(|tensor| sum_on_slices(Rows::of_tensor(tensor).slice())).collect()
}

/// The sum of the squares of each tensor's numbers, with one read from any device.
pub(crate) fn squares_on_tensors(tensors: &[&Tensor<2>]) -> Vec<f64> {
    // Rows first: a sum over millions of squares in one go would lose digits.
    let squares = tensors.iter().map(|tensor| (*tensor).clone().square().sum_dim(1).sum());
    Tensor::cat(squares.collect(), 0).into_data().iter::<f32>().map(f64::from).collect()
}

fn sum_on_slices(numbers: &[f32]) -> f64 {
    let part = |part: &[f32]| -> f64 {
        simd::vectorized(
            #[inline(always)]
            || part.chunks(SQUARES).map(|squares| f64::from(simd::dot(squares, squares))).sum(),
        )
    };
    // The order of the sum is that of the parts, whatever threads there are.
    let parts: Vec<f64> = numbers.par_chunks(TASK_NUMBERS).map(part).collect();
    parts.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::into_zeros;
    use crate::operations::Operations;
    use crate::test_tensors::{noise, numbers};

    const RULE: AdamW = AdamW {
        learning_rate: 0.01,
        betas: [0.9, 0.95],
        eps: 1e-8,
        weight_decay: 0.1,
        updates: 1,
        gradient_scale: 1.0,
    };

    /// Sizes around a task's, with and without clipping and decay.
    #[test]
    fn one_pass_over_slices_gives_the_bits_of_tensor_operations() {
        for (shape, gradient_scale, weight_decay) in [
            ([1, 7], 1.0, 0.1),
            ([3, 5], 0.3, 0.0),
            ([2, TASK_NUMBERS / 2], 0.7, 0.1),
            ([5, TASK_NUMBERS / 2 + 3], 1.0, 0.0),
        ] {
            let start = || [noise(shape, 1), noise(shape, 0).zeros_like(), noise(shape, 0).zeros_like()];
            let ([mut weight, mut first, mut second], mut plain) = (start(), start());
            for updates in 1..4 {
                let rule = AdamW { updates, gradient_scale, weight_decay, ..RULE };
                let gradient = || noise::<2>(shape, updates + 1);
                let before = numbers(weight.clone());
                let left = rule.on_slices(&mut weight, gradient(), (&mut first, &mut second));
                assert_eq!(numbers(left), before, "what is left over is the parameter as it was");
                let [weight, first, second] = &mut plain;
                let left = rule.on_tensors(weight, gradient(), (first, second));
                assert_eq!(left.dims(), shape);
            }
            for (found, expected) in [weight, first, second].into_iter().zip(plain) {
                assert_eq!(found.dims(), shape);
                assert_eq!(numbers(found), numbers(expected), "{shape:?}");
            }
        }
    }

    #[test]
    fn who_shares_a_weight_keeps_the_old_numbers() {
        let [mut weight, mut first, mut second] = [1, 2, 3].map(|seed| noise::<2>([2, 3], seed).square());
        let (shared, before) = (weight.clone(), numbers(weight.clone()));
        let left = RULE.on_slices(&mut weight, noise([2, 3], 4), (&mut first, &mut second));
        // The next gradient takes a copy where somebody has the numbers.
        assert_eq!(numbers(into_zeros(left)), [0.0; 6]);
        assert_eq!(numbers(shared), before);
        assert!(numbers(weight).iter().zip(&before).all(|(new, old)| new != old));
    }

    #[test]
    fn a_step_down_the_gradient_gives_the_bits_of_tensor_operations() {
        for (shape, kept, factor) in [([1, 7], 1.0, 0.1), ([5, TASK_NUMBERS / 2 + 3], 0.99, 0.003)] {
            let (mut weight, gradient) = (noise::<2>(shape, 1), noise::<2>(shape, 2));
            let shared = weight.clone();
            let expected = weight.clone().mul_scalar(kept) - gradient.clone().mul_scalar(factor);
            let mut plain = weight.clone();
            descend_on_tensors(&mut plain, &gradient, kept, factor);
            descend_on_slices(&mut weight, &gradient, kept, factor);
            assert_eq!(numbers(weight), numbers(expected.clone()));
            assert_eq!(numbers(plain), numbers(expected));
            assert_eq!(numbers(gradient), numbers(noise::<2>(shape, 2)));
            assert_eq!(numbers(shared), numbers(noise::<2>(shape, 1)));
        }
    }

    #[test]
    fn squares_are_summed_whatever_the_size() {
        let tensors: [Tensor<2>; 3] =
            [noise([1, 3], 1), noise([2, SQUARES + 1], 2), noise([3, TASK_NUMBERS - 1], 3)];
        for form in [Operations::Fused, Operations::Plain] {
            let squares = |tensors: &[&Tensor<2>]| form.sums_of_squares(tensors);
            for (sum, tensor) in squares(&tensors.each_ref()).into_iter().zip(&tensors) {
                let plain: f64 = numbers(tensor.clone()).iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
                assert!((sum - plain).abs() <= 1e-6 * plain, "{sum} is not {plain}");
            }
            assert!(!squares(&[&(noise([1, 3], 1) / 0.0)])[0].is_finite());
        }
    }
}
