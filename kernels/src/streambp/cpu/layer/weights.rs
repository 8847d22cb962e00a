//! The weights of a block, packed as the products of one pass over a batch read them.

use super::LayerPass;
use crate::flex::Rows;
use crate::gemm::PackedMatrix;

/// The weights of a block as right factors of `x w^T`.
pub(super) struct ForwardWeights {
    pub(super) query: PackedMatrix,
    pub(super) key: PackedMatrix,
    pub(super) value: PackedMatrix,
    pub(super) output: PackedMatrix,
    pub(super) gate: PackedMatrix,
    pub(super) up: PackedMatrix,
    /// The backward pass needs no result of it.
    down: Option<PackedMatrix>,
}

impl ForwardWeights {
    /// All of them.
    pub(super) fn of_forward_pass(layer: &LayerPass<'_>) -> Self {
        let down = transposed(&layer.block.down, layer.config.intermediate);
        Self { down: Some(down), ..Self::of_backward_pass(layer) }
    }

    /// Those whose results the backward pass computes again.
    pub(super) fn of_backward_pass(layer: &LayerPass<'_>) -> Self {
        let (block, hidden) = (layer.block, layer.config.hidden);
        Self {
            query: transposed(&block.query, hidden),
            key: transposed(&block.key, hidden),
            value: transposed(&block.value, hidden),
            output: transposed(&block.output, layer.query_width()),
            gate: transposed(&block.gate, hidden),
            up: transposed(&block.up, hidden),
            down: None,
        }
    }

    pub(super) fn down(&self) -> &PackedMatrix {
        self.down.as_ref().expect("the forward pass packs the down projection")
    }
}

/// The weights of a block as right factors of `dy w`.
pub(super) struct BackwardWeights {
    pub(super) query: PackedMatrix,
    pub(super) key: PackedMatrix,
    pub(super) value: PackedMatrix,
    pub(super) output: PackedMatrix,
    pub(super) gate: PackedMatrix,
    pub(super) up: PackedMatrix,
    pub(super) down: PackedMatrix,
}

impl BackwardWeights {
    fn new(layer: &LayerPass<'_>) -> Self {
        let (block, hidden) = (layer.block, layer.config.hidden);
        let packed = |weight: &Rows, columns| {
            PackedMatrix::rows(weight.slice(), weight.slice().len() / columns, columns)
        };
        Self {
            query: packed(&block.query, hidden),
            key: packed(&block.key, hidden),
            value: packed(&block.value, hidden),
            output: packed(&block.output, layer.query_width()),
            gate: packed(&block.gate, hidden),
            up: packed(&block.up, hidden),
            down: packed(&block.down, layer.config.intermediate),
        }
    }
}

/// What the backward pass reads of a block's weights.
pub(super) struct BlockWeights {
    /// `None` where nothing goes forward again.
    forward: Option<ForwardWeights>,
    pub(super) backward: BackwardWeights,
}

impl BlockWeights {
    pub(super) fn new(layer: &LayerPass<'_>, goes_forward: bool) -> Self {
        let (forward, backward) = rayon::join(
            || goes_forward.then(|| ForwardWeights::of_backward_pass(layer)),
            || BackwardWeights::new(layer),
        );
        Self { forward, backward }
    }

    pub(super) fn forward(&self) -> &ForwardWeights {
        self.forward.as_ref().expect("weights that something goes forward through are packed")
    }
}

/// `w^T` packed, for a weight whose rows have `inner` numbers.
fn transposed(weight: &Rows, inner: usize) -> PackedMatrix {
    PackedMatrix::transposed(weight.slice(), inner, weight.slice().len() / inner)
}
