//! A model's weights as the products of decoding read them.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Decoder;
use crate::decoder::config::DecoderConfig;
use crate::flex::Rows;
use crate::gemm::{Factor, PackedMatrix, Precision};
use crate::weights::{Block, Weights};

/// The weights of one policy version, packed once for all its steps.
pub(crate) struct PackedDecoder {
    pub(super) config: DecoderConfig,
    /// `None` where it is the head as it is.
    embedding: Option<Rows>,
    pub(super) blocks: Vec<PackedBlock>,
    pub(super) final_norm: Rows,
    pub(super) head: PackedMatrix,
    bytes: usize,
    numbers: usize,
    number: u64,
}

/// Counts the weights that were packed in this process, so that no two have the same number.
static PACKED: AtomicU64 = AtomicU64::new(1);

/// One transformer block.
pub(super) struct PackedBlock {
    pub(super) input_norm: Rows,
    /// Query, key and value projections side by side.
    pub(super) query_key_value: PackedMatrix,
    /// The biases of the same columns.
    pub(super) bias: Option<Vec<f32>>,
    pub(super) query_norm: Option<Rows>,
    pub(super) key_norm: Option<Rows>,
    pub(super) output: PackedMatrix,
    pub(super) output_bias: Option<Rows>,
    pub(super) post_norm: Rows,
    pub(super) gate: PackedMatrix,
    pub(super) up: PackedMatrix,
    pub(super) down: PackedMatrix,
}

impl PackedDecoder {
    /// Packs the weights of a decoder on the CPU. The precision is that of the matrices; the embedding's rows, norms
    /// and biases stay in f32. What is packed holds nothing of the decoder but these.
    pub(crate) fn new(decoder: &Decoder, precision: Precision) -> Self {
        let config = decoder.config.clone();
        let weights = decoder.weights.map(|_, weight| Rows::of_tensor(weight));
        let mut factors: Vec<Factor<'_>> =
            weights.blocks.iter().flat_map(|block| PackedBlock::factors_of(block, &config)).collect();
        let head = weights.head.as_ref().unwrap_or(&weights.embedding);
        factors.push(Factor { weights: vec![head.slice()], inner: config.hidden });
        let mut packed = PackedMatrix::of_weights(&factors, precision).into_iter();
        let sum = |of: fn(&PackedMatrix) -> usize| packed.as_slice().iter().map(of).sum();
        let (bytes, numbers) = (sum(PackedMatrix::bytes), sum(PackedMatrix::numbers));
        let blocks = weights.blocks.into_iter().map(|block| PackedBlock::new(block, &mut packed)).collect();
        let head = packed.next().expect("the head was packed last");
        let is_head = weights.head.is_none() && precision == Precision::F32;
        Self {
            config,
            embedding: (!is_head).then_some(weights.embedding),
            blocks,
            final_norm: weights.final_norm,
            head,
            bytes,
            numbers,
            number: PACKED.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The model's shape.
    pub(crate) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Copies the embedding of a token.
    pub(super) fn embed(&self, token: u32, to: &mut [f32]) {
        match &self.embedding {
            Some(table) => to.copy_from_slice(&table.slice()[token as usize * to.len()..][..to.len()]),
            None => self.head.copy_column(token as usize, to),
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
            final_norm: Unpacked::Rows(&self.final_norm),
            head: (!self.config.tied).then(|| Unpacked::whole(&self.head)),
        }
    }

    /// Tells these weights from all others, so that what they computed is not taken for what others would.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Multiplications that a token takes, but for attention.
    pub(crate) fn numbers(&self) -> usize {
        self.numbers
    }

    /// Memory of the packed weights.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl PackedBlock {
    /// What is packed of a block, in the order in which [`PackedBlock::new`] takes it.
    fn factors_of<'a>(block: &'a Block<Rows>, config: &DecoderConfig) -> [Factor<'a>; 5] {
        let (hidden, query_width) = (config.hidden, config.heads * config.head_width);
        let one = |weight: &'a Rows, inner| Factor { weights: vec![weight.slice()], inner };
        let projections = vec![block.query.slice(), block.key.slice(), block.value.slice()];
        [
            Factor { weights: projections, inner: hidden },
            one(&block.output, query_width),
            one(&block.gate, hidden),
            one(&block.up, hidden),
            one(&block.down, config.intermediate),
        ]
    }

    fn new(block: Block<Rows>, packed: &mut impl Iterator<Item = PackedMatrix>) -> Self {
        let bias = match (&block.query_bias, &block.key_bias, &block.value_bias) {
            (Some(query), Some(key), Some(value)) => {
                Some([query.slice(), key.slice(), value.slice()].concat())
            }
            _ => None,
        };
        let mut next = || packed.next().expect("a block has five factors");
        Self {
            query_key_value: next(),
            output: next(),
            gate: next(),
            up: next(),
            down: next(),
            bias,
            input_norm: block.input_norm,
            query_norm: block.query_norm,
            key_norm: block.key_norm,
            output_bias: block.output_bias,
            post_norm: block.post_norm,
        }
    }

    fn weights(&self, config: &DecoderConfig) -> Block<Unpacked<'_>> {
        let (query, key) = (config.heads * config.head_width, config.kv_heads * config.head_width);
        let starts = [0, query, query + key, query + 2 * key];
        let projection = |place: usize| Unpacked::Columns {
            packed: &self.query_key_value,
            first: starts[place],
            end: starts[place + 1],
        };
        let bias = |place: usize| {
            self.bias.as_ref().map(|bias| Unpacked::Numbers(&bias[starts[place]..starts[place + 1]]))
        };
        Block {
            input_norm: Unpacked::Rows(&self.input_norm),
            query: projection(0),
            key: projection(1),
            value: projection(2),
            query_bias: bias(0),
            key_bias: bias(1),
            value_bias: bias(2),
            query_norm: self.query_norm.as_ref().map(Unpacked::Rows),
            key_norm: self.key_norm.as_ref().map(Unpacked::Rows),
            output: Unpacked::whole(&self.output),
            output_bias: self.output_bias.as_ref().map(Unpacked::Rows),
            post_norm: Unpacked::Rows(&self.post_norm),
            gate: Unpacked::whole(&self.gate),
            up: Unpacked::whole(&self.up),
            down: Unpacked::whole(&self.down),
        }
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

    /// The numbers, row-major in the parameter's shape.
    pub(crate) fn numbers(&self) -> Cow<'_, [f32]> {
        match self {
            Self::Rows(rows) => Cow::Borrowed(rows.slice()),
            Self::Numbers(numbers) => Cow::Borrowed(numbers),
            Self::Columns { packed, first, end } => Cow::Owned(packed.weights(*first..*end)),
        }
    }
}
