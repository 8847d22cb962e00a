//! Causal attention over packed sequences, with fewer key heads than query heads where the model has them.
//!
//! One operation serves training, chunks of a sequence on their prefix, prefill and cached decode: rows of
//! queries and rows of keys lie in any order in their tensors, and [`AttentionRows`] say which query rows attend
//! to which key rows. No mask tensor exists. [`attention_plain`] is the definition, in burn's own operations
//! with the whole score matrix of a span, on any device; [`attention`] is a flash kernel on burn's CPU backend
//! (online softmax, log-sum-exp kept, scores recomputed in the backward pass).

use std::ops::Range;
use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Int, Tensor, activation};

use crate::flex;

mod cpu;

/// Query rows that attend to key rows: the last query sees every key, the one before it one key less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionRows {
    /// Rows of the query tensor, in the order of their positions.
    pub queries: Range<usize>,
    /// Rows of the key and value tensors, in the order of their positions; at least as many.
    pub keys: Range<usize>,
    /// How many keys before it a query sees at most, its own among them; `None` where it sees all.
    pub window: Option<usize>,
}

impl AttentionRows {
    /// How many keys the query `row` (counted from the span's first) sees.
    pub(crate) fn keys_seen(&self, row: usize) -> usize {
        self.keys.len() - self.queries.len() + row + 1
    }

    /// How many of the first keys are behind the window of the query `row`.
    pub(crate) fn keys_hidden(&self, row: usize) -> usize {
        self.window.map_or(0, |window| self.keys_seen(row).saturating_sub(window))
    }
}

/// Causal attention, `softmax(q k^T / sqrt(D)) v` over the keys that each query sees, on burn's CPU backend.
///
/// Query heads share key heads in order: head `h` reads key head `h / (H / KV)`.
///
/// # Shapes
/// `query` `[N, H, D]`, `key` and `value` `[M, KV, D]`; the result is `[N, H, D]`. Query rows in no span give 0.
///
/// # Panics
/// If a span leaves its tensor, has more queries than keys, or `H` is no multiple of `KV`.
pub fn attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    spans: &Arc<[AttentionRows]>,
) -> Tensor<3> {
    check(&query, &key, &value, spans);
    Tensor::from_dispatch(<Dispatch as AttentionOp>::span_attention(
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        spans.clone(),
    ))
}

/// [`attention`] in burn's own operations, on any device: its definition, its reference in tests, and what runs
/// where no kernel of ours does. Holds the scores of one span at a time.
///
/// # Shapes
/// As [`attention`].
pub fn attention_plain(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    spans: &[AttentionRows],
) -> Tensor<3> {
    let [rows, heads, width] = query.dims();
    let kv_heads = key.dims()[1];
    let group = heads / kv_heads;
    let mut result = query.zeros_like();
    for span in spans {
        let (n, m) = (span.queries.len(), span.keys.len());
        let rows_of = |t: &Tensor<3>, range: &Range<usize>| t.clone().slice([range.clone()]).swap_dims(0, 1);
        let q = rows_of(&query, &span.queries).reshape([kv_heads, group * n, width]);
        let k = rows_of(&key, &span.keys);
        let v = rows_of(&value, &span.keys);
        let scores = q.matmul(k.swap_dims(1, 2)) / (width as f64).sqrt();
        let row = Tensor::<1, Int>::arange(0..n as i64, &query.device()).reshape([1, n, 1]) + (m - n) as i64;
        let column = Tensor::<1, Int>::arange(0..m as i64, &query.device()).reshape([1, 1, m]);
        let (row, column) = (row.expand([1, n, m]), column.expand([1, n, m]));
        let mut hidden = column.clone().greater(row.clone());
        if let Some(window) = span.window {
            hidden = hidden.bool_or(column.lower_equal(row - window as i64));
        }
        let hidden = hidden.expand([kv_heads * group, n, m]).reshape([kv_heads, group * n, m]);
        let weights = activation::softmax(scores.mask_fill(hidden, f32::NEG_INFINITY), 2);
        let mixed = weights.matmul(v).reshape([heads, n, width]).swap_dims(0, 1);
        result = result.slice_assign([span.queries.clone(), 0..heads, 0..width], mixed);
    }
    debug_assert_eq!(result.dims(), [rows, heads, width]);
    result
}

