//! Packed parameters that are trained without a copy in f32: an update makes new ones, of which one at a time is in f32, and
//! rounds them at random (stochastic rounding). Rounded to the nearest, an update that is smaller than half of what two
//! neighbours in bf16 differ by would never be made.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{KeptRows, PackedWeights, PackingWeights, looked_up_at};
use crate::flex::Rows;
use crate::gemm::Precision;
use crate::model::config::DecoderConfig;
use crate::model::numbers::Numbers;
use crate::model::weights::is_router;
use crate::sampling::{key, uniform};

/// Numbers that one task rounds.
const TASK_NUMBERS: usize = 32 << 10;

impl PackedWeights {
    /// The parameters after an update that gets one of them at a time in f32, by its number in the order of
    /// [`crate::Weights::for_each`]. Routers, norms and biases stay as the update made them. Each number of a matrix becomes one of
    /// its two neighbours in bf16, so that the mean of what it may become is the number itself: which one is a function of
    /// the key, the parameter and the place.
    ///
    /// # Panics
    /// If the parameters are not in bf16.
    #[must_use]
    pub fn updated(
        &self,
        config: &DecoderConfig,
        random_key: u64,
        mut update: impl FnMut(usize, Tensor<2>) -> Tensor<2>,
    ) -> Self {
        assert_eq!(self.precision, Precision::Bf16, "what is rounded at random");
        let embedding = Some(looked_up_at(self.precision));
        let mut packing = PackingWeights::new(config, self.precision, embedding);
        for (parameter, (name, numbers)) in self.weights.named().into_iter().enumerate() {
            let old = match numbers {
                Numbers::Rows(rows) => rows.clone(),
                packed => Rows::owning(packed.all().into_owned(), packing.places[parameter].shape),
            };
            let new = Rows::of_tensor(&update(parameter, old.to_tensor()));
            drop(old);
            let is_kept = !matches!(packing.places[parameter].rows, KeptRows::No);
            if !is_kept && !is_router(&name) {
                let mut rounded = new.slice().to_vec();
                drop(new);
                round_at_random(&mut rounded, key(&[random_key, parameter as u64]));
                packing.set(parameter, 0, &rounded);
            } else {
                packing.share(parameter, &new);
            }
        }
        packing.done()
    }
}

/// Rounds numbers to neighbours in bf16.
fn round_at_random(numbers: &mut [f32], stream: u64) {
    numbers.par_chunks_mut(TASK_NUMBERS).enumerate().for_each(|(part, numbers)| {
        let first = (part * TASK_NUMBERS) as u64;
        for (index, number) in (first..).zip(numbers) {
            if number.is_finite() {
                // The lower half is the chance of the neighbour that is farther from 0.
                let chance = (uniform(stream, index) * 65536.0) as u32;
                *number = f32::from_bits((number.to_bits() + chance) & 0xffff_0000);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::bf16;
    use crate::test_tensors::{numbers, odd_decoder, odd_shapes};
    use crate::{Decoder, Stored};

    fn rounded(value: f32, seed: u64) -> Vec<f32> {
        let mut numbers = vec![value; 100_000];
        round_at_random(&mut numbers, key(&[seed]));
        numbers
    }

    #[test]
    fn the_mean_of_what_a_number_may_become_is_the_number() {
        for value in [1.0 + 3.0 / 1024.0, -0.3, 1e-20, 7.0, 0.0] {
            let found = rounded(value, 1);
            assert!(found.iter().all(|found| f32::from_bits(u32::from(bf16(*found)) << 16) == *found));
            let gap = f64::from(value.abs()) / 128.0;
            assert!(found.iter().all(|found| f64::from((found - value).abs()) <= gap), "{value}");
            let mean = found.iter().map(|found| f64::from(*found)).sum::<f64>() / found.len() as f64;
            assert!((mean - f64::from(value)).abs() <= gap * 0.01, "{value}: {mean}");
            assert_eq!(rounded(value, 1), found);
        }
        assert_ne!(rounded(-0.3, 2), rounded(-0.3, 1));
    }

    /// An update that changes nothing changes nothing, one that is far below a neighbour's distance is made in the mean,
    /// and norms and biases are what it made them.
    #[test]
    fn an_update_is_made_in_the_mean() {
        for config in odd_shapes() {
            let decoder = odd_decoder(config).packed(Precision::Bf16);
            let Stored::Packed(packed) = &decoder.weights else { panic!("packed weights") };
            let same = packed.updated(&decoder.config, 1, |_, old| old);
            let values =
                |packed: &PackedWeights| packed.numbers().map(|_, numbers| numbers.all().into_owned());
            let before = values(packed);
            assert_eq!(values(&same), before);
            let moved = packed.updated(&decoder.config, 2, |_, old| old.mul_scalar(1.0 + 1.0 / 4096.0));
            let (moved_values, names) = (values(&moved), decoder.config.shapes());
            let (mut found, mut expected) = (0.0, 0.0);
            let pairs = moved_values.named().into_iter().zip(before.named()).zip(names.named());
            for (((_, new), (_, old)), (name, shape)) in pairs {
                for (new, old) in new.iter().zip(old) {
                    let exact = f64::from(*old) * (1.0 + 1.0 / 4096.0);
                    if shape[0] == 1 {
                        assert!((f64::from(*new) - exact).abs() <= 1e-6 * exact.abs(), "{name}");
                    } else {
                        found += (f64::from(*new) - f64::from(*old)) * f64::from(old.signum());
                        expected += (exact - f64::from(*old)).abs();
                    }
                }
            }
            assert!((found / expected - 1.0).abs() < 0.25, "{found}, not {expected}");
            let again = Decoder { weights: Stored::Packed(moved.into()), ..decoder.clone() };
            let embedding = again.effective_weights().embedding.clone();
            assert_eq!(numbers(embedding), moved_values.embedding);
        }
    }
}
