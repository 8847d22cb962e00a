//! From logits to what reinforcement learning reads: the log-probability of each row's token, the entropy
//! of each row, and the gradient of the former. Rows are positions, columns the vocabulary, and the
//! distribution is that of `logits / temperature`.

use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Int, Tensor, TensorData, activation};
use rayon::prelude::*;

use crate::{flex, simd};

/// Log-probability of `targets[i]` in row `i`, differentiable, natural logarithm, on burn's CPU backend.
///
/// # Shapes
/// `logits` `[N, V]`, `targets` N ids below V; the result is `[N, 1]`.
pub fn target_logprobs(logits: Tensor<2>, targets: &Arc<[u32]>, temperature: f64) -> Tensor<2> {
    check(&logits, targets);
    let logits = logits.into_dispatch();
    Tensor::from_dispatch(<Dispatch as LogprobOp>::target_logprobs(logits, targets.clone(), temperature))
}

/// [`target_logprobs`] in burn's own operations, on any device.
///
/// # Shapes
/// As [`target_logprobs`].
pub fn target_logprobs_plain(logits: Tensor<2>, targets: &[u32], temperature: f64) -> Tensor<2> {
    check(&logits, targets);
    let ids = ids(targets, &logits).reshape([targets.len(), 1]);
    activation::log_softmax(logits / temperature, 1).gather(1, ids)
}

/// Log-probability of each row's target and entropy of each row, on burn's CPU backend.
///
/// # Shapes
/// `logits` `[N, V]`; both results have N entries.
pub fn row_statistics(logits: Tensor<2>, targets: &Arc<[u32]>, temperature: f64) -> (Vec<f32>, Vec<f32>) {
    check(&logits, targets);
    let logits = logits.inner().into_dispatch();
    let both = <Dispatch as LogprobOp>::row_statistics(logits, targets.clone(), temperature);
    read_pairs(Tensor::from_dispatch(both))
}

/// [`row_statistics`] in burn's own operations, read back from any device at once.
///
/// # Shapes
/// As [`row_statistics`].
pub fn row_statistics_plain(logits: Tensor<2>, targets: &[u32], temperature: f64) -> (Vec<f32>, Vec<f32>) {
    check(&logits, targets);
    let logprobs = activation::log_softmax(logits.inner() / temperature, 1);
    let entropy = -(logprobs.clone().exp() * logprobs.clone()).sum_dim(1);
    let targets = ids(targets, &logprobs).reshape([targets.len(), 1]);
    read_pairs(Tensor::cat(vec![logprobs.gather(1, targets), entropy], 1))
}

fn read_pairs(both: Tensor<2>) -> (Vec<f32>, Vec<f32>) {
    let numbers: Vec<f32> = both.into_data().try_to_vec().expect("statistics are f32");
    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip()
}

/// `sum_i (d loss / d logprob_i) (d logprob_i / d logits)`: the gradient that a loss with these derivatives by
/// log-probability sends into the logits, on burn's CPU backend.
///
/// # Shapes
/// `logits` `[N, V]`, `dloss_dlogprob` `[N, 1]`, both without autodiff; the result is `[N, V]`.
pub fn logits_gradient(
    logits: Tensor<2>,
    targets: &Arc<[u32]>,
    dloss_dlogprob: Tensor<2>,
    temperature: f64,
) -> Tensor<2> {
    check(&logits, targets);
    let (logits, dloss_dlogprob) = (logits.into_dispatch(), dloss_dlogprob.into_dispatch());
    let targets = targets.clone();
    Tensor::from_dispatch(<Dispatch as LogprobOp>::logits_gradient(
        logits,
        dloss_dlogprob,
        targets,
        temperature,
    ))
}

/// [`logits_gradient`] in burn's own operations, on any device.
///
/// # Shapes
/// As [`logits_gradient`].
pub fn logits_gradient_plain(
    logits: Tensor<2>,
    targets: &[u32],
    dloss_dlogprob: Tensor<2>,
    temperature: f64,
) -> Tensor<2> {
    check(&logits, targets);
    let targets = ids(targets, &logits);
    let probabilities = activation::softmax(logits / temperature, 1);
    let chosen: Tensor<2> = targets.one_hot::<2>(probabilities.dims()[1]).float();
    (chosen - probabilities) * (dloss_dlogprob / temperature)
}

/// Entropy of each row, differentiable, in nats; in burn's own operations.
///
/// # Shapes
/// `logits` `[N, V]`; the result is `[N, 1]`.
pub fn row_entropies(logits: Tensor<2>, temperature: f64) -> Tensor<2> {
    let logprobs = activation::log_softmax(logits / temperature, 1);
    -(logprobs.clone().exp() * logprobs).sum_dim(1)
}

