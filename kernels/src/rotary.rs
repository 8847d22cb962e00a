//! Rotary position embedding applied to query and key heads, in the half-split layout of Hugging Face.
//!
//! The angles come from [`crate::rope`]; here they meet tensors. The rotation of a head's gradient is the
//! rotation by the opposite angle, so one kernel serves both passes.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use crate::{flex, simd};

/// Cosine and sine of every row's angles, each `[N, D / 2]`, without autodiff.
#[derive(Clone, Debug)]
pub struct Angles {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl Angles {
    /// From tables with one row a position.
    ///
    /// # Panics
    /// If the tables are not `rows` rows of one length.
    pub fn new(tables: (Vec<f32>, Vec<f32>), rows: usize, device: &Device) -> Self {
        let (cos, sin) = tables;
        assert_eq!((cos.len() % rows, cos.len()), (0, sin.len()), "one row of angles a position");
        let shape = [rows, cos.len() / rows];
        let tensor = |values| Tensor::from_data(TensorData::new(values, shape), device);
        Self { cos: tensor(cos), sin: tensor(sin) }
    }

    /// The angles of some rows.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        Self { cos: self.cos.clone().slice([rows.clone()]), sin: self.sin.clone().slice([rows]) }
    }
}

/// Rotates the pair `(x[i], x[i + D/2])` of every head by its row's angle `i`, on burn's CPU backend.
///
/// # Shapes
/// `x` `[N, H, D]` with one row of `angles` each; the result is `[N, H, D]`.
pub fn rotate(x: Tensor<3>, angles: &Angles) -> Tensor<3> {
    let [rows, _, width] = x.dims();
    assert_eq!(angles.cos.dims(), [rows, width / 2], "one angle a pair and row");
    let (cos, sin) = (angles.cos.clone().into_dispatch(), angles.sin.clone().into_dispatch());
    Tensor::from_dispatch(<Dispatch as RotateOp>::rotate(x.into_dispatch(), cos, sin, false))
}

/// [`rotate`] in burn's own operations, on any device.
///
/// # Shapes
/// As [`rotate`].
pub fn rotate_plain(x: Tensor<3>, angles: &Angles) -> Tensor<3> {
    let [rows, heads, width] = x.dims();
    let half = width / 2;
    let (cos, sin) = (angles.cos.clone().unsqueeze_dim::<3>(1), angles.sin.clone().unsqueeze_dim::<3>(1));
    let low = x.clone().slice([0..rows, 0..heads, 0..half]);
    let high = x.slice([0..rows, 0..heads, half..width]);
    let rotated_low = low.clone() * cos.clone() - high.clone() * sin.clone();
    Tensor::cat(vec![rotated_low, high * cos + low * sin], 2)
}

#[backend_extension(Flex, Autodiff)]
trait RotateOp: Backend {
    /// `back` rotates by the opposite angles.
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        back: bool,
    ) -> FloatTensor<Self>;
}

/// One head rotated in place, with `sign` -1 back.
#[inline(always)]
pub(crate) fn rotate_head(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        let s = sign * sin;
        (*low, *high) = (*low * cos - *high * s, *high * cos + *low * s);
    }
}

/// Rotates heads of some width in place by their rows' angles, or back.
pub(crate) fn rotate_rows(x: &mut [f32], row: usize, (cos, sin): (&[f32], &[f32]), back: bool) {
    let half = cos.len() / (x.len() / row);
    let sign = if back { -1.0 } else { 1.0 };
    simd::vectorized(
        #[inline(always)]
        || {
            let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
            for (x, (cos, sin)) in x.chunks_exact_mut(row).zip(angles) {
                for head in x.chunks_exact_mut(2 * half) {
                    rotate_head(head, cos, sin, sign);
                }
            }
        },
    );
}

impl RotateOp for Flex {
    fn rotate(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, back: bool) -> FlexTensor {
        let shape = x.shape();
        let (heads, width) = (shape[1], shape[2]);
        let [x, cos, sin] = [&x, &cos, &sin].map(flex::Rows::of);
        let sign = if back { -1.0 } else { 1.0 };
        let (run, half) = (heads * width, width / 2);
        let mut y = vec![0.0; x.slice().len()];
        let rows = y.par_chunks_mut(run).zip(x.slice().par_chunks(run)).with_min_len(64);
        let angles = cos.slice().par_chunks(half).zip(sin.slice().par_chunks(half));
        rows.zip(angles).for_each(|((y, x), (cos, sin))| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let ((low, high), (y_low, y_high)) = (x.split_at(half), y.split_at_mut(half));
                for i in 0..half {
                    let s = sign * sin[i];
                    y_low[i] = low[i] * cos[i] - high[i] * s;
                    y_high[i] = high[i] * cos[i] + low[i] * s;
                }
            }
        });
        flex::tensor(y, shape)
    }
}

#[derive(Debug)]
struct RotateBackward;

impl<B: RotateOp> Backward<B, 1> for RotateBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, bool);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (cos, sin, back) = ops.state;
        let [parent] = ops.parents;
        if let Some(node) = parent {
            grads.register::<B>(node.id, B::rotate(gradient, cos, sin, !back));
        }
    }
}

impl<B: RotateOp, C: CheckpointStrategy> RotateOp for Autodiff<B, C> {
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        back: bool,
    ) -> FloatTensor<Self> {
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        match RotateBackward.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::rotate(x.into_primitive(), cos.clone(), sin.clone(), back);
                prep.finish((cos, sin, back), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::rotate(x.into_primitive(), cos, sin, back)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Angles, rotate, rotate_plain};
    use crate::test_tensors::{assert_close, noise, numbers};

    #[test]
    fn fused_rotation_equals_plain_in_values_and_gradients() {
        let angles = numbers(noise::<2>([70, 4], 5) * 3.0);
        let cos = angles.iter().map(|a| a.cos()).collect();
        let sin = angles.iter().map(|a| a.sin()).collect();
        let x = noise::<3>([70, 3, 8], 1).autodiff().require_grad();
        let angles = Angles::new((cos, sin), 70, &x.device());
        let upstream = noise::<3>([70, 3, 8], 3);
        let fused = rotate(x.clone(), &angles);
        let plain = rotate_plain(x.clone(), &angles);
        assert_close("values", fused.clone(), plain.clone(), 1e-6);
        let fused = (fused * upstream.clone()).sum().backward();
        let plain = (plain * upstream).sum().backward();
        let gradient = |tape| x.grad(tape).expect("the input takes part");
        assert_close("dx", gradient(&fused), gradient(&plain), 1e-6);
    }
}
