//! RMS normalisation: each row divided by its root mean square and scaled by a learned gain.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::{flex, simd};

/// Rows whose part of the gain's gradient is summed together; fixed, so that the sum does not depend on
/// how many threads there are.
const ROWS: usize = 256;

/// `x / sqrt(mean(x^2) + eps) * gain`, row by row, on burn's CPU backend.
///
/// # Shapes
/// `x` `[N, H]`, `gain` `[1, H]`; the result is `[N, H]`.
pub fn rms_norm(x: Tensor<2>, gain: Tensor<2>, eps: f64) -> Tensor<2> {
    assert_eq!(gain.dims(), [1, x.dims()[1]], "one gain a column");
    Tensor::from_dispatch(<Dispatch as NormOp>::rms_norm(x.into_dispatch(), gain.into_dispatch(), eps))
}

/// [`rms_norm`] in burn's own operations, on any device.
///
/// # Shapes
/// As [`rms_norm`].
pub fn rms_norm_plain(x: Tensor<2>, gain: Tensor<2>, eps: f64) -> Tensor<2> {
    let mean_square = x.clone().square().mean_dim(1);
    x / (mean_square + eps).sqrt() * gain
}

#[backend_extension(Flex, Autodiff)]
trait NormOp: Backend {
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f64) -> f32 {
    (1.0 / (f64::from(simd::dot(x, x)) / x.len() as f64 + eps).sqrt()) as f32
}

/// One row of [`rms_norm`].
#[inline(always)]
pub(crate) fn forward_row(x: &[f32], gain: &[f32], eps: f64, y: &mut [f32]) {
    let inverse = inverse_rms(x, eps);
    for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
        *y = x * inverse * gain;
    }
}

/// [`forward_row`] in place.
#[inline(always)]
pub(crate) fn forward_row_in_place(x: &mut [f32], gain: &[f32], eps: f64) {
    let inverse = inverse_rms(x, eps);
    for (x, gain) in x.iter_mut().zip(gain) {
        *x = *x * inverse * gain;
    }
}

/// `dx = r (gain dy) - x r^3 mean(x gain dy)`, `dgain += dy x r` with `r = 1 / rms(x)`.
#[inline(always)]
pub(crate) fn backward_row(x: &[f32], gain: &[f32], dy: &[f32], eps: f64, dx: &mut [f32], dgain: &mut [f32]) {
    let inverse = inverse_rms(x, eps);
    for ((dx, gain), dy) in dx.iter_mut().zip(gain).zip(dy) {
        *dx = gain * dy;
    }
    let common = simd::dot(x, dx) / x.len() as f32 * inverse * inverse * inverse;
    for (((dx, dgain), x), dy) in dx.iter_mut().zip(dgain).zip(x).zip(dy) {
        *dx = dx.mul_add(inverse, -(x * common));
        *dgain = (dy * x).mul_add(inverse, *dgain);
    }
}

/// `y` is the norm of each row of `x`.
pub(crate) fn norm_rows(x: &[f32], gain: &[f32], eps: f64, y: &mut [f32]) {
    simd::vectorized(
        #[inline(always)]
        || {
            for (x, y) in x.chunks_exact(gain.len()).zip(y.chunks_exact_mut(gain.len())) {
                forward_row(x, gain, eps, y);
            }
        },
    );
}

/// The norm of each row, in place.
pub(crate) fn norm_rows_in_place(x: &mut [f32], gain: &[f32], eps: f64) {
    let mut row = vec![0.0; gain.len()];
    simd::vectorized(
        #[inline(always)]
        || {
            for x in x.chunks_exact_mut(gain.len()) {
                row.copy_from_slice(x);
                forward_row(&row, gain, eps, x);
            }
        },
    );
}

/// Replaces the gradients of norms by those of their inputs `x`, and adds to the gain's.
pub(crate) fn norm_rows_backward(x: &[f32], gain: &[f32], eps: f64, dy: &mut [f32], dgain: &mut [f32]) {
    let mut row = vec![0.0; gain.len()];
    simd::vectorized(
        #[inline(always)]
        || {
            for (x, dy) in x.chunks_exact(gain.len()).zip(dy.chunks_exact_mut(gain.len())) {
                backward_row(x, gain, dy, eps, &mut row, dgain);
                dy.copy_from_slice(&row);
            }
        },
    );
}

