//! Experts: a router chooses a few gated parts for each token, whose results are added with its weights; in tensors, on
//! slices forward and backward, and packed for decoding. Which ones are chosen is said by [`routing`].
//!
//! On slices the rows of a chunk are grouped by expert, so that each expert's products are over all of its rows. An
//! expert that no row of a chunk goes through costs nothing but its packing, and its gradient stays as it was.

use std::sync::Arc;

use burn::tensor::{Tensor, activation};
use rayon::prelude::*;

use super::TensorForm;
use super::gated::{GateUp, Gated, GatedBackward, GatedForward, PackedGated};
use super::linear::linear;
use super::residual::Joint;
use crate::flex::InnerOrSelf;
use crate::gemm::PackedMatrix;
use crate::model::id_tensor;
use crate::model::linear::{Factors, Linear};
use crate::model::spec::ExpertsSpec;
use crate::model::weights::ExpertsWeights;
use crate::rows::{Matrix, add_scaled_columns, for_each_block};
use crate::simd;
use routing::{ExpertRows, Routing};

pub(crate) mod routing;

impl ExpertsWeights<Tensor<2>> {
    /// What the part gives for normed rows. The router's probabilities are read from the device: which rows an expert
    /// has must be known where products are asked for.
    ///
    /// # Shapes
    /// `x` and the result `[N, hidden]`.
    pub(crate) fn output(&self, x: Tensor<2>, form: TensorForm<'_>) -> Tensor<2> {
        let spec = form.config.spec.experts.as_ref().expect("a model with experts says how many");
        let [rows, hidden] = x.dims();
        let logits = linear(x.clone(), &self.router, None);
        let mut routing = Routing::default();
        let read = logits.clone().inner_or_self().into_data().try_to_vec::<f32>();
        routing.set(&mut read.expect("products are f32"), spec);
        let device = x.device();
        let select = |from: Tensor<2>, rows: &[u32]| from.select(0, id_tensor(rows, &device));
        let places = routing.experts().iter().enumerate();
        let chosen: Vec<u32> =
            places.map(|(place, expert)| (place / spec.chosen * spec.count) as u32 + expert).collect();
        let probabilities = activation::softmax(logits, 1).reshape([rows * spec.count, 1]);
        let weights = select(probabilities, &chosen).reshape([rows, spec.chosen]);
        let weights = match spec.normalised {
            true => weights.clone() / weights.sum_dim(1),
            false => weights,
        };
        let results = routing.used().map(|expert| {
            let own: Vec<u32> = routing.rows_of(expert).map(|grouped| routing.row(grouped) as u32).collect();
            self.experts[expert].output(select(x.clone(), &own), form)
        });
        let results = select(Tensor::cat(results.collect(), 0), routing.grouped_rows());
        let weighted = results * weights.reshape([rows * spec.chosen, 1]);
        weighted.reshape([rows, spec.chosen, hidden]).sum_dim(1).reshape([rows, hidden])
    }
}

/// The part on slices.
pub(crate) struct Experts {
    pub(crate) router: Linear,
    /// Each without a norm or a factor of its own.
    pub(crate) experts: Vec<Gated>,
    pub(crate) joint: Joint,
    pub(crate) spec: ExpertsSpec,
}

/// Its weights as right factors of `x w^T`.
pub(crate) struct ExpertsForward {
    router: Factors,
    experts: Vec<GatedForward>,
}

/// Its weights as right factors of `dy w`, and the router's forward: rows are routed again.
pub(crate) struct ExpertsBackward {
    router_forward: Factors,
    router: Factors,
    experts: Vec<GatedBackward>,
}

/// Buffers of one chunk of some rows.
#[derive(Default)]
pub(crate) struct ExpertBuffers {
    pub(crate) routing: Routing,
    /// The router's probabilities, `[rows, experts]`.
    probabilities: Vec<f32>,
    /// Gradients by the router's products, of the same form.
    pub(crate) dlogits: Vec<f32>,
    /// Normed rows by expert, `[grouped rows, hidden]`.
    pub(crate) x: Vec<f32>,
    /// Results of the experts, or gradients of what they have seen; of the same form.
    y: Vec<f32>,
    /// Gradients of the experts' results; of the same form.
    pub(crate) dy: Vec<f32>,
}

/// Grouped rows between the projections of the experts, `[grouped rows, intermediate]` each. As in [`GateUp`], both
/// projections become their gradients.
pub(crate) struct BetweenRows<'a> {
    pub(crate) gate: &'a mut [f32],
    pub(crate) up: &'a mut [f32],
    pub(crate) active: &'a mut [f32],
    pub(crate) dactive: &'a mut [f32],
}