/// `sum_i (d loss / d entropy_i) (d entropy_i / d logits)`, with `d H / d x_v = -p_v (log p_v + H) / temperature`.
///
/// # Shapes
/// As [`logits_gradient`].
pub fn entropy_gradient(logits: Tensor<2>, dloss_dentropy: Tensor<2>, temperature: f64) -> Tensor<2> {
    let logprobs = activation::log_softmax(logits / temperature, 1);
    let probabilities = logprobs.clone().exp();
    let entropies = -(probabilities.clone() * logprobs.clone()).sum_dim(1);
    probabilities * (logprobs + entropies) * (dloss_dentropy / -temperature)
}

fn check(logits: &Tensor<2>, targets: &[u32]) {
    let [rows, vocabulary] = logits.dims();
    assert_eq!(rows, targets.len(), "one target a row");
    let largest = targets.iter().copied().max().unwrap_or(0) as usize;
    assert!(largest < vocabulary, "token {largest} in a vocabulary of {vocabulary}");
}

fn ids(targets: &[u32], like: &Tensor<2>) -> Tensor<1, Int> {
    let ids: Vec<i32> = targets.iter().map(|&id| id as i32).collect();
    Tensor::from_data(TensorData::new(ids, [targets.len()]), &like.device())
}

#[backend_extension(Flex, Autodiff)]
trait LogprobOp: Backend {
    fn target_logprobs(logits: FloatTensor<Self>, targets: Arc<[u32]>, temperature: f64)
    -> FloatTensor<Self>;

    fn row_statistics(logits: FloatTensor<Self>, targets: Arc<[u32]>, temperature: f64) -> FloatTensor<Self>;

    fn logits_gradient(
        logits: FloatTensor<Self>,
        dloss_dlogprob: FloatTensor<Self>,
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> FloatTensor<Self>;
}

/// Log-probability of the target and entropy of a row, in one pass for the maximum and one for the sums.
#[inline(always)]
fn statistics_of_row(row: &[f32], target: u32, inverse: f32) -> [f32; 2] {
    let largest = simd::max(row);
    let (total, weighted) = sums_of_row(row, largest, inverse);
    let log_total = total.ln();
    let logprob = (row[target as usize] - largest) * inverse - log_total;
    [logprob, log_total - weighted / total]
}

/// `sum e^z` and `sum z e^z` with `z = (x - largest) / temperature`.
#[inline(always)]
fn sums_of_row(row: &[f32], largest: f32, inverse: f32) -> (f32, f32) {
    const LANES: usize = 16;
    let (mut totals, mut weighted) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            let z = (block[lane] - largest) * inverse;
            let e = simd::exp(z);
            totals[lane] += e;
            weighted[lane] = z.mul_add(e, weighted[lane]);
        }
    }
    let (mut total, mut weight) = (simd::sum(&totals), simd::sum(&weighted));
    for x in rest {
        let z = (x - largest) * inverse;
        let e = simd::exp(z);
        total += e;
        weight = z.mul_add(e, weight);
    }
    (total, weight)
}

#[inline(always)]
fn gradient_of_row(row: &[f32], target: u32, dloss_dlogprob: f32, inverse: f32, to: &mut [f32]) {
    let largest = simd::max(row);
    let (total, _) = sums_of_row(row, largest, inverse);
    let factor = dloss_dlogprob * inverse;
    let scale = -factor / total;
    for (to, x) in to.iter_mut().zip(row) {
        *to = scale * simd::exp((x - largest) * inverse);
    }
    to[target as usize] += factor;
}

impl LogprobOp for Flex {
    fn target_logprobs(logits: FlexTensor, targets: Arc<[u32]>, temperature: f64) -> FlexTensor {
        let both = Self::row_statistics(logits, targets, temperature);
        let rows = both.shape()[0];
        let both = flex::Rows::of(&both);
        flex::tensor(both.slice().iter().step_by(2).copied().collect(), [rows, 1].into())
    }

    fn row_statistics(logits: FlexTensor, targets: Arc<[u32]>, temperature: f64) -> FlexTensor {
        let [rows, vocabulary] = logits.shape().dims();
        let logits = flex::Rows::of(&logits);
        let inverse = (1.0 / temperature) as f32;
        let mut both = vec![0.0; rows * 2];
        let inputs = logits.slice().par_chunks(vocabulary).zip(targets.par_iter());
        both.par_chunks_mut(2).zip(inputs).with_min_len(16).for_each(|(both, (row, &target))| {
            both.copy_from_slice(&simd::vectorized(
                #[inline(always)]
                || statistics_of_row(row, target, inverse),
            ));
        });
        flex::tensor(both, [rows, 2].into())
    }