impl NormOp for Flex {
    fn rms_norm(x: FlexTensor, gain: FlexTensor, eps: f64) -> FlexTensor {
        let (shape, width) = (x.shape(), gain.shape()[1]);
        let [x, gain] = [&x, &gain].map(flex::Rows::of);
        let (x, gain) = (x.slice(), gain.slice());
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width)).for_each(|(y, x)| {
            simd::vectorized(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        forward_row(x, gain, eps, y);
                    }
                },
            );
        });
        flex::tensor(y, shape)
    }

    fn rms_norm_backward(
        x: FlexTensor,
        gain: FlexTensor,
        gradient: FlexTensor,
        eps: f64,
    ) -> (FlexTensor, FlexTensor) {
        let (shape, gain_shape) = (x.shape(), gain.shape());
        let width = gain_shape[1];
        let [x, gain, dy] = [&x, &gain, &gradient].map(flex::Rows::of);
        let (x, gain, dy) = (x.slice(), gain.slice(), dy.slice());
        let mut dx = vec![0.0; x.len()];
        let blocks = dx.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width));
        let parts: Vec<Vec<f32>> = blocks
            .zip(dy.par_chunks(ROWS * width))
            .map(|((dx, x), dy)| {
                let mut dgain = vec![0.0; width];
                simd::vectorized(
                    #[inline(always)]
                    || {
                        let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width));
                        for ((dx, x), dy) in rows.zip(dy.chunks_exact(width)) {
                            backward_row(x, gain, dy, eps, dx, &mut dgain);
                        }
                    },
                );
                dgain
            })
            .collect();
        let mut dgain = vec![0.0; width];
        for part in &parts {
            simd::add_scaled(&mut dgain, 1.0, part);
        }
        (flex::tensor(dx, shape), flex::tensor(dgain, gain_shape))
    }
}

#[derive(Debug)]
struct NormBackward;

impl<B: NormOp> Backward<B, 2> for NormBackward {
    type State = ([NodeId; 2], f64);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (inputs, eps) = ops.state;
        let [x, gain] = inputs.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        let (dx, dgain) = B::rms_norm_backward(x, gain, gradient, eps);
        for (parent, gradient) in ops.parents.into_iter().zip([dx, dgain]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: NormOp, C: CheckpointStrategy> NormOp for Autodiff<B, C> {
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        match NormBackward.prepare::<C>([x.node(), gain.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let inputs = [prep.checkpoint(&x), prep.checkpoint(&gain)];
                let y = B::rms_norm(x.into_primitive(), gain.into_primitive(), eps);
                prep.finish((inputs, eps), y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::rms_norm(x.into_primitive(), gain.into_primitive(), eps))
            }
        }
    }

    fn rms_norm_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("second derivatives are not computed")
    }
}

#[cfg(test)]
mod tests {
    use super::{rms_norm, rms_norm_plain};
    use crate::test_tensors::{assert_close, noise};

    #[test]
    fn fused_norm_equals_plain_in_values_and_gradients() {
        for (rows, width) in [(1, 3), (300, 20), (257, 64)] {
            let x = noise::<2>([rows, width], 1).autodiff().require_grad();
            let gain = (noise::<2>([1, width], 2) + 1.0).autodiff().require_grad();
            let upstream = noise::<2>([rows, width], 3);
            let fused = rms_norm(x.clone(), gain.clone(), 1e-5);
            let plain = rms_norm_plain(x.clone(), gain.clone(), 1e-5);
            assert_close("values", fused.clone(), plain.clone(), 1e-6);
            let fused = (fused * upstream.clone()).sum().backward();
            let plain = (plain * upstream).sum().backward();
            for (name, leaf) in [("dx", x), ("dgain", gain)] {
                let gradient = |tape| leaf.grad(tape).expect("every input takes part");
                assert_close(name, gradient(&fused), gradient(&plain), 1e-5);
            }
        }
    }
}
