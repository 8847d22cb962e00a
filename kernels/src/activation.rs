//! The gated activation of the feed-forward part: `activation(gate) * up`.
//!
//! Every activation here is `x sigmoid(v(x))` for some `v`, so that its derivative is
//! `sigmoid(v) (1 + x (1 - sigmoid(v)) v'(x))`.

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

/// The function that the gate of a feed-forward part goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`, `silu` in config files; gated, it is SwiGLU.
    Silu,
    /// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, `gelu_pytorch_tanh` in config files; gated, it is GeGLU.
    GeluTanh,
}

impl Activation {
    /// The word for it in config files.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::GeluTanh => "gelu_pytorch_tanh",
        }
    }
}

/// An activation, one number at a time.
trait Gate {
    /// `v(x)` and `v'(x)`.
    fn argument(x: f32) -> (f32, f32);
}

struct Silu;

impl Gate for Silu {
    #[inline(always)]
    fn argument(x: f32) -> (f32, f32) {
        (x, 1.0)
    }
}

struct GeluTanh;

impl Gate for GeluTanh {
    /// From `(1 + tanh(u)) / 2 = sigmoid(2 u)`.
    #[inline(always)]
    fn argument(x: f32) -> (f32, f32) {
        let square = x * x;
        let v = TWICE_ROOT * x * square.mul_add(CUBE, 1.0);
        (v, TWICE_ROOT * square.mul_add(3.0 * CUBE, 1.0))
    }
}

/// `2 sqrt(2 / pi)`.
const TWICE_ROOT: f32 = 1.595_769;
const CUBE: f32 = 0.044_715;

/// Numbers that one task works on: 64 KiB of each operand.
const NUMBERS: usize = 16 * 1024;

/// `activation(gate) * up`, on burn's CPU backend.
///
/// # Shapes
/// All of one shape, `[N, I]`.
pub fn gated(gate: Tensor<2>, up: Tensor<2>, activation: Activation) -> Tensor<2> {
    assert_eq!(gate.dims(), up.dims(), "gate and up have one shape");
    let (gate, up) = (gate.into_dispatch(), up.into_dispatch());
    Tensor::from_dispatch(<Dispatch as GatedOp>::gated(gate, up, activation))
}

/// [`gated`] in burn's own operations, on any device.
///
/// # Shapes
/// As [`gated`].
pub fn gated_plain(gate: Tensor<2>, up: Tensor<2>, activation: Activation) -> Tensor<2> {
    match activation {
        Activation::Silu => activation::silu(gate) * up,
        Activation::GeluTanh => activation::gelu_approximate(gate) * up,
    }
}

#[backend_extension(Flex, Autodiff)]
trait GatedOp: Backend {
    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;

    fn gated_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

#[inline(always)]
fn forward_run<G: Gate>(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate * simd::sigmoid(G::argument(*gate).0) * up;
    }
}

#[inline(always)]
fn backward_run<G: Gate>(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    for ((((dgate, dup), gate), up), dy) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(dy) {
        let (v, slope) = G::argument(*gate);
        let s = simd::sigmoid(v);
        *dgate = dy * up * s * (1.0 + gate * (1.0 - s) * slope);
        *dup = dy * gate * s;
    }
}

/// Replaces the gate by the activation.
pub(crate) fn forward_in_place(gate: &mut [f32], up: &[f32], activation: Activation) {
    match activation {
        Activation::Silu => forward_over::<Silu>(gate, up),
        Activation::GeluTanh => forward_over::<GeluTanh>(gate, up),
    }
}

fn forward_over<G: Gate>(gate: &mut [f32], up: &[f32]) {
    simd::vectorized(
        #[inline(always)]
        || {
            for (gate, up) in gate.iter_mut().zip(up) {
                *gate = *gate * simd::sigmoid(G::argument(*gate).0) * up;
            }
        },
    );
}

/// Replaces gate and up by their gradients, and writes the activation.
pub(crate) fn backward_in_place(
    gate: &mut [f32],
    up: &mut [f32],
    dy: &[f32],
    active: &mut [f32],
    activation: Activation,
) {
    match activation {
        Activation::Silu => backward_over::<Silu>(gate, up, dy, active),
        Activation::GeluTanh => backward_over::<GeluTanh>(gate, up, dy, active),
    }
}

