//! The gated activation of the feed-forward part: `silu(gate) * up`.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Tensor, activation};
use rayon::prelude::*;

use crate::{flex, simd};

/// Numbers that one task works on: 64 KiB of each operand.
const NUMBERS: usize = 16 * 1024;

/// `silu(gate) * up` with `silu(x) = x / (1 + e^-x)`.
///
/// # Shapes
/// All of one shape, `[N, I]`.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    assert_eq!(gate.dims(), up.dims(), "gate and up have one shape");
    if !flex::is_cpu(&gate.device()) {
        return swiglu_plain(gate, up);
    }
    Tensor::from_dispatch(<Dispatch as SwigluOp>::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// [`swiglu`] in burn's own operations.
///
/// # Shapes
/// As [`swiglu`].
pub fn swiglu_plain(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    activation::silu(gate) * up
}

#[backend_extension(Flex, Autodiff)]
trait SwigluOp: Backend {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

#[inline(always)]
fn forward_run(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate * simd::sigmoid(*gate) * up;
    }
}

#[inline(always)]
fn backward_run(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    for ((((dgate, dup), gate), up), dy) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(dy) {
        let s = simd::sigmoid(*gate);
        *dgate = dy * up * s * (1.0 + gate * (1.0 - s));
        *dup = dy * gate * s;
    }
}

/// Replaces the gate by the activation.
pub(crate) fn forward_in_place(gate: &mut [f32], up: &[f32]) {
    simd::vectorized(
        #[inline(always)]
        || {
            for (gate, up) in gate.iter_mut().zip(up) {
                *gate = *gate * simd::sigmoid(*gate) * up;
            }
        },
    );
}

/// Replaces gate and up by their gradients, and writes the activation.
pub(crate) fn backward_in_place(gate: &mut [f32], up: &mut [f32], dy: &[f32], active: &mut [f32]) {
    simd::vectorized(
        #[inline(always)]
        || {
            for (((gate, up), dy), active) in gate.iter_mut().zip(up).zip(dy).zip(active) {
                let s = simd::sigmoid(*gate);
                let silu = *gate * s;
                *active = silu * *up;
                *gate = dy * *up * s * (1.0 + *gate * (1.0 - s));
                *up = dy * silu;
            }
        },
    );
}

impl SwigluOp for Flex {
    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let shape = gate.shape();
        let [gate, up] = [&gate, &up].map(flex::Rows::of);
        let mut y = vec![0.0; gate.slice().len()];
        let inputs = gate.slice().par_chunks(NUMBERS).zip(up.slice().par_chunks(NUMBERS));
        y.par_chunks_mut(NUMBERS).zip(inputs).for_each(|(y, (gate, up))| {
            simd::vectorized(
                #[inline(always)]
                || forward_run(gate, up, y),
            );
        });
        flex::tensor(y, shape)
    }

    fn swiglu_backward(gate: FlexTensor, up: FlexTensor, gradient: FlexTensor) -> (FlexTensor, FlexTensor) {
        let shape = gate.shape();
        let [gate, up, dy] = [&gate, &up, &gradient].map(flex::Rows::of);
        let mut dgate = vec![0.0; gate.slice().len()];
        let mut dup = vec![0.0; gate.slice().len()];
        let inputs = gate.slice().par_chunks(NUMBERS).zip(up.slice().par_chunks(NUMBERS));
        let inputs = inputs.zip(dy.slice().par_chunks(NUMBERS));
        let outputs = dgate.par_chunks_mut(NUMBERS).zip(dup.par_chunks_mut(NUMBERS));
        outputs.zip(inputs).for_each(|((dgate, dup), ((gate, up), dy))| {
            simd::vectorized(
                #[inline(always)]
                || backward_run(gate, up, dy, dgate, dup),
            );
        });
        (flex::tensor(dgate, shape.clone()), flex::tensor(dup, shape))
    }
}

#[derive(Debug)]
struct SwigluBackward;

impl<B: SwigluOp> Backward<B, 2> for SwigluBackward {
    type State = [NodeId; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let [gate, up] = ops.state.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        let (dgate, dup) = B::swiglu_backward(gate, up, gradient);
        for (parent, gradient) in ops.parents.into_iter().zip([dgate, dup]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: SwigluOp, C: CheckpointStrategy> SwigluOp for Autodiff<B, C> {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        match SwigluBackward.prepare::<C>([gate.node(), up.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let inputs = [prep.checkpoint(&gate), prep.checkpoint(&up)];
                prep.finish(inputs, B::swiglu(gate.into_primitive(), up.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::swiglu(gate.into_primitive(), up.into_primitive())),
        }
    }

    fn swiglu_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("second derivatives are not computed")
    }
}

#[cfg(test)]
mod tests {
    use super::{swiglu, swiglu_plain};
    use crate::test_tensors::{assert_close, noise};

    #[test]
    fn fused_activation_equals_plain_in_values_and_gradients() {
        let gate = (noise::<2>([90, 200], 1) * 12.0).autodiff().require_grad();
        let up = noise::<2>([90, 200], 2).autodiff().require_grad();
        let upstream = noise::<2>([90, 200], 3);
        let fused = swiglu(gate.clone(), up.clone());
        let plain = swiglu_plain(gate.clone(), up.clone());
        assert_close("values", fused.clone(), plain.clone(), 1e-6);
        let fused = (fused * upstream.clone()).sum().backward();
        let plain = (plain * upstream).sum().backward();
        for (name, leaf) in [("dgate", gate), ("dup", up)] {
            let gradient = |tape| leaf.grad(tape).expect("every input takes part");
            assert_close(name, gradient(&fused), gradient(&plain), 1e-5);
        }
    }
}