/// The first `len` numbers of a buffer, which grows where it is too short.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

impl Experts {
    /// What the forward pass needs.
    pub(crate) fn forward_weights(&self) -> ExpertsForward {
        let experts = self.experts.par_iter().map(Gated::forward_weights).collect();
        ExpertsForward { router: self.router.forward(), experts }
    }

    /// What the backward pass needs to compute again what was not kept.
    pub(crate) fn again_weights(&self) -> ExpertsForward {
        let experts = self.experts.par_iter().map(Gated::again_weights).collect();
        ExpertsForward { router: self.router.forward(), experts }
    }

    pub(crate) fn backward_weights(&self) -> ExpertsBackward {
        ExpertsBackward {
            router_forward: self.router.forward(),
            router: self.router.backward(),
            experts: self.experts.par_iter().map(Gated::backward_weights).collect(),
        }
    }

    /// Width of a row of the residual stream.
    fn hidden(&self) -> usize {
        self.router.inner()
    }

    /// Routes normed rows and groups them.
    fn route(&self, router: &Factors, x: &[f32], buffers: &mut ExpertBuffers) {
        let (hidden, count) = (self.hidden(), self.spec.count);
        let ExpertBuffers { routing, probabilities, x: grouped, .. } = buffers;
        let probabilities = sized(probabilities, x.len() / hidden * count);
        for_each_block([Matrix::new(probabilities, count)], |rows, [logits]| {
            let x = &x[rows.start * hidden..rows.end * hidden];
            router.multiply(rows.len(), x, logits);
            self.router.add_bias(logits);
        });
        routing.set(probabilities, &self.spec);
        let grouped = sized(grouped, routing.len() * hidden);
        let rows = grouped.par_chunks_exact_mut(hidden).enumerate();
        rows.for_each(|(grouped, to)| {
            to.copy_from_slice(&x[routing.row(grouped) * hidden..][..hidden]);
        });
    }

    /// Routes normed rows again in the backward pass.
    pub(crate) fn route_again(&self, weights: &ExpertsBackward, x: &[f32], buffers: &mut ExpertBuffers) {
        self.route(&weights.router_forward, x, buffers);
    }

    /// Routes normed rows, and both projections of each expert's own, `[grouped rows, intermediate]` each.
    pub(crate) fn project(
        &self,
        weights: &ExpertsForward,
        x: &[f32],
        buffers: &mut ExpertBuffers,
        to: &mut GateUp<'_>,
    ) {
        self.route(&weights.router, x, buffers);
        self.project_grouped(weights, buffers, to);
    }

    /// Both projections of rows that were routed.
    pub(crate) fn project_grouped(
        &self,
        weights: &ExpertsForward,
        buffers: &ExpertBuffers,
        to: &mut GateUp<'_>,
    ) {
        let (hidden, width) = (self.hidden(), self.spec.intermediate);
        let blocks = buffers.routing.blocks([Matrix::new(to.gate, width), Matrix::new(to.up, width)]);
        blocks.into_par_iter().with_max_len(1).for_each(
            |ExpertRows { expert, rows, buffers: [gate, up] }| {
                let x = &buffers.x[rows.start * hidden..rows.end * hidden];
                let mut to = GateUp { gate, up };
                self.experts[expert].project(&weights.experts[expert], rows.len(), x, &mut to);
            },
        );
    }

    /// From both projections to the block's output: adds to rows of the residual stream.
    pub(crate) fn add_output(
        &self,
        weights: &ExpertsForward,
        buffers: &mut ExpertBuffers,
        on: &mut GateUp<'_>,
        x: &mut [f32],
    ) {
        let (hidden, width) = (self.hidden(), self.spec.intermediate);
        let ExpertBuffers { routing, y, .. } = buffers;
        let y = sized(y, routing.len() * hidden);
        let blocks =
            routing.blocks([Matrix::new(on.gate, width), Matrix::new(on.up, width), Matrix::new(y, hidden)]);
        blocks.into_par_iter().with_max_len(1).for_each(
            |ExpertRows { expert, buffers: [gate, up, y], .. }| {
                let mut on = GateUp { gate, up };
                self.experts[expert].output(&weights.experts[expert], &mut on, y);
            },
        );
        let y = &*y;
        for_each_block([Matrix::new(x, hidden)], |rows, [x]| {
            for (row, x) in rows.zip(x.chunks_exact_mut(hidden)) {
                add_results(routing, row, self.joint.scale, y, x);
            }
        });
    }