/// What the backward pass of a chunk needs of its forward pass.
pub(crate) struct Attended {
    query: Tensor<3>,
    /// The result, `[N, H, D]`.
    pub(crate) result: Tensor<3>,
    /// Of each row's scores, `[N, H]`; only the CPU's kernel keeps it.
    log_sum_exp: Option<Tensor<2>>,
    spans: Arc<[AttentionRows]>,
}

impl Attended {
    /// [`attention_plain`] of tensors without autodiff, whose gradients [`Attended::backward`] takes.
    pub(crate) fn plain(
        query: Tensor<3>,
        keys_values: (&Tensor<3>, &Tensor<3>),
        spans: Arc<[AttentionRows]>,
    ) -> Self {
        let (key, value) = keys_values;
        check(&query, key, value, &spans);
        let result = attention_plain(query.clone(), key.clone(), value.clone(), &spans);
        Self { query, result, log_sum_exp: None, spans }
    }

    /// [`attention`] of tensors without autodiff, whose gradients [`Attended::backward`] takes.
    ///
    /// # Shapes
    /// `query` and the result `[N, H, D]`, `key` and `value` `[M, KV, D]`; `spans` say which of the M each of the N rows sees.
    pub(crate) fn forward(
        query: Tensor<3>,
        (key, value): (&Tensor<3>, &Tensor<3>),
        spans: Arc<[AttentionRows]>,
    ) -> Self {
        check(&query, key, value, &spans);
        let (result, log_sum_exp) = <Dispatch as ChunkOp>::chunk_attention(
            query.clone().into_dispatch(),
            key.clone().into_dispatch(),
            value.clone().into_dispatch(),
            spans.clone(),
        );
        let log_sum_exp = Some(Tensor::from_dispatch(log_sum_exp));
        Self { query, result: Tensor::from_dispatch(result), log_sum_exp, spans }
    }

    /// From the result's gradient the query's; the keys' and values' are added to `sums`, in place where
    /// nothing else holds them, so that a chunk costs what it sees and not what there is.
    ///
    /// # Shapes
    /// `gradient` and the result `[N, H, D]`; `key`, `value` and their sums `[M, KV, D]`.
    pub(crate) fn backward(
        self,
        gradient: Tensor<3>,
        (key, value): (&Tensor<3>, &Tensor<3>),
        sums: (&mut Tensor<3>, &mut Tensor<3>),
    ) -> Tensor<3> {
        let device = key.device();
        let take = |sum: &mut Tensor<3>| std::mem::replace(sum, Tensor::empty([0; 3], &device));
        let (dkey, dvalue) = (take(sums.0), take(sums.1));
        let Some(log_sum_exp) = self.log_sum_exp else {
            let leaf = |tensor: &Tensor<3>| tensor.clone().autodiff().require_grad();
            let inputs = [&self.query, key, value].map(leaf);
            let [q, k, v] = inputs.clone();
            let mut tape = (attention_plain(q, k, v, &self.spans) * gradient).sum().backward();
            let [dq, dk, dv] =
                inputs.map(|leaf| leaf.grad_remove(&mut tape).expect("every input takes part"));
            (*sums.0, *sums.1) = (dkey + dk, dvalue + dv);
            return dq;
        };
        let (dq, dkey, dvalue) = <Dispatch as ChunkOp>::chunk_attention_backward(
            self.query.into_dispatch(),
            key.clone().into_dispatch(),
            value.clone().into_dispatch(),
            self.result.into_dispatch(),
            log_sum_exp.into_dispatch(),
            gradient.into_dispatch(),
            dkey.into_dispatch(),
            dvalue.into_dispatch(),
            self.spans,
        );
        (*sums.0, *sums.1) = (Tensor::from_dispatch(dkey), Tensor::from_dispatch(dvalue));
        Tensor::from_dispatch(dq)
    }
}

