//! The parts of a decoder: each in one file, with its forms in tensors, on slices forward and backward, and packed for
//! decoding. The engines order parts; which form a part has in a model is said by [`crate::model::spec`].

use crate::model::config::DecoderConfig;
use crate::operations::Operations;

pub(crate) mod attention;
pub(crate) mod block;
pub(crate) mod experts;
pub(crate) mod feed_forward;
pub(crate) mod gated;
pub(crate) mod head;
pub(crate) mod linear;
pub(crate) mod norm;
pub(crate) mod residual;

/// What the tensor forms of the parts are told.
#[derive(Clone, Copy)]
pub(crate) struct TensorForm<'a> {
    /// The model that they are parts of.
    pub(crate) config: &'a DecoderConfig,
    /// The form of the operations.
    pub(crate) operations: Operations,
}