    fn logits_gradient(
        logits: FlexTensor,
        dloss_dlogprob: FlexTensor,
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> FlexTensor {
        let shape = logits.shape();
        let [logits, dloss_dlogprob] = [&logits, &dloss_dlogprob].map(flex::Rows::of);
        let inverse = (1.0 / temperature) as f32;
        let mut gradient = vec![0.0; logits.slice().len()];
        let inputs = logits.slice().par_chunks(shape[1]).zip(targets.par_iter());
        let inputs = inputs.zip(dloss_dlogprob.slice().par_iter());
        let rows = gradient.par_chunks_mut(shape[1]).zip(inputs).with_min_len(16);
        rows.for_each(|(to, ((row, &target), &dloss_dlogprob))| {
            simd::vectorized(
                #[inline(always)]
                || gradient_of_row(row, target, dloss_dlogprob, inverse, to),
            );
        });
        flex::tensor(gradient, shape)
    }
}

#[derive(Debug)]
struct LogprobBackward;

impl<B: LogprobOp> Backward<B, 1> for LogprobBackward {
    type State = (NodeId, Arc<[u32]>, f64);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (logits, targets, temperature) = ops.state;
        let logits = checkpointer.retrieve_node_output::<FloatTensor<B>>(logits);
        let [parent] = ops.parents;
        if let Some(node) = parent {
            grads.register::<B>(node.id, B::logits_gradient(logits, gradient, targets, temperature));
        }
    }
}

impl<B: LogprobOp, C: CheckpointStrategy> LogprobOp for Autodiff<B, C> {
    fn target_logprobs(
        logits: FloatTensor<Self>,
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> FloatTensor<Self> {
        match LogprobBackward.prepare::<C>([logits.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let input = prep.checkpoint(&logits);
                let y = B::target_logprobs(logits.into_primitive(), targets.clone(), temperature);
                prep.finish((input, targets, temperature), y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::target_logprobs(logits.into_primitive(), targets, temperature))
            }
        }
    }

    fn row_statistics(_: FloatTensor<Self>, _: Arc<[u32]>, _: f64) -> FloatTensor<Self> {
        unreachable!("statistics are taken of logits without autodiff")
    }

    fn logits_gradient(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Arc<[u32]>,
        _: f64,
    ) -> FloatTensor<Self> {
        unreachable!("second derivatives are not computed")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::activation;

    use super::{logits_gradient, row_statistics, target_logprobs, target_logprobs_plain};
    use crate::test_tensors::{assert_close, noise, numbers, relative_error};

    #[test]
    fn fused_logprobs_equal_plain_in_values_entropies_and_gradients() {
        let (rows, vocabulary, temperature) = (37, 53, 0.7);
        let targets: Arc<[u32]> = (0..rows as u32).map(|i| i * 7 % vocabulary as u32).collect();
        let logits = (noise::<2>([rows, vocabulary], 1) * 8.0).autodiff().require_grad();
        let dloss_dlogprob = noise::<2>([rows, 1], 2);
        let fused = target_logprobs(logits.clone(), &targets, temperature);
        let plain = target_logprobs_plain(logits.clone(), &targets, temperature);
        assert_close("log-probs", fused.clone(), plain.clone(), 1e-6);

        let all = activation::log_softmax(logits.clone().inner() / temperature, 1);
        let entropies = numbers(-(all.clone().exp() * all).sum_dim(1));
        let (logprobs, found) = row_statistics(logits.clone(), &targets, temperature);
        assert_eq!(logprobs, numbers(fused.clone()));
        assert!(relative_error(&found, &entropies) < 3e-6);

        let fused = (fused * dloss_dlogprob.clone()).sum().backward();
        let plain = (plain * dloss_dlogprob.clone()).sum().backward();
        let gradient = |tape| logits.grad(tape).expect("the logits take part");
        assert_close("dlogits", gradient(&fused), gradient(&plain), 1e-5);
        let direct = logits_gradient(logits.clone().inner(), &targets, dloss_dlogprob, temperature);
        assert_close("direct dlogits", direct, gradient(&plain), 1e-5);
    }

    #[test]
    fn a_certain_row_has_no_entropy_and_no_infinite_number() {
        let logits = noise::<2>([1, 4], 1) * 1e4;
        let largest = numbers(logits.clone()).iter().copied().fold(f32::MIN, f32::max);
        let target = numbers(logits.clone()).iter().position(|&x| x == largest).unwrap_or(0) as u32;
        let (logprobs, entropies) = row_statistics(logits, &[target].into(), 1.0);
        assert_eq!((logprobs[0], entropies[0]), (0.0, 0.0));
    }
}
