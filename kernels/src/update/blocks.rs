//! Moments in 8 bits: numbers in blocks of 256, each block with its largest magnitude, and each number as one of 256
//! values between -1 and 1, or 0 and 1, which lie the closer the smaller they are (8-bit optimizers, arXiv 2110.02861).
//!
//! An update is computed in f32 and rounded after it, so that it is that of moments that were rounded once before.

use std::sync::OnceLock;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{AdamW, TASK_NUMBERS};
use crate::flex::{Rows, Sum};

/// Numbers that have one largest magnitude.
pub const BLOCK_NUMBERS: usize = 256;

/// Running means of one parameter in 8 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// One code a number.
    pub codes: Vec<u8>,
    /// One magnitude a block.
    pub largest: Vec<f32>,
}

/// AdamW's moments of one parameter in 8 bits. The second one has no sign.
#[derive(Clone, Debug, PartialEq)]
pub struct MomentBlocks {
    /// Of the gradient.
    pub first: Blocks,
    /// Of its square.
    pub second: Blocks,
}

impl MomentBlocks {
    /// Zeros for a parameter of so many numbers.
    #[must_use]
    pub fn zeros(numbers: usize) -> Self {
        let zeros = |codes: &Codes| Blocks {
            codes: vec![codes.nearest(0.0); numbers],
            largest: vec![0.0; numbers.div_ceil(BLOCK_NUMBERS)],
        };
        Self { first: zeros(Codes::signed()), second: zeros(Codes::unsigned()) }
    }

    /// The two moments as numbers, of a parameter with these.
    #[must_use]
    pub fn numbers(&self) -> [Vec<f32>; 2] {
        [(&self.first, Codes::signed()), (&self.second, Codes::unsigned())].map(|(blocks, codes)| {
            let mut numbers = vec![0.0; blocks.codes.len()];
            let parts = numbers.chunks_mut(BLOCK_NUMBERS).zip(blocks.codes.chunks(BLOCK_NUMBERS));
            for ((numbers, block), largest) in parts.zip(&blocks.largest) {
                codes.widen(block, *largest, numbers);
            }
            numbers
        })
    }
}

impl AdamW {
    /// In one pass over memory on the CPU; what is left over is the parameter as it was.
    pub(crate) fn on_blocks(
        &self,
        weight: &mut Tensor<2>,
        mut gradient: Tensor<2>,
        moments: &mut MomentBlocks,
    ) -> Tensor<2> {
        assert_eq!(weight.shape(), gradient.shape(), "a parameter and its gradient");
        let old = Rows::of_tensor(weight);
        let mut new = Sum::take(&mut gradient);
        let count = old.slice().len();
        assert_eq!(
            [count; 2],
            [moments.first.codes.len(), moments.second.codes.len()],
            "moments of a parameter"
        );
        let first = block_parts(&mut moments.first);
        let second = block_parts(&mut moments.second);
        let numbers = new.slice_mut().par_chunks_mut(TASK_NUMBERS).zip(old.slice().par_chunks(TASK_NUMBERS));
        numbers.zip(first.zip(second)).for_each(|((gradients, old), (first, second))| {
            self.on_block_part(gradients, old, first, second);
        });
        drop(old);
        std::mem::replace(weight, new.into_tensor())
    }

    /// Replaces gradients by new weights.
    fn on_block_part(&self, gradients: &mut [f32], old: &[f32], first: BlockPart<'_>, second: BlockPart<'_>) {
        let (signed, unsigned) = (Codes::signed(), Codes::unsigned());
        let (mut means, mut squares) = ([0.0; BLOCK_NUMBERS], [0.0; BLOCK_NUMBERS]);
        let numbers = gradients.chunks_mut(BLOCK_NUMBERS).zip(old.chunks(BLOCK_NUMBERS));
        let codes = first.0.chunks_mut(BLOCK_NUMBERS).zip(first.1);
        let codes = codes.zip(second.0.chunks_mut(BLOCK_NUMBERS).zip(second.1));
        for ((gradients, old), ((first, first_largest), (second, second_largest))) in numbers.zip(codes) {
            let (means, squares) = (&mut means[..old.len()], &mut squares[..old.len()]);
            signed.widen(first, *first_largest, means);
            unsigned.widen(second, *second_largest, squares);
            self.on_part(gradients, old, (means, squares));
            *first_largest = signed.round(means, first);
            *second_largest = unsigned.round(squares, second);
        }
    }
}

/// Codes of some blocks and the magnitudes of these.
type BlockPart<'a> = (&'a mut [u8], &'a mut [f32]);

fn block_parts(blocks: &mut Blocks) -> impl IndexedParallelIterator<Item = BlockPart<'_>> {
    let codes = blocks.codes.par_chunks_mut(TASK_NUMBERS);
    codes.zip(blocks.largest.par_chunks_mut(TASK_NUMBERS / BLOCK_NUMBERS))
}

/// The values that numbers of a block are rounded to, as parts of its largest magnitude.
struct Codes {
    /// From the smallest to the largest.
    values: Vec<f32>,
    /// Between each of them and the next one.
    middles: Vec<f32>,
    /// The code of the smallest number with these upper bits.
    begins: Vec<u8>,
}

/// Bits of a number that its code is not looked up by: what is left is the sign, the exponent and 4 digits.
const LOOKED_UP_SHIFT: u32 = 19;

