//! The weights of a block, packed as the products of one pass over a batch read them.

use crate::parts::attention::{AttentionBackward, AttentionForward};
use crate::parts::block::BlockSlices;
use crate::parts::feed_forward::{BackwardFactors, ForwardFactors};

/// The weights of a block as right factors of `x w^T`.
pub(super) struct ForwardWeights {
    pub(super) attention: AttentionForward,
    pub(super) feed_forward: ForwardFactors,
}

impl ForwardWeights {
    /// All of them.
    pub(super) fn of_forward_pass(block: &BlockSlices) -> Self {
        Self {
            attention: block.attention.forward_weights(),
            feed_forward: block.feed_forward.forward_weights(),
        }
    }
}

/// The weights of a block as right factors of `dy w`.
pub(super) struct BackwardWeights {
    pub(super) attention: AttentionBackward,
    pub(super) feed_forward: BackwardFactors,
}

/// What the backward pass reads of a block's weights.
pub(super) struct BlockWeights {
    /// Those whose results are computed again; `None` where nothing goes forward again.
    forward: Option<ForwardWeights>,
    pub(super) backward: BackwardWeights,
}

impl BlockWeights {
    pub(super) fn new(block: &BlockSlices, goes_forward: bool) -> Self {
        let forward = || ForwardWeights {
            attention: block.attention.forward_weights(),
            feed_forward: block.feed_forward.again_weights(),
        };
        let backward = || BackwardWeights {
            attention: block.attention.backward_weights(),
            feed_forward: block.feed_forward.backward_weights(),
        };
        let (forward, backward) = rayon::join(|| goes_forward.then(forward), backward);
        Self { forward, backward }
    }

    pub(super) fn forward(&self) -> &ForwardWeights {
        self.forward.as_ref().expect("weights that something goes forward through are packed")
    }
}
