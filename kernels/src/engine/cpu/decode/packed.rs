//! A model's weights as the products of decoding read them: packed once for all policies that have them, with the adapters
//! of one policy beside them.

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::adapters::BlockAdapters;
use crate::error::KernelError;
use crate::gemm::{PackedMatrix, Precision};
use crate::model::config::DecoderConfig;
use crate::model::linear::Linear;
use crate::model::lora::Lora;
use crate::model::numbers::Numbers;
use crate::model::packed::PackedWeights;
use crate::model::weights::Weights;
use crate::model::{Decoder, Stored, files};
use crate::parts::attention::PackedAttention;
use crate::parts::block::{BlockSlices, DecoderSlices};
use crate::parts::experts::PackedExperts;
use crate::parts::feed_forward::{FeedForwardSlices, PackedFeedForward};
use crate::parts::gated::{Gated, PackedGated};
use crate::parts::norm::Norm;

/// The weights of one policy version, packed once for all its steps. Versions that differ by their adapters share the rest.
pub struct PackedDecoder {
    model: Arc<PackedModel>,
    /// The adapters of each block, and what they were packed of.
    adapters: Option<(Vec<BlockAdapters>, Lora)>,
    number: u64,
}

/// A model's parameters without adapters.
pub struct PackedModel {
    pub(crate) config: DecoderConfig,
    weights: Arc<PackedWeights>,
    pub(super) blocks: Vec<PackedBlock>,
    pub(super) final_norm: Norm,
    pub(super) head: Arc<PackedMatrix>,
    /// Memory of what steps read.
    bytes: usize,
    /// Whether a decoder has the same weights.
    is_shared: bool,
    numbers: usize,
}

/// Counts the weights that were packed in this process, so that no two have the same number.
static PACKED: AtomicU64 = AtomicU64::new(1);

/// One transformer block.
pub(super) struct PackedBlock {
    /// Which of the model's sets of rotary frequencies it has.
    pub(super) rope: usize,
    pub(super) input_norm: Norm,
    pub(super) attention: PackedAttention,
    pub(super) feed_forward_norm: Norm,
    pub(super) feed_forward: PackedFeedForward,
}

impl fmt::Debug for PackedDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedDecoder").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Deref for PackedDecoder {
    type Target = PackedModel;

    fn deref(&self) -> &PackedModel {
        &self.model
    }
}

impl PackedDecoder {
    /// Packs the weights of a decoder on the CPU. The precision is that of the matrices; the embedding's rows, norms,
    /// biases and adapters stay in f32. What is packed holds nothing of the decoder but these.
    ///
    /// Weights that are packed already are shared. In f32 these are taken as they are, whatever they were rounded to
    /// before.
    pub(crate) fn new(decoder: &Decoder, precision: Precision) -> Self {
        let config = &decoder.config;
        let model = match &decoder.weights {
            Stored::Packed(packed) if serves(packed, precision) => {
                PackedModel { is_shared: true, ..PackedModel::of(config, Arc::clone(packed)) }
            }
            stored => {
                let packed = PackedWeights::for_decoding(config, &stored.numbers(), precision);
                PackedModel::of(config, Arc::new(packed))
            }
        };
        Self::beside(Arc::new(model), decoder.lora.as_ref())
    }

    /// Reads a model's weights into this form, some rows at a time: no other copy of them is ever in memory.
    pub(crate) fn load(
        dir: &Path,
        config: &DecoderConfig,
        precision: Precision,
    ) -> Result<Self, KernelError> {
        // Rows of an embedding that files have in bf16 lose nothing in it.
        let embedding = match (precision, files::precision(dir, config)?) {
            (Precision::F32, _) => config.tied.then_some(precision),
            (_, stored) => (stored == Precision::Bf16).then_some(stored),
        };
        let packed = files::load_packed(dir, config, precision, embedding)?;
        Ok(Self::beside(Arc::new(PackedModel::of(config, Arc::new(packed))), None))
    }

    /// The same parameters, shared, with these adapters.
    pub(crate) fn adapted(&self, lora: &Lora) -> Self {
        Self::beside(Arc::clone(&self.model), Some(lora))
    }

    fn beside(model: Arc<PackedModel>, lora: Option<&Lora>) -> Self {
        let adapters = lora.map(|lora| (BlockAdapters::of(lora, &model.config), lora.clone()));
        Self { model, adapters, number: PACKED.fetch_add(1, Ordering::Relaxed) }
    }

    /// The adapters of a layer.
    pub(super) fn adapters(&self, layer: usize) -> Option<&BlockAdapters> {
        self.adapters.as_ref().map(|(blocks, _)| &blocks[layer])
    }

    /// Whether both have the same parameters in one place of memory.
    #[cfg(test)]
    pub(super) fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.model, &other.model)
    }

    /// What the adapters were packed of.
    pub(crate) fn lora(&self) -> Option<&Lora> {
        self.adapters.as_ref().map(|(_, lora)| lora)
    }

    /// Tells these weights from all others, so that what they computed is not taken for what others would.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Memory of the weights and adapters that steps read.
    pub(crate) fn bytes(&self) -> usize {
        self.model.bytes + self.adapter_bytes()
    }

    /// Memory of what is not shared with a decoder.
    pub(crate) fn own_bytes(&self) -> usize {
        self.adapter_bytes() + if self.model.is_shared { 0 } else { self.model.bytes }
    }

    fn adapter_bytes(&self) -> usize {
        let adapters = self.adapters.iter().flat_map(|(blocks, _)| blocks);
        adapters.map(BlockAdapters::bytes).sum()
    }
}

