//! The parts of a decoder: each in one file, with its forms in tensors, on slices forward and backward, and packed for
//! decoding. The engines order parts; which form a part has in a model is said by [`crate::model::spec`].

pub(crate) mod attention;
pub(crate) mod block;
pub(crate) mod gated;
pub(crate) mod head;
pub(crate) mod norm;
pub(crate) mod residual;