impl Codes {
    fn signed() -> &'static Self {
        static CODES: OnceLock<Codes> = OnceLock::new();
        CODES.get_or_init(|| Self::new(true))
    }

    fn unsigned() -> &'static Self {
        static CODES: OnceLock<Codes> = OnceLock::new();
        CODES.get_or_init(|| Self::new(false))
    }

    /// The dynamic map of the paper in 8 bits: seven decades, of which each has twice as many values as the one below.
    fn new(signed: bool) -> Self {
        let mut values = vec![0.0, 1.0];
        for decade in 0..7 {
            let count = 1 << if signed { decade } else { decade + 1 };
            let scale = 10_f64.powi(decade - 6);
            for place in 0..count {
                // The middles of equal parts of what is between 0.1 and 1.
                let value = scale * (0.1 + 0.9 * (f64::from(place) + 0.5) / f64::from(count));
                values.push(value as f32);
                if signed {
                    values.push(-value as f32);
                }
            }
        }
        assert_eq!(values.len(), 256, "codes of 8 bits");
        values.sort_by(f32::total_cmp);
        let middles = values.windows(2).map(|pair| 0.5 * (pair[0] + pair[1])).collect();
        let mut codes = Self { values, middles, begins: Vec::new() };
        codes.begins = (0..1_u32 << (32 - LOOKED_UP_SHIFT))
            .map(|upper| {
                // Of numbers below 0 the one with the largest magnitude is the smallest.
                let bits = upper << LOOKED_UP_SHIFT;
                let lower = if bits >> 31 == 1 { (1 << LOOKED_UP_SHIFT) - 1 } else { 0 };
                let smallest = f32::from_bits(bits | lower);
                codes.middles.partition_point(|middle| *middle < smallest) as u8
            })
            .collect();
        codes
    }

    /// The code of the value that is nearest to a number.
    fn nearest(&self, number: f32) -> u8 {
        let mut code = self.begins[(number.to_bits() >> LOOKED_UP_SHIFT) as usize] as usize;
        while code < self.middles.len() && self.middles[code] < number {
            code += 1;
        }
        code as u8
    }

    fn widen(&self, codes: &[u8], largest: f32, to: &mut [f32]) {
        for (to, code) in to.iter_mut().zip(codes) {
            *to = self.values[usize::from(*code)] * largest;
        }
    }

    /// Returns the largest magnitude of a block.
    fn round(&self, numbers: &[f32], to: &mut [u8]) -> f32 {
        let largest = numbers.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
        let scale = if largest > 0.0 { 1.0 / largest } else { 0.0 };
        for (to, number) in to.iter_mut().zip(numbers) {
            *to = self.nearest(number * scale);
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tensors::{noise, numbers};

    /// The first and last values of the map that bitsandbytes makes.
    #[test]
    fn the_values_are_those_of_the_paper() {
        let (signed, unsigned) = (&Codes::signed().values, &Codes::unsigned().values);
        for (found, expected) in [
            (signed[0], -0.992_968_75),
            (signed[127], 0.0),
            (signed[128], 5.5e-7),
            (signed[254], 0.992_968_75),
            (signed[255], 1.0),
            (unsigned[0], 0.0),
            (unsigned[1], 3.25e-7),
            (unsigned[254], 0.996_484_4),
            (unsigned[255], 1.0),
        ] {
            assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{found}, not {expected}");
        }
    }

    #[test]
    fn codes_are_those_of_the_nearest_values() {
        for codes in [Codes::signed(), Codes::unsigned()] {
            let nearest = |number: f32| {
                let distance = |code: &usize| (codes.values[*code] - number).abs();
                (0..256).min_by(|one, other| distance(one).total_cmp(&distance(other))).unwrap()
            };
            let mut number = 1e-9_f32;
            while number <= 1.0 {
                for number in [number, -number] {
                    let (found, expected) = (usize::from(codes.nearest(number)), nearest(number));
                    let error = |code: usize| (codes.values[code] - number).abs();
                    assert!(error(found) <= error(expected), "{number}: {found}, not {expected}");
                }
                number *= 1.013;
            }
            assert!(
                codes
                    .values
                    .iter()
                    .enumerate()
                    .all(|(code, value)| usize::from(codes.nearest(*value)) == code)
            );
        }
    }

    /// Against moments in f32 from the same start: a moment is off by no more than half the widest gap of its block.
    #[test]
    fn moments_are_rounded_once_an_update() {
        let rule = |updates| AdamW {
            learning_rate: 0.01,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.1,
            updates,
            gradient_scale: 0.7,
        };
        for shape in [[1, 7], [3, 300], [2, TASK_NUMBERS]] {
            let count = shape[0] * shape[1];
            let (mut weight, mut blocks) = (noise::<2>(shape, 1), MomentBlocks::zeros(count));
            for updates in 1..4 {
                let before = blocks.numbers().map(|moment| Rows::owning(moment, shape).to_tensor());
                let [mut first, mut second] = before;
                let mut plain = weight.clone();
                let gradient = || noise::<2>(shape, updates + 1);
                let left = rule(updates).on_blocks(&mut weight, gradient(), &mut blocks);
                let expected_left =
                    rule(updates).on_slices(&mut plain, gradient(), (&mut first, &mut second));
                // The weights move by moments that are not rounded yet.
                assert_eq!(numbers(weight.clone()), numbers(plain));
                assert_eq!(numbers(left), numbers(expected_left));
                let found = blocks.numbers();
                for ((found, exact), gap) in found.iter().zip([first, second]).zip([0.0141, 0.0071]) {
                    let exact = numbers(exact);
                    for (found, exact) in found.chunks(BLOCK_NUMBERS).zip(exact.chunks(BLOCK_NUMBERS)) {
                        let largest = exact.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
                        let bound = 0.51 * gap * largest;
                        assert!(largest > 0.0);
                        for (found, exact) in found.iter().zip(exact) {
                            assert!((found - exact).abs() <= bound, "{found}, not {exact} within {bound}");
                        }
                    }
                }
            }
        }
    }
}
