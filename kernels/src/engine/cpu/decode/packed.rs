//! A model's weights as the products of decoding read them: packed once for all policies that have them, with the adapters
//! of one policy beside them.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::adapters::BlockAdapters;
use crate::flex::Rows;
use crate::gemm::{Factor, PackedMatrix, Precision};
use crate::model::Decoder;
use crate::model::config::DecoderConfig;
use crate::model::files::WriteNumbers;
use crate::model::linear::Linear;
use crate::model::lora::Lora;
use crate::model::weights::{Block, ExpertsWeights, FeedForwardWeights, GatedWeights, Weights};
use crate::parts::attention::PackedAttention;
use crate::parts::block::{BlockSlices, DecoderSlices};
use crate::parts::experts::PackedExperts;
use crate::parts::feed_forward::{FeedForwardSlices, PackedFeedForward};
use crate::parts::gated::{Gated, PackedGated};
use crate::parts::norm::Norm;

/// The weights of one policy version, packed once for all its steps. Versions that differ by their adapters share the rest.
pub struct PackedDecoder {
    packed: Arc<PackedWeights>,
    /// The adapters of each block, and what they were packed of.
    adapters: Option<(Vec<BlockAdapters>, Lora)>,
    number: u64,
}

/// A model's parameters without adapters.
pub struct PackedWeights {
    pub(crate) config: DecoderConfig,
    /// `None` where it is the head as it is.
    embedding: Option<Rows>,
    pub(super) blocks: Vec<PackedBlock>,
    pub(super) final_norm: Norm,
    pub(super) head: PackedMatrix,
    bytes: usize,
    numbers: usize,
}

/// Numbers of a part of a parameter that is unpacked: enough for all threads, and nothing beside the weights.
const PART_NUMBERS: usize = 1 << 20;

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

impl fmt::Debug for PackedWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedWeights").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Deref for PackedDecoder {
    type Target = PackedWeights;

    fn deref(&self) -> &PackedWeights {
        &self.packed
    }
}

impl PackedDecoder {
    /// Packs the weights of a decoder on the CPU. The precision is that of the matrices; the embedding's rows, norms,
    /// biases and adapters stay in f32. What is packed holds nothing of the decoder but these.
    pub(crate) fn new(decoder: &Decoder, precision: Precision) -> Self {
        Self::beside(Arc::new(PackedWeights::new(decoder, precision)), decoder.lora.as_ref())
    }

    /// The same parameters, shared, with these adapters.
    pub(crate) fn adapted(&self, lora: &Lora) -> Self {
        Self::beside(Arc::clone(&self.packed), Some(lora))
    }

    fn beside(packed: Arc<PackedWeights>, lora: Option<&Lora>) -> Self {
        let adapters = lora.map(|lora| (BlockAdapters::of(lora, &packed.config), lora.clone()));
        Self { packed, adapters, number: PACKED.fetch_add(1, Ordering::Relaxed) }
    }

    /// The adapters of a layer.
    pub(super) fn adapters(&self, layer: usize) -> Option<&BlockAdapters> {
        self.adapters.as_ref().map(|(blocks, _)| &blocks[layer])
    }

    /// Whether both have the same parameters in one place of memory.
    #[cfg(test)]
    pub(super) fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.packed, &other.packed)
    }

    /// What the adapters were packed of.
    pub(crate) fn lora(&self) -> Option<&Lora> {
        self.adapters.as_ref().map(|(_, lora)| lora)
    }

    /// Tells these weights from all others, so that what they computed is not taken for what others would.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Memory of the packed weights and of the adapters.
    pub(crate) fn bytes(&self) -> usize {
        let adapters = self.adapters.iter().flat_map(|(blocks, _)| blocks);
        self.packed.bytes + adapters.map(BlockAdapters::bytes).sum::<usize>()
    }
}

impl PackedWeights {
    fn new(decoder: &Decoder, precision: Precision) -> Self {
        let config = decoder.config.clone();
        let weights = DecoderSlices::new(decoder);
        let inners = weights.blocks.iter().flat_map(PackedBlock::inners);
        let mut factors: Vec<Factor<'_>> = weights
            .blocks
            .iter()
            .flat_map(PackedBlock::projections_of)
            .zip(inners)
            .map(|(weights, inner)| Factor { weights, inner })
            .collect();
        factors.push(Factor { weights: vec![weights.head().slice()], inner: config.hidden });
        let mut packed = PackedMatrix::of_weights(&factors, precision).into_iter();
        drop(factors);
        let mut bytes: usize = packed.as_slice().iter().map(PackedMatrix::bytes).sum();
        let blocks = weights.blocks.into_iter().enumerate();
        let blocks: Vec<PackedBlock> = blocks
            .map(|(layer, block)| PackedBlock::new(block, config.spec.rope_of(layer), &mut packed))
            .collect();
        bytes += blocks.iter().filter_map(PackedBlock::router).map(PackedMatrix::bytes).sum::<usize>();
        let head = packed.next().expect("the head was packed last");
        let numbers = blocks.iter().map(PackedBlock::numbers_a_token).sum::<usize>() + head.numbers();
        let is_head = weights.head.is_none() && precision == Precision::F32;
        Self {
            config,
            embedding: (!is_head).then_some(weights.embedding),
            blocks,
            final_norm: weights.final_norm,
            head,
            bytes,
            numbers,
        }
    }

