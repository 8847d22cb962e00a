//! A decoder-only transformer of the Llama, Qwen2 and Qwen3 families: configuration, weights and their files.
//!
//! There is one forward computation, in `block`, used whole, by chunks and with a cache. What drives it
//! stands in [`crate::streambp`] (training) and [`crate::generate`] (decoding).

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::attention::Span;
use crate::error::KernelError;
use crate::rotary::Angles;
use crate::weights::Weights;

pub(crate) mod block;
pub mod config;
pub(crate) mod kv_cache;
pub(crate) mod load;

use config::DecoderConfig;

/// A model: what its files say and its parameters on a device. A clone shares the parameters.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Sizes and variants.
    pub config: DecoderConfig,
    /// Parameters, without autodiff.
    pub weights: Weights<Tensor<2>>,
}

impl Decoder {
    /// Reads a Hugging Face directory: `config.json` and `model.safetensors` or its shards.
    ///
    /// # Errors
    /// Names the file and the key or tensor that is missing, misshapen or not supported.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, KernelError> {
        let config = DecoderConfig::read(dir)?;
        let weights = load::load(dir, &config, device)?;
        Ok(Self { config, weights })
    }

    /// Whether a directory holds the weights of this config, by the headers of its files. Numbers are read only of a
    /// head that stands beside tied embeddings.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn check_files(dir: &Path, config: &DecoderConfig) -> Result<(), KernelError> {
        load::check(dir, config)
    }

    /// Writes `config.json` and `model.safetensors` in f32, so that `transformers` loads the directory.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), KernelError> {
        load::save(dir, &self.config, &self.weights)
    }

    /// A model with random parameters, equal for equal seeds on every device.
    pub fn random(config: DecoderConfig, seed: u64, device: &Device) -> Self {
        let weights = load::random(&config, seed, device);
        Self { config, weights }
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.weights.embedding.device()
    }

    /// The matrix of the head, `[vocabulary, hidden]`.
    pub(crate) fn head(&self) -> &Tensor<2> {
        self.weights.head.as_ref().unwrap_or(&self.weights.embedding)
    }

    /// Angles for rows at these positions.
    pub(crate) fn angles(&self, positions: &[u32]) -> Angles {
        let table = self.config.rope.table(self.config.head_width, positions);
        Angles::new(table, positions.len(), &self.device())
    }
}

/// Rows of the embedding, `[N, hidden]`.
pub(crate) fn embed(embedding: &Tensor<2>, ids: &[u32]) -> Tensor<2> {
    embedding.clone().select(0, id_tensor(ids, &embedding.device()))
}

/// Token ids as a tensor.
pub(crate) fn id_tensor(ids: &[u32], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let shape = [ids.len()];
    Tensor::from_data(TensorData::new(ids, shape), device)
}

/// Sequences of tokens one after the other, without padding.
///
/// Sequences that begin alike may have their beginning in common: it is a sequence of its own that stands before
/// them, its rows go through the model once, and each of the others attends to them as if they were its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The tokens of all sequences.
    pub ids: Vec<u32>,
    /// The length of each sequence; their sum is the number of ids, and none is 0.
    pub lengths: Vec<usize>,
    /// For each sequence the one before it that is its beginning, if there is one; that one has none itself.
    pub prefixes: Vec<Option<usize>>,
}

impl Packed {
    /// Packs whole sequences in their order.
    ///
    /// # Panics
    /// If there is none or one is empty.
    pub fn new<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut packed = Self::empty();
        for sequence in sequences {
            packed.push(sequence, None);
        }
        assert!(!packed.lengths.is_empty(), "a packed batch has at least one sequence");
        packed
    }

    /// A batch to push sequences to.
    pub fn empty() -> Self {
        Self { ids: Vec::new(), lengths: Vec::new(), prefixes: Vec::new() }
    }

    /// Appends a sequence, without the tokens of its prefix; returns its place among the sequences.
    ///
    /// # Panics
    /// If it is empty, or the prefix is not there or has a prefix itself.
    pub fn push(&mut self, sequence: &[u32], prefix: Option<usize>) -> usize {
        assert!(!sequence.is_empty(), "a sequence has at least one token");
        assert!(prefix.is_none_or(|prefix| self.prefixes[prefix].is_none()), "a prefix is whole");
        self.ids.extend_from_slice(sequence);
        self.lengths.push(sequence.len());
        self.prefixes.push(prefix);
        self.lengths.len() - 1
    }

    /// Whether sequences have a beginning in common.
    pub(crate) fn has_prefixes(&self) -> bool {
        self.prefixes.iter().any(Option::is_some)
    }

    /// The position of every token in its sequence.
    pub(crate) fn positions(&self) -> Vec<u32> {
        self.parts()
            .flat_map(|part| (0..part.rows.len()).map(move |row| (part.prefix.len() + row) as u32))
            .collect()
    }

    /// The token that follows each token in its sequence; 0 after a sequence's last, where nothing follows.
    pub(crate) fn next_tokens(&self) -> Vec<u32> {
        let mut next: Vec<u32> = self.ids[1..].to_vec();
        next.push(0);
        let mut end = 0;
        for length in &self.lengths {
            end += length;
            next[end - 1] = 0;
        }
        next
    }

    /// Where the rows of every sequence lie, and the rows of its keys.
    pub(crate) fn parts(&self) -> impl Iterator<Item = SequenceRows> {
        let (mut row, mut key) = (0, 0);
        let mut rows = Vec::with_capacity(self.lengths.len());
        self.lengths.iter().zip(&self.prefixes).map(move |(length, prefix)| {
            rows.push(row..row + length);
            let prefix = prefix.map_or(0..0, |prefix| rows[prefix].clone());
            let part =
                SequenceRows { rows: row..row + length, keys: key..key + prefix.len() + length, prefix };
            (row, key) = (part.rows.end, part.keys.end);
            part
        })
    }

    /// Which rows of a chunk attend to which rows of the batch's keys.
    ///
    /// The chunk is rows `start..end` of the batch. The queries of the spans count from `start`.
    pub(crate) fn chunk_spans(&self, start: usize, end: usize) -> Arc<[Span]> {
        let mut spans = Vec::new();
        for SequenceRows { rows, keys, .. } in self.parts() {
            let (from, to) = (rows.start.max(start), rows.end.min(end));
            if from < to {
                let seen = keys.end - (rows.end - to);
                spans.push(Span { queries: from - start..to - start, keys: keys.start..seen });
            }
        }
        spans.into()
    }
}

/// Where one sequence of a batch lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SequenceRows {
    /// Its rows among those of the batch.
    pub(crate) rows: Range<usize>,
    /// The rows of its keys: those of the prefix, then its own.
    pub(crate) keys: Range<usize>,
    /// The rows of the prefix among those of the batch; empty where there is none.
    pub(crate) prefix: Range<usize>,
}

impl SequenceRows {
    /// The key row of one of its rows.
    pub(crate) fn key_of(&self, row: usize) -> usize {
        self.keys.end - (self.rows.end - row)
    }

    /// The key row of one of the prefix's rows.
    pub(crate) fn key_of_prefix(&self, row: usize) -> usize {
        self.keys.start + (row - self.prefix.start)
    }
}