fn backward_over<G: Gate>(gate: &mut [f32], up: &mut [f32], dy: &[f32], active: &mut [f32]) {
    simd::vectorized(
        #[inline(always)]
        || {
            for (((gate, up), dy), active) in gate.iter_mut().zip(up).zip(dy).zip(active) {
                let (v, slope) = G::argument(*gate);
                let s = simd::sigmoid(v);
                let value = *gate * s;
                *active = value * *up;
                *gate = dy * *up * s * (1.0 + *gate * (1.0 - s) * slope);
                *up = dy * value;
            }
        },
    );
}

impl GatedOp for Flex {
    fn gated(gate: FlexTensor, up: FlexTensor, activation: Activation) -> FlexTensor {
        let shape = gate.shape();
        let [gate, up] = [&gate, &up].map(flex::Rows::of);
        let mut y = vec![0.0; gate.slice().len()];
        let inputs = gate.slice().par_chunks(NUMBERS).zip(up.slice().par_chunks(NUMBERS));
        y.par_chunks_mut(NUMBERS).zip(inputs).for_each(|(y, (gate, up))| {
            simd::vectorized(
                #[inline(always)]
                || match activation {
                    Activation::Silu => forward_run::<Silu>(gate, up, y),
                    Activation::GeluTanh => forward_run::<GeluTanh>(gate, up, y),
                },
            );
        });
        flex::tensor(y, shape)
    }

    fn gated_backward(
        gate: FlexTensor,
        up: FlexTensor,
        gradient: FlexTensor,
        activation: Activation,
    ) -> (FlexTensor, FlexTensor) {
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
                || match activation {
                    Activation::Silu => backward_run::<Silu>(gate, up, dy, dgate, dup),
                    Activation::GeluTanh => backward_run::<GeluTanh>(gate, up, dy, dgate, dup),
                },
            );
        });
        (flex::tensor(dgate, shape.clone()), flex::tensor(dup, shape))
    }
}

#[derive(Debug)]
struct GatedBackward;

impl<B: GatedOp> Backward<B, 2> for GatedBackward {
    type State = ([NodeId; 2], Activation);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (nodes, activation) = ops.state;
        let [gate, up] = nodes.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        let (dgate, dup) = B::gated_backward(gate, up, gradient, activation);
        for (parent, gradient) in ops.parents.into_iter().zip([dgate, dup]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: GatedOp, C: CheckpointStrategy> GatedOp for Autodiff<B, C> {
    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        match GatedBackward.prepare::<C>([gate.node(), up.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let inputs = [prep.checkpoint(&gate), prep.checkpoint(&up)];
                let (gate, up) = (gate.into_primitive(), up.into_primitive());
                prep.finish((inputs, activation), B::gated(gate, up, activation))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::gated(gate.into_primitive(), up.into_primitive(), activation))
            }
        }
    }

    fn gated_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("second derivatives are not computed")
    }
}

#[cfg(test)]
mod tests {
    use super::{Activation, gated, gated_plain};
    use crate::test_tensors::{assert_close, noise};

    #[test]
    fn fused_activation_equals_plain_in_values_and_gradients() {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let gate = (noise::<2>([90, 200], 1) * 12.0).autodiff().require_grad();
            let up = noise::<2>([90, 200], 2).autodiff().require_grad();
            let upstream = noise::<2>([90, 200], 3);
            let fused = gated(gate.clone(), up.clone(), activation);
            let plain = gated_plain(gate.clone(), up.clone(), activation);
            assert_close("values", fused.clone(), plain.clone(), 1e-6);
            let fused = (fused * upstream.clone()).sum().backward();
            let plain = (plain * upstream).sum().backward();
            for (name, leaf) in [("dgate", gate), ("dup", up)] {
                let gradient = |tape| leaf.grad(tape).expect("every input takes part");
                assert_close(name, gradient(&fused), gradient(&plain), 1e-5);
            }
        }
    }
}