/// Queries `[N, H, D]`, keys and values head by head `[KV, M, D]`, as slices of the CPU.
pub(crate) struct Heads<'a> {
    pub(crate) query: &'a [f32],
    pub(crate) key: &'a [f32],
    pub(crate) value: &'a [f32],
    /// `N, H, D`.
    pub(crate) query_shape: [usize; 3],
    /// `KV, M, D`.
    pub(crate) key_shape: [usize; 3],
    /// What scores are multiplied by.
    pub(crate) scale: f32,
}

impl Heads<'_> {
    fn inputs(&self) -> (cpu::Dims, cpu::Inputs<'_>) {
        let dims = cpu::Dims::with_heads_apart(&self.query_shape, &self.key_shape, self.scale);
        (dims, cpu::Inputs { query: self.query, key: self.key, value: self.value })
    }
}

/// What [`mix`] gives, as [`mix_backward`] needs it.
pub(crate) struct Mixed {
    /// `[N, H, D]`.
    pub(crate) result: Vec<f32>,
    log_sum_exp: Vec<f32>,
}

/// [`attention`] on slices of the CPU.
pub(crate) fn mix(heads: &Heads<'_>, spans: &[AttentionRows]) -> Mixed {
    let (dims, inputs) = heads.inputs();
    let (result, log_sum_exp) = cpu::forward::attend(&dims, inputs, spans);
    Mixed { result, log_sum_exp }
}

/// The gradient of the queries; adds those of keys and values to `sums`, which have their form.
pub(crate) fn mix_backward(
    heads: &Heads<'_>,
    mixed: &Mixed,
    gradient: &[f32],
    spans: &[AttentionRows],
    sums: (&mut [f32], &mut [f32]),
) -> Vec<f32> {
    let (dims, inputs) = heads.inputs();
    let saved = cpu::Saved { result: &mixed.result, log_sum_exp: &mixed.log_sum_exp, gradient };
    cpu::backward::gradients(&dims, inputs, saved, spans, sums)
}

/// Numbers that [`mix_backward`] holds beside its arguments and its result, for queries `[N, H, D]` and keys
/// `[KV, M, D]`.
pub(crate) fn mix_backward_numbers(query_shape: &[usize; 3], key_shape: &[usize; 3]) -> usize {
    cpu::backward::numbers_held(&cpu::Dims::with_heads_apart(query_shape, key_shape, 1.0), key_shape[1])
}

fn check(query: &Tensor<3>, key: &Tensor<3>, value: &Tensor<3>, spans: &[AttentionRows]) {
    let [rows, heads, width] = query.dims();
    let [keys, kv_heads, key_width] = key.dims();
    assert_eq!(key.dims(), value.dims(), "keys and values have one shape");
    assert_eq!(width, key_width, "queries and keys have one head width");
    assert_eq!(heads % kv_heads, 0, "{heads} query heads over {kv_heads} key heads");
    for span in spans {
        let fits = span.queries.end <= rows && span.keys.end <= keys && span.queries.len() <= span.keys.len();
        assert!(fits, "{span:?} does not fit {rows} query rows and {keys} key rows");
    }
}

#[backend_extension(Flex, Autodiff)]
trait AttentionOp: Backend {
    fn span_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        spans: Arc<[AttentionRows]>,
    ) -> FloatTensor<Self>;

    /// The result and the log-sum-exp of each row's scores, `[N, H]`, in units of `ln 2`.
    fn span_attention_saved(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        spans: Arc<[AttentionRows]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of query, key and value, from the result, its log-sum-exp and its gradient.
    #[allow(clippy::too_many_arguments, reason = "tensors cross the dispatch one by one")]
    fn span_attention_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        result: FloatTensor<Self>,
        log_sum_exp: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        spans: Arc<[AttentionRows]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl AttentionOp for Flex {
    fn span_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        spans: Arc<[AttentionRows]>,
    ) -> FlexTensor {
        Self::span_attention_saved(q, k, v, spans).0
    }

    fn span_attention_saved(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        spans: Arc<[AttentionRows]>,
    ) -> (FlexTensor, FlexTensor) {
        let dims = cpu::Dims::of(&q.shape().dims(), &k.shape().dims());
        let [query, key, value] = [&q, &k, &v].map(flex::Rows::of);
        let rows = cpu::Inputs { query: query.slice(), key: key.slice(), value: value.slice() };
        let (result, log_sum_exp) = cpu::forward::attend(&dims, rows, &spans);
        let row_shape = [dims.rows, dims.heads].into();
        (flex::tensor(result, q.shape()), flex::tensor(log_sum_exp, row_shape))
    }

    fn span_attention_backward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        result: FlexTensor,
        log_sum_exp: FlexTensor,
        gradient: FlexTensor,
        spans: Arc<[AttentionRows]>,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let zeros = || flex::tensor(vec![0.0; k.shape().num_elements()], k.shape());
        let (dk, dv) = (zeros(), zeros());
        Self::chunk_attention_backward(q, k, v, result, log_sum_exp, gradient, dk, dv, spans)
    }
}

