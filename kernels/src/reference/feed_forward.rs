//! The second half of a block in f64: one gated part, or a router and experts.

use super::{Matrix, add_scaled, dot, linear, linear_backward, log_softmax, sum, zeros_like, zip_matrices};
use crate::activation::Activation;
use crate::model::spec::{ExpertsSpec, FeedForward, ModelSpec};
use crate::model::weights::{ExpertsWeights, FeedForwardWeights, GatedWeights};

/// What the backward pass reads of a half.
pub(super) enum Kept {
    Gated(GatedForward),
    Experts(ExpertsForward),
}

pub(super) struct GatedForward {
    gate: Matrix,
    up: Matrix,
    gated: Matrix,
}

pub(super) struct ExpertsForward {
    /// Of every expert, `[N, experts]`.
    probabilities: Matrix,
    /// Those that each row goes through, with their weights.
    chosen: Vec<Vec<(usize, f64)>>,
    experts: Vec<ExpertForward>,
    /// How far the router's product of the last expert that a row goes through is at least above that of the next one.
    pub(super) margin: f64,
}

/// The rows of one expert.
struct ExpertForward {
    rows: Vec<usize>,
    x: Matrix,
    kept: GatedForward,
    /// What it gives.
    y: Matrix,
}

/// What the half gives for normed rows.
pub(super) fn forward(weights: &FeedForwardWeights<Matrix>, spec: &ModelSpec, x: &Matrix) -> (Kept, Matrix) {
    match weights {
        FeedForwardWeights::Gated(weights) => {
            let (kept, y) = gated_forward(weights, activation_of(spec), x);
            (Kept::Gated(kept), y)
        }
        FeedForwardWeights::Experts(weights) => {
            let (kept, y) = experts_forward(weights, spec, x);
            (Kept::Experts(kept), y)
        }
    }
}

/// From the gradient of what the half gives that of the rows.
pub(super) fn backward(
    weights: &FeedForwardWeights<Matrix>,
    spec: &ModelSpec,
    kept: &Kept,
    x: &Matrix,
    dy: &Matrix,
    sums: &mut FeedForwardWeights<Matrix>,
) -> Matrix {
    match (weights, kept, sums) {
        (FeedForwardWeights::Gated(weights), Kept::Gated(kept), FeedForwardWeights::Gated(sums)) => {
            gated_backward(weights, activation_of(spec), kept, x, dy, sums)
        }
        (FeedForwardWeights::Experts(weights), Kept::Experts(kept), FeedForwardWeights::Experts(sums)) => {
            experts_backward(weights, spec, kept, x, dy, sums)
        }
        _ => panic!("weights, what was kept and gradients have one form"),
    }
}

fn activation_of(spec: &ModelSpec) -> Activation {
    let FeedForward::Gated(activation) = spec.block.feed_forward;
    activation
}

fn gated_forward(
    weights: &GatedWeights<Matrix>,
    activation: Activation,
    x: &Matrix,
) -> (GatedForward, Matrix) {
    let (gate, up) = (linear(x, &weights.gate, None), linear(x, &weights.up, None));
    let gated = zip_matrices(&gate, &up, |gate, up| activate(gate, activation).0 * up);
    let y = linear(&gated, &weights.down, None);
    (GatedForward { gate, up, gated }, y)
}

fn gated_backward(
    weights: &GatedWeights<Matrix>,
    activation: Activation,
    kept: &GatedForward,
    x: &Matrix,
    dy: &Matrix,
    sums: &mut GatedWeights<Matrix>,
) -> Matrix {
    let dgated = linear_backward(&kept.gated, &weights.down, dy, &mut sums.down, None);
    let by_gate = zip_matrices(&kept.gate, &kept.up, |gate, up| activate(gate, activation).1 * up);
    let dgate = zip_matrices(&by_gate, &dgated, |x, dy| x * dy);
    let dup = zip_matrices(&kept.gate, &dgated, |gate, dy| activate(gate, activation).0 * dy);
    let through_gate = linear_backward(x, &weights.gate, &dgate, &mut sums.gate, None);
    let through_up = linear_backward(x, &weights.up, &dup, &mut sums.up, None);
    sum(&through_gate, &through_up)
}

fn experts_of(spec: &ModelSpec) -> &ExpertsSpec {
    spec.experts.as_ref().expect("a model with experts says how many")
}

