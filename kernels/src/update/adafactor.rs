//! Adafactor (arXiv 1804.04235) at a given learning rate and without a first moment: of a matrix the second moment is kept
//! as its means by rows and by columns, whose product stands for it.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::TASK_NUMBERS;
use crate::flex::{Rows, Sum, take};

/// What is added to squares, as the paper does.
const EPS: f64 = 1e-30;
/// An update whose root mean square is larger is made as small.
const CLIP_THRESHOLD: f64 = 1.0;
/// The second moment's decay is `1 - t^-0.8` at the t-th update.
const DECAY_POWER: f64 = -0.8;

/// The numbers of one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adafactor {
    /// The learning rate of this update.
    pub learning_rate: f64,
    /// Decoupled decay.
    pub weight_decay: f64,
    /// The update's number, counted from 1.
    pub updates: u64,
    /// The factor of the gradient, below 1 where it is clipped.
    pub gradient_scale: f64,
}

/// The running mean of a gradient's square.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "most of them are of the larger form")]
pub enum SecondMoment {
    /// Of a matrix `[out, in]`: its means by rows `[out, 1]` and by columns `[1, in]`.
    Factored {
        /// By rows.
        rows: Tensor<2>,
        /// By columns.
        columns: Tensor<2>,
    },
    /// Of a norm's weight or a bias, `[1, n]`.
    Whole(Tensor<2>),
}

impl Adafactor {
    fn decay(&self) -> f64 {
        1.0 - (self.updates as f64).powf(DECAY_POWER)
    }

    fn kept(&self) -> f64 {
        1.0 - self.learning_rate * self.weight_decay
    }

    /// In burn's own operations, on any device; what is left over is the gradient.
    pub(crate) fn on_tensors(
        &self,
        weight: &mut Tensor<2>,
        gradient: Tensor<2>,
        moment: &mut SecondMoment,
    ) -> Tensor<2> {
        let decay = self.decay();
        let scaled = if self.gradient_scale < 1.0 {
            gradient.clone().mul_scalar(self.gradient_scale)
        } else {
            gradient.clone()
        };
        let squares = scaled.clone().square().add_scalar(EPS);
        let mean = |moment: &mut Tensor<2>, new: Tensor<2>| {
            *moment = take(moment).mul_scalar(decay) + new.mul_scalar(1.0 - decay);
        };
        let update = match moment {
            SecondMoment::Factored { rows, columns } => {
                mean(rows, squares.clone().mean_dim(1));
                mean(columns, squares.mean_dim(0));
                let of_rows = rows.clone() / rows.clone().mean_dim(0);
                scaled / of_rows.sqrt() / columns.clone().sqrt()
            }
            SecondMoment::Whole(whole) => {
                mean(whole, squares);
                scaled / whole.clone().sqrt()
            }
        };
        // The root mean square stays on the device.
        let mean_square = update.clone().square().mean_dim(1).mean_dim(0);
        let clip = mean_square.sqrt().div_scalar(CLIP_THRESHOLD).clamp_min(1.0);
        let step = (update / clip).mul_scalar(self.learning_rate);
        *weight = take(weight).mul_scalar(self.kept()) - step;
        gradient
    }

    /// In some passes over memory on the CPU; what is left over is the parameter as it was.
    pub(crate) fn on_slices(
        &self,
        weight: &mut Tensor<2>,
        mut gradient: Tensor<2>,
        moment: &mut SecondMoment,
    ) -> Tensor<2> {
        assert_eq!(weight.shape(), gradient.shape(), "a parameter and its gradient");
        let width = weight.dims()[1];
        let old = Rows::of_tensor(weight);
        // Decoders that were handed out share the old numbers.
        let mut new = Sum::take(&mut gradient);
        let factors = self.factors(new.slice_mut(), width, moment);
        let numbers = new.slice_mut();
        let scale = self.gradient_scale.min(1.0) as f32;
        // The sums' order is that of the rows, whatever threads there are.
        let squares: Vec<f64> = numbers
            .par_chunks_mut(width)
            .enumerate()
            .map(|(row, numbers)| {
                let mut sum = 0.0;
                for (number, column) in numbers.iter_mut().zip(&factors.columns) {
                    *number = *number * scale * factors.row(row) * column;
                    sum += f64::from(*number) * f64::from(*number);
                }
                sum
            })
            .collect();
        let mean_square = squares.iter().sum::<f64>() / numbers.len() as f64;
        let clip = (mean_square.sqrt() / CLIP_THRESHOLD).max(1.0);
        let (rate, kept) = ((self.learning_rate / clip) as f32, self.kept() as f32);
        let parts = numbers.par_chunks_mut(TASK_NUMBERS).zip(old.slice().par_chunks(TASK_NUMBERS));
        parts.for_each(|(numbers, old)| {
            for (number, old) in numbers.iter_mut().zip(old) {
                *number = old * kept - *number * rate;
            }
        });
        drop(old);
        std::mem::replace(weight, new.into_tensor())
    }