/// Attention below autodiff, for a caller that takes the gradients itself.
#[backend_extension(Flex)]
trait ChunkOp: Backend {
    fn chunk_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        spans: Arc<[AttentionRows]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// As [`AttentionOp::span_attention_backward`], with what the gradients of keys and values are added to.
    #[allow(clippy::too_many_arguments, reason = "tensors cross the dispatch one by one")]
    fn chunk_attention_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        result: FloatTensor<Self>,
        log_sum_exp: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        key_sums: FloatTensor<Self>,
        value_sums: FloatTensor<Self>,
        spans: Arc<[AttentionRows]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl ChunkOp for Flex {
    fn chunk_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        spans: Arc<[AttentionRows]>,
    ) -> (FlexTensor, FlexTensor) {
        Self::span_attention_saved(q, k, v, spans)
    }

    fn chunk_attention_backward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        result: FlexTensor,
        log_sum_exp: FlexTensor,
        gradient: FlexTensor,
        mut key_sums: FlexTensor,
        mut value_sums: FlexTensor,
        spans: Arc<[AttentionRows]>,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let dims = cpu::Dims::of(&q.shape().dims(), &k.shape().dims());
        let [query, key, value, o, l, g] = [&q, &k, &v, &result, &log_sum_exp, &gradient].map(flex::Rows::of);
        let rows = cpu::Inputs { query: query.slice(), key: key.slice(), value: value.slice() };
        let saved = cpu::Saved { result: o.slice(), log_sum_exp: l.slice(), gradient: g.slice() };
        let sums = (key_sums.storage_mut::<f32>(), value_sums.storage_mut::<f32>());
        let dq = cpu::backward::gradients(&dims, rows, saved, &spans, sums);
        (flex::tensor(dq, q.shape()), key_sums, value_sums)
    }
}

#[derive(Debug)]
struct AttentionBackward;

impl<B: AttentionOp> Backward<B, 3> for AttentionBackward {
    type State = ([NodeId; 3], FloatTensor<B>, FloatTensor<B>, Arc<[AttentionRows]>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (inputs, result, log_sum_exp, spans) = ops.state;
        let [q, k, v] = inputs.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        let (dq, dk, dv) = B::span_attention_backward(q, k, v, result, log_sum_exp, gradient, spans);
        for (parent, gradient) in ops.parents.into_iter().zip([dq, dk, dv]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: AttentionOp, C: CheckpointStrategy> AttentionOp for Autodiff<B, C> {
    fn span_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spans: Arc<[AttentionRows]>,
    ) -> FloatTensor<Self> {
        match AttentionBackward.prepare::<C>([q.node(), k.node(), v.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let inputs = [prep.checkpoint(&q), prep.checkpoint(&k), prep.checkpoint(&v)];
                let [q, k, v] = [q, k, v].map(|tensor| tensor.into_primitive());
                let (result, log_sum_exp) = B::span_attention_saved(q, k, v, spans.clone());
                prep.finish((inputs, result.clone(), log_sum_exp, spans), result)
            }
            OpsKind::UnTracked(prep) => {
                let [q, k, v] = [q, k, v].map(|tensor| tensor.into_primitive());
                prep.finish(B::span_attention(q, k, v, spans))
            }
        }
    }

    fn span_attention_saved(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Arc<[AttentionRows]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("called only below autodiff")
    }

    fn span_attention_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Arc<[AttentionRows]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("second derivatives are not computed")
    }
}

#[cfg(test)]
mod tests;