fn experts_forward(
    weights: &ExpertsWeights<Matrix>,
    spec: &ModelSpec,
    x: &Matrix,
) -> (ExpertsForward, Matrix) {
    let ExpertsSpec { chosen: count, normalised, .. } = *experts_of(spec);
    let logits = linear(x, &weights.router, None);
    let (mut probabilities, mut chosen, mut margin) = (Matrix::new(), Vec::new(), f64::INFINITY);
    for logits in &logits {
        let own: Vec<f64> = log_softmax(logits, 1.0).into_iter().map(f64::exp).collect();
        let mut order: Vec<usize> = (0..own.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        if let Some(next) = order.get(count) {
            margin = margin.min(logits[order[count - 1]] - logits[*next]);
        }
        let total: f64 =
            if normalised { order[..count].iter().map(|expert| own[*expert]).sum() } else { 1.0 };
        chosen.push(order[..count].iter().map(|expert| (*expert, own[*expert] / total)).collect::<Vec<_>>());
        probabilities.push(own);
    }
    let mut output = zeros_like(x);
    let mut experts = Vec::new();
    for (number, weights) in weights.experts.iter().enumerate() {
        let weight_of =
            |row: usize| chosen[row].iter().find(|(expert, _)| *expert == number).map(|own| own.1);
        let rows: Vec<usize> = (0..x.len()).filter(|row| weight_of(*row).is_some()).collect();
        let x: Matrix = rows.iter().map(|row| x[*row].clone()).collect();
        let (kept, y) = gated_forward(weights, activation_of(spec), &x);
        for (row, y) in rows.iter().zip(&y) {
            add_scaled(&mut output[*row], weight_of(*row).unwrap_or_default(), y);
        }
        experts.push(ExpertForward { rows, x, kept, y });
    }
    (ExpertsForward { probabilities, chosen, experts, margin }, output)
}

/// With the weights `w` of the chosen experts and their results `y`: `dw = dy . y`, and each expert's result has the gradient
/// `w dy`. From `w = p / sum p` or `w = p` and `p` the softmax of the router's products.
fn experts_backward(
    weights: &ExpertsWeights<Matrix>,
    spec: &ModelSpec,
    kept: &ExpertsForward,
    x: &Matrix,
    dy: &Matrix,
    sums: &mut ExpertsWeights<Matrix>,
) -> Matrix {
    let normalised = experts_of(spec).normalised;
    let (mut dx, mut dweights) = (zeros_like(x), zeros_like(&kept.probabilities));
    for (number, own) in kept.experts.iter().enumerate() {
        let mut dresults = Matrix::new();
        for (row, y) in own.rows.iter().zip(&own.y) {
            dweights[*row][number] = dot(&dy[*row], y);
            let weight = kept.chosen[*row].iter().find(|(expert, _)| *expert == number);
            let weight = weight.map(|own| own.1).unwrap_or_default();
            dresults.push(dy[*row].iter().map(|dy| weight * dy).collect());
        }
        let (weights, sums) = (&weights.experts[number], &mut sums.experts[number]);
        let through = gated_backward(weights, activation_of(spec), &own.kept, &own.x, &dresults, sums);
        for (row, through) in own.rows.iter().zip(&through) {
            add_scaled(&mut dx[*row], 1.0, through);
        }
    }
    let mut dlogits = Matrix::new();
    for ((dweights, probabilities), chosen) in dweights.iter().zip(&kept.probabilities).zip(&kept.chosen) {
        let total: f64 = chosen.iter().map(|(expert, _)| probabilities[*expert]).sum();
        let mean: f64 = chosen.iter().map(|(expert, weight)| weight * dweights[*expert]).sum();
        let mut by_probability = vec![0.0; probabilities.len()];
        for (expert, _) in chosen {
            let dweight = dweights[*expert];
            by_probability[*expert] = if normalised { (dweight - mean) / total } else { dweight };
        }
        let mean = dot(probabilities, &by_probability);
        dlogits.push(probabilities.iter().zip(by_probability).map(|(p, dp)| p * (dp - mean)).collect());
    }
    sum(&dx, &linear_backward(x, &weights.router, &dlogits, &mut sums.router, None))
}

/// An activation and its derivative.
fn activate(x: f64, activation: Activation) -> (f64, f64) {
    match activation {
        // From `sigmoid' = sigmoid (1 - sigmoid)`.
        Activation::Silu => (x * sigmoid(x), sigmoid(x) + x * sigmoid(x) * (1.0 - sigmoid(x))),
        Activation::GeluTanh => {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            let tanh = (root * (x + 0.044715 * x.powi(3))).tanh();
            let slope = root * (1.0 + 3.0 * 0.044715 * x * x);
            (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope)
        }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