    /// Moves the moment, and returns what gradients are multiplied with.
    fn factors(&self, gradients: &[f32], width: usize, moment: &mut SecondMoment) -> Factors {
        let decay = self.decay();
        let mean = |moment: &mut f32, new: f64| {
            *moment = (decay * f64::from(*moment) + (1.0 - decay) * new) as f32;
            f64::from(*moment)
        };
        let square = |gradient: f32| (f64::from(gradient) * self.gradient_scale.min(1.0)).powi(2) + EPS;
        match moment {
            SecondMoment::Whole(whole) => {
                let mut sum = Sum::take(whole);
                let moments = sum.slice_mut().iter_mut().zip(gradients);
                let columns =
                    moments.map(|(moment, gradient)| (1.0 / mean(moment, square(*gradient)).sqrt()) as f32);
                let columns = columns.collect();
                *whole = sum.into_tensor();
                Factors { rows: vec![1.0], columns }
            }
            SecondMoment::Factored { rows, columns } => {
                let (of_rows, of_columns) = mean_squares(gradients, width, square);
                let (mut row_sum, mut column_sum) = (Sum::take(rows), Sum::take(columns));
                let means: Vec<f64> = row_sum
                    .slice_mut()
                    .iter_mut()
                    .zip(of_rows)
                    .map(|(moment, new)| mean(moment, new))
                    .collect();
                let all = means.iter().sum::<f64>() / means.len() as f64;
                let rows_factors = means.iter().map(|row| (all / row).sqrt() as f32).collect();
                let moments = column_sum.slice_mut().iter_mut().zip(of_columns);
                let columns_factors =
                    moments.map(|(moment, new)| (1.0 / mean(moment, new).sqrt()) as f32).collect();
                (*rows, *columns) = (row_sum.into_tensor(), column_sum.into_tensor());
                Factors { rows: rows_factors, columns: columns_factors }
            }
        }
    }
}

/// What a gradient's numbers are multiplied with, by row and by column.
struct Factors {
    rows: Vec<f32>,
    columns: Vec<f32>,
}

impl Factors {
    fn row(&self, row: usize) -> f32 {
        self.rows[row]
    }
}

/// Rows whose squares are summed by columns before these sums are added.
const BLOCK_ROWS: usize = 64;