    /// Copies the embedding of a token, as the first layer gets it.
    pub(super) fn embed(&self, token: u32, to: &mut [f32]) {
        match &self.embedding {
            Some(table) => to.copy_from_slice(&table.slice()[token as usize * to.len()..][..to.len()]),
            None => self.head.copy_column(token as usize, to),
        }
        if let Some(scale) = self.config.spec.embedding_scale {
            to.iter_mut().for_each(|number| *number *= scale);
        }
    }

    /// The parameters by their place, each made when it is asked for: rounded matrices as they are rounded, so that
    /// they are packed to the same bits again.
    pub(crate) fn weights(&self) -> Weights<Unpacked<'_>> {
        Weights {
            embedding: match &self.embedding {
                Some(rows) => Unpacked::Rows(rows),
                None => Unpacked::whole(&self.head),
            },
            blocks: self.blocks.iter().map(|block| block.weights(&self.config)).collect(),
            final_norm: Unpacked::Rows(self.final_norm.weight()),
            head: (!self.config.tied).then(|| Unpacked::whole(&self.head)),
        }
    }

    /// Multiplications that a token takes, but for attention.
    pub(crate) fn numbers(&self) -> usize {
        self.numbers
    }
}

impl PackedBlock {
    /// What is packed of a block, in the order in which [`PackedBlock::new`] takes it. A router
    /// is not among it.
    fn projections_of(block: &BlockSlices) -> Vec<Vec<&[f32]>> {
        let attention = &block.attention;
        let mut projections = vec![
            vec![attention.query.stored(), attention.key.stored(), attention.value.stored()],
            vec![attention.output.stored()],
        ];
        let gated = gated_parts(&block.feed_forward).iter();
        projections.extend(
            gated.flat_map(|gated| [&gated.gate, &gated.up, &gated.down]).map(|own| vec![own.stored()]),
        );
        projections
    }

    /// Lengths of the rows of these.
    fn inners(block: &BlockSlices) -> Vec<usize> {
        let attention = &block.attention;
        let gated = gated_parts(&block.feed_forward).iter();
        let gated = gated.flat_map(|gated| [&gated.gate, &gated.up, &gated.down]);
        [&attention.query, &attention.output].into_iter().chain(gated).map(Linear::inner).collect()
    }

    fn new(block: BlockSlices, rope: usize, packed: &mut impl Iterator<Item = PackedMatrix>) -> Self {
        let BlockSlices { input_norm, attention, feed_forward_norm, feed_forward } = block;
        let bias = match (&attention.query.bias, &attention.key.bias, &attention.value.bias) {
            (Some(query), Some(key), Some(value)) => {
                Some([query.slice(), key.slice(), value.slice()].concat())
            }
            _ => None,
        };
        let mut next = || packed.next().expect("a block's factors were packed in its order");
        let attention = PackedAttention {
            query_key_value: next(),
            bias,
            query_norm: attention.query_norm,
            key_norm: attention.key_norm,
            output: next(),
            output_bias: attention.output.bias,
            joint: attention.joint,
        };
        let gated = |gated: Gated| PackedGated {
            gate: next(),
            up: next(),
            down: next(),
            joint: gated.joint,
            activation: gated.activation,
        };
        let feed_forward = packed_feed_forward(feed_forward, gated);
        Self { rope, input_norm, attention, feed_forward_norm, feed_forward }
    }

    /// The router, where there is one.
    fn router(&self) -> Option<&PackedMatrix> {
        match &self.feed_forward {
            PackedFeedForward::Gated(_) => None,
            PackedFeedForward::Experts(experts) => Some(&experts.router),
        }
    }

    /// Multiplications that a token takes, but for attention.
    fn numbers_a_token(&self) -> usize {
        let of_gated = |gated: &PackedGated| gated.gate.numbers() + gated.up.numbers() + gated.down.numbers();
        let feed_forward = match &self.feed_forward {
            PackedFeedForward::Gated(gated) => of_gated(gated),
            PackedFeedForward::Experts(experts) => {
                let chosen = experts.experts.iter().take(experts.spec.chosen);
                experts.router.numbers() + chosen.map(of_gated).sum::<usize>()
            }
        };
        self.attention.query_key_value.numbers() + self.attention.output.numbers() + feed_forward
    }