    /// From the gradient `dx` of the block's output to that of the normed rows, `dnormed`, which are routed and both of
    /// whose projections are there. Leaves what the gradients of weights are products of: both projections become their
    /// gradients, `active` what the down projections have seen, and the buffers the rest.
    pub(crate) fn backward(
        &self,
        weights: &ExpertsBackward,
        dx: &[f32],
        buffers: &mut ExpertBuffers,
        on: BetweenRows<'_>,
        dnormed: &mut [f32],
    ) {
        let (hidden, width) = (self.hidden(), self.spec.intermediate);
        let ExpertBuffers { routing, probabilities, dlogits, y, dy, .. } = buffers;
        let grouped = routing.len();
        let (y, dy) = (sized(y, grouped * hidden), sized(dy, grouped * hidden));
        let mut dweights = vec![0.0; grouped];
        let blocks = routing.blocks([
            Matrix::new(on.gate, width),
            Matrix::new(on.up, width),
            Matrix::new(on.active, width),
            Matrix::new(on.dactive, width),
            Matrix::new(&mut *y, hidden),
            Matrix::new(dy, hidden),
            Matrix::new(&mut dweights, 1),
        ]);
        blocks
            .into_par_iter()
            .with_max_len(1)
            .for_each(|rows| self.expert_backward(weights, routing, dx, rows));
        let count = self.spec.count;
        let (y, probabilities) = (&*y, &*probabilities);
        let dlogits = sized(dlogits, dnormed.len() / hidden * count);
        for_each_block(
            [Matrix::new(dnormed, hidden), Matrix::new(dlogits, count)],
            |rows, [dnormed, dlogits]| {
                dlogits.fill(0.0);
                for (row, dlogits) in rows.clone().zip(dlogits.chunks_exact_mut(count)) {
                    let own: Vec<f32> = routing.of_row(row).map(|own| dweights[own.grouped]).collect();
                    let probabilities = &probabilities[row * count..(row + 1) * count];
                    routing.router_backward(row, probabilities, &own, self.spec.normalised, dlogits);
                }
                weights.router.multiply(rows.len(), dlogits, dnormed);
                for (row, dnormed) in rows.zip(dnormed.chunks_exact_mut(hidden)) {
                    // Their gradients have the weights in them.
                    for own in routing.of_row(row) {
                        add_scaled_columns(dnormed, 1.0, &y[own.grouped * hidden..][..hidden]);
                    }
                }
            },
        );
    }

    /// [`Experts::backward`] of some rows of one expert.
    ///
    /// All gradients are multiples of that of the expert's result, so that the row's weight comes in at the end: the
    /// gradient by the weight itself needs them without.
    fn expert_backward(
        &self,
        weights: &ExpertsBackward,
        routing: &Routing,
        dx: &[f32],
        rows: ExpertRows<'_, 7>,
    ) {
        let (hidden, width) = (self.hidden(), self.spec.intermediate);
        let ExpertRows { expert, rows, buffers: [gate, up, active, dactive, y, dy, dweights] } = rows;
        for (grouped, dy) in rows.clone().zip(dy.chunks_exact_mut(hidden)) {
            dy.copy_from_slice(&dx[routing.row(grouped) * hidden..][..hidden]);
        }
        self.joint.scale_gradient(dy);
        let mut on = GateUp { gate, up };
        self.experts[expert].backward(&weights.experts[expert], dy, &mut on, active, dactive, y);
        let between = active.chunks_exact(width).zip(dactive.chunks_exact(width));
        for (dweight, (active, dactive)) in dweights.iter_mut().zip(between) {
            *dweight = simd::vectorized(
                #[inline(always)]
                || simd::dot(active, dactive),
            );
        }
        for (at, grouped) in rows.enumerate() {
            let weight = routing.weight(grouped);
            for (values, width) in
                [(&mut *on.gate, width), (&mut *on.up, width), (&mut *y, hidden), (&mut *dy, hidden)]
            {
                values[at * width..(at + 1) * width].iter_mut().for_each(|number| *number *= weight);
            }
        }
    }
}

/// Adds what a row's experts give, times their weights and a factor, to a row of the residual stream.
pub(crate) fn add_results(routing: &Routing, row: usize, scale: f32, y: &[f32], x: &mut [f32]) {
    for own in routing.of_row(row) {
        add_scaled_columns(x, scale * own.weight, &y[own.grouped * x.len()..][..x.len()]);
    }
}

/// The part as decoding reads it.
pub(crate) struct PackedExperts {
    /// In f32 at every precision: the learner's router is, and another choice of experts is another model.
    pub(crate) router: Arc<PackedMatrix>,
    pub(crate) experts: Vec<PackedGated>,
    pub(crate) joint: Joint,
    pub(crate) spec: ExpertsSpec,
}