/// Whether decoding at a precision reads these weights.
fn serves(packed: &PackedWeights, precision: Precision) -> bool {
    packed.precision() == precision || precision == Precision::F32
}

impl PackedModel {
    fn of(config: &DecoderConfig, packed: Arc<PackedWeights>) -> Self {
        let weights = packed.numbers().map(|_, numbers| numbers.clone());
        let slices = DecoderSlices::of(weights, None, config);
        let blocks = slices.blocks.into_iter().enumerate();
        let blocks: Vec<PackedBlock> =
            blocks.map(|(layer, block)| PackedBlock::new(block, config.spec.rope_of(layer))).collect();
        let head = Linear::new(packed.head().clone(), None, None, config.hidden).factor();
        let bytes = blocks.iter().flat_map(PackedBlock::factors).map(|factor| factor.bytes()).sum::<usize>();
        let numbers = blocks.iter().map(PackedBlock::numbers_a_token).sum::<usize>();
        Self {
            bytes: bytes + head.bytes(),
            numbers: numbers + head.numbers(),
            is_shared: false,
            config: config.clone(),
            blocks,
            final_norm: slices.final_norm,
            head,
            weights: packed,
        }
    }

    /// Copies the embedding of a token, as the first layer gets it.
    pub(super) fn embed(&self, token: u32, to: &mut [f32]) {
        self.weights.numbers().embedding.copy_row(token as usize, to);
        if let Some(scale) = self.config.spec.embedding_scale {
            to.iter_mut().for_each(|number| *number *= scale);
        }
    }

    /// The parameters by their place, each made when it is asked for: rounded matrices as they are rounded, so that
    /// they are packed to the same bits again.
    pub(crate) fn weights(&self) -> &Weights<Numbers> {
        self.weights.numbers()
    }

    /// Multiplications that a token takes, but for attention.
    pub(crate) fn numbers(&self) -> usize {
        self.numbers
    }
}

impl PackedBlock {
    fn new(block: BlockSlices, rope: usize) -> Self {
        let BlockSlices { input_norm, attention, feed_forward_norm, feed_forward } = block;
        let bias = match (&attention.query.bias, &attention.key.bias, &attention.value.bias) {
            (Some(query), Some(key), Some(value)) => {
                Some([query.slice(), key.slice(), value.slice()].concat())
            }
            _ => None,
        };
        let attention = PackedAttention {
            query_key_value: attention.query.factor(),
            bias,
            query_norm: attention.query_norm,
            key_norm: attention.key_norm,
            output: attention.output.factor(),
            output_bias: attention.output.bias,
            joint: attention.joint,
        };
        let feed_forward = match feed_forward {
            FeedForwardSlices::Gated(own) => PackedFeedForward::Gated(packed_gated(own)),
            FeedForwardSlices::Experts(own) => PackedFeedForward::Experts(PackedExperts {
                router: own.router.factor(),
                experts: own.experts.into_iter().map(packed_gated).collect(),
                joint: own.joint,
                spec: own.spec,
            }),
        };
        Self { rope, input_norm, attention, feed_forward_norm, feed_forward }
    }

    /// The gated parts: one, or the experts.
    fn gated(&self) -> &[PackedGated] {
        match &self.feed_forward {
            PackedFeedForward::Gated(gated) => std::slice::from_ref(gated),
            PackedFeedForward::Experts(experts) => &experts.experts,
        }
    }

    /// The router, where there is one.
    fn router(&self) -> Option<&PackedMatrix> {
        match &self.feed_forward {
            PackedFeedForward::Gated(_) => None,
            PackedFeedForward::Experts(experts) => Some(&experts.router),
        }
    }

    /// All that products read.
    fn factors(&self) -> impl Iterator<Item = &PackedMatrix> {
        let attention: [&PackedMatrix; 2] = [&self.attention.query_key_value, &self.attention.output];
        attention.into_iter().chain(self.router()).chain(self.gated().iter().flat_map(gated_factors))
    }

    /// Multiplications that a token takes, but for attention.
    fn numbers_a_token(&self) -> usize {
        let chosen = match &self.feed_forward {
            PackedFeedForward::Gated(_) => 1,
            PackedFeedForward::Experts(experts) => experts.spec.chosen,
        };
        let gated = self.gated().iter().take(chosen).flat_map(gated_factors);
        let attention: [&PackedMatrix; 2] = [&self.attention.query_key_value, &self.attention.output];
        attention.into_iter().chain(self.router()).chain(gated).map(PackedMatrix::numbers).sum()
    }
}

/// A gated part whose matrices are packed.
fn packed_gated(gated: Gated) -> PackedGated {
    PackedGated {
        gate: gated.gate.factor(),
        up: gated.up.factor(),
        down: gated.down.factor(),
        joint: gated.joint,
        activation: gated.activation,
    }
}

fn gated_factors(gated: &PackedGated) -> [&PackedMatrix; 3] {
    [&gated.gate, &gated.up, &gated.down]
}