/// Means of something by rows and by columns. The sums' order is that of blocks of rows, whatever threads there are.
fn mean_squares(numbers: &[f32], width: usize, square: impl Fn(f32) -> f64 + Sync) -> (Vec<f64>, Vec<f64>) {
    let blocks: Vec<(Vec<f64>, Vec<f64>)> = numbers
        .par_chunks(BLOCK_ROWS * width)
        .map(|block| {
            let mut columns = vec![0.0; width];
            let rows = block.chunks_exact(width).map(|row| {
                let mut sum = 0.0;
                for (number, column) in row.iter().zip(&mut columns) {
                    let square = square(*number);
                    sum += square;
                    *column += square;
                }
                sum / width as f64
            });
            (rows.collect(), columns)
        })
        .collect();
    let rows: Vec<f64> = blocks.iter().flat_map(|(rows, _)| rows).copied().collect();
    let mut columns = vec![0.0; width];
    for (_, block) in &blocks {
        columns.iter_mut().zip(block).for_each(|(sum, column)| *sum += column);
    }
    columns.iter_mut().for_each(|sum| *sum /= rows.len() as f64);
    (rows, columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tensors::{noise, numbers, relative_error};

    fn rule(updates: u64) -> Adafactor {
        Adafactor { learning_rate: 0.01, weight_decay: 0.1, updates, gradient_scale: 1.0 }
    }

    fn moments() -> [SecondMoment; 2] {
        let zeros = |shape| noise::<2>(shape, 0).zeros_like();
        [
            SecondMoment::Factored { rows: zeros([2, 1]), columns: zeros([1, 3]) },
            SecondMoment::Whole(zeros([1, 3])),
        ]
    }

    fn matrix(values: &[f32], shape: [usize; 2]) -> Tensor<2> {
        Rows::owning(values.to_vec(), shape).to_tensor()
    }

    /// Gradients of a matrix and of a norm, and both after the update.
    type Step = ([f32; 6], [f32; 3], [f32; 6], [f32; 3]);

    /// The numbers are those of transformers' `Adafactor` with `scale_parameter=False, relative_step=False`.
    #[test]
    fn updates_are_those_of_transformers() {
        let steps: [Step; 3] = [
            (
                [0.1, -0.2, 0.0, 1.0, 0.3, 0.02],
                [0.5, 0.01, -0.3],
                [0.995_328_07, -1.977_530_2, 0.4995, 2.989_137, -1.005_575_1, 0.241_847_8],
                [0.989, -1.009, 2.008],
            ),
            (
                [0.3, 0.1, 0.4, 0.2, -1.0, 0.1],
                [-0.5, 0.02, 0.1],
                [0.987_211_8, -1.977_667_8, 0.477_435_65, 2.984_249_8, -0.996_112_3, 0.239_450_34],
                [0.998_011, -1.020_111_1, 2.001_227_6],
            ),
            (
                [-0.2, 0.4, 3.0, 0.1, 0.5, -0.6],
                [0.25, 0.03, 5.0],
                [0.990_010_3, -1.981_470_6, 0.460_889_1, 2.977_274, -1.010_353_4, 0.245_988_15],
                [0.992_067_8, -1.029_756, 1.986_506_1],
            ),
        ];
        for fused in [true, false] {
            let mut weights =
                [matrix(&[1.0, -2.0, 0.5, 3.0, -1.0, 0.25], [2, 3]), matrix(&[1.0, -1.0, 2.0], [1, 3])];
            let mut moments = moments();
            for (updates, (of_matrix, of_norm, new_matrix, new_norm)) in (1..).zip(steps) {
                let gradients = [matrix(&of_matrix, [2, 3]), matrix(&of_norm, [1, 3])];
                let parameters = weights.iter_mut().zip(gradients).zip(&mut moments);
                for ((weight, gradient), moment) in parameters {
                    if fused {
                        rule(updates).on_slices(weight, gradient, moment);
                    } else {
                        rule(updates).on_tensors(weight, gradient, moment);
                    }
                }
                let found = weights.iter().flat_map(|weight| numbers(weight.clone()));
                for (found, expected) in found.zip(new_matrix.into_iter().chain(new_norm)) {
                    assert!((found - expected).abs() < 1e-6, "{found}, not {expected}, at update {updates}");
                }
            }
        }
    }

    /// Sizes around a task's and a block's.
    #[test]
    fn slices_are_moved_as_tensors_are() {
        let cases = [([1, 7], 1.0), ([5, 3], 0.3), ([BLOCK_ROWS + 9, 600], 1.0), ([130, 2], 0.5)];
        for (shape, gradient_scale) in cases {
            let zeros = |shape| noise::<2>(shape, 0).zeros_like();
            let start = || match shape[0] {
                1 => SecondMoment::Whole(zeros(shape)),
                rows => SecondMoment::Factored { rows: zeros([rows, 1]), columns: zeros([1, shape[1]]) },
            };
            let (mut weight, mut moment) = (noise::<2>(shape, 1), start());
            let (mut plain, mut plain_moment) = (weight.clone(), start());
            for updates in 1..4 {
                let rule = Adafactor { gradient_scale, ..rule(updates) };
                let gradient = || noise::<2>(shape, updates + 1);
                let before = numbers(weight.clone());
                let left = rule.on_slices(&mut weight, gradient(), &mut moment);
                assert_eq!(numbers(left), before, "what is left over is the parameter as it was");
                assert_eq!(rule.on_tensors(&mut plain, gradient(), &mut plain_moment).dims(), shape);
                assert!(
                    relative_error(&numbers(weight.clone()), &numbers(plain.clone())) < 1e-6,
                    "{shape:?}"
                );
                assert!(relative_error(&numbers(weight.clone()), &before) > 1e-3, "nothing moved");
            }
        }
    }
}