    fn weights<'a>(&'a self, config: &DecoderConfig) -> Block<Unpacked<'a>> {
        let (query, key) = (config.heads * config.head_width, config.kv_heads * config.head_width);
        let starts = [0, query, query + key, query + 2 * key];
        let PackedAttention { query_key_value, query_norm, key_norm, joint, .. } = &self.attention;
        let projection = |place: usize| Unpacked::Columns {
            packed: query_key_value,
            first: starts[place],
            end: starts[place + 1],
        };
        let bias = |place: usize| {
            let bias = self.attention.bias.as_ref();
            bias.map(|bias| Unpacked::Numbers(&bias[starts[place]..starts[place + 1]]))
        };
        let norm = |norm: &'a Option<Norm>| norm.as_ref().map(|norm| Unpacked::Rows(norm.weight()));
        Block {
            input_norm: Unpacked::Rows(self.input_norm.weight()),
            query: projection(0),
            key: projection(1),
            value: projection(2),
            query_bias: bias(0),
            key_bias: bias(1),
            value_bias: bias(2),
            query_norm: norm(query_norm),
            key_norm: norm(key_norm),
            output: Unpacked::whole(&self.attention.output),
            output_bias: self.attention.output_bias.as_ref().map(Unpacked::Rows),
            attention_output_norm: norm(&joint.norm),
            feed_forward_norm: Unpacked::Rows(self.feed_forward_norm.weight()),
            feed_forward: match &self.feed_forward {
                PackedFeedForward::Gated(gated) => FeedForwardWeights::Gated(unpacked(gated)),
                PackedFeedForward::Experts(experts) => FeedForwardWeights::Experts(ExpertsWeights {
                    router: Unpacked::whole(&experts.router),
                    experts: experts.experts.iter().map(unpacked).collect(),
                }),
            },
            feed_forward_output_norm: match &self.feed_forward {
                PackedFeedForward::Gated(gated) => norm(&gated.joint.norm),
                PackedFeedForward::Experts(experts) => norm(&experts.joint.norm),
            },
        }
    }
}

/// The second half of a block, whose gated parts are taken in their order.
fn packed_feed_forward(
    half: FeedForwardSlices,
    mut gated: impl FnMut(Gated) -> PackedGated,
) -> PackedFeedForward {
    match half {
        FeedForwardSlices::Gated(own) => PackedFeedForward::Gated(gated(own)),
        FeedForwardSlices::Experts(own) => PackedFeedForward::Experts(PackedExperts {
            router: PackedMatrix::transposed(own.router.stored(), own.router.inner(), own.router.outputs()),
            experts: own.experts.into_iter().map(gated).collect(),
            joint: own.joint,
            spec: own.spec,
        }),
    }
}

/// The gated parts of a block: one, or the experts.
fn gated_parts(feed_forward: &FeedForwardSlices) -> &[Gated] {
    match feed_forward {
        FeedForwardSlices::Gated(gated) => std::slice::from_ref(gated),
        FeedForwardSlices::Experts(experts) => &experts.experts,
    }
}

/// The weights of a gated part.
fn unpacked(gated: &PackedGated) -> GatedWeights<Unpacked<'_>> {
    GatedWeights {
        gate: Unpacked::whole(&gated.gate),
        up: Unpacked::whole(&gated.up),
        down: Unpacked::whole(&gated.down),
    }
}

/// Where a parameter's numbers are.
pub(crate) enum Unpacked<'a> {
    /// As they were.
    Rows(&'a Rows),
    /// Beside others.
    Numbers(&'a [f32]),
    /// In some columns of a packed factor.
    Columns { packed: &'a PackedMatrix, first: usize, end: usize },
}

impl<'a> Unpacked<'a> {
    fn whole(packed: &'a PackedMatrix) -> Self {
        Self::Columns { packed, first: 0, end: packed.columns() }
    }

    /// Hands out the numbers, row-major in the parameter's shape, some rows at a time.
    pub(crate) fn in_parts(&self, write: &mut WriteNumbers<'_>) -> std::io::Result<()> {
        match self {
            Self::Rows(rows) => write(rows.slice()),
            Self::Numbers(numbers) => write(numbers),
            Self::Columns { packed, first, end } => {
                let rows = (PART_NUMBERS / packed.inner()).max(1);
                (*first..*end)
                    .step_by(rows)
                    .try_for_each(|first| write(&packed.weights(first..(first + rows).min(*end))))
            }
        }
    }
}
