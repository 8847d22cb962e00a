//! Cached decoding on the CPU, on slices: weights packed once a policy version, fused projections, no tensors.
//!
//! What a token comes to is the same bit for bit whatever else is in the batch, in whichever slot it is, whether
//! it came alone or in a long prefill, and on however many threads: every output is one sum in one order. So a
//! run that was interrupted can rebuild its caches and draw the tokens that it would have drawn.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::Places;
use crate::attention;
use crate::decoder::Decoder;
use crate::decoder::config::DecoderConfig;
use crate::flex::Rows;
use crate::gemm::{Packed, multiply_panels};
use crate::panel::Left;
use crate::rows::{add_bias, add_columns, norm_rows, norm_rows_in_place, rotate_rows};
use crate::swiglu;
use crate::weights::{Block, Weights};

/// Rows of a product's part: enough that a panel of the weight is used often while it is in cache.
const ROWS: usize = 48;
/// Multiplications below which a product stays on the thread that asks for it: handing a part over costs some
/// microseconds, in which a core does about so many.
const PARALLEL_MIN: usize = 1 << 19;
/// Versions of weights that stay packed while nobody uses them: a generator comes back to each in every step.
const IDLE_CALLS_MAX: u64 = 16;

/// The caches of all slots, and the weights that were packed for them.
pub(super) struct Slots {
    layers: Vec<Layer>,
    packed: Vec<Version>,
    calls: u64,
}

/// Keys and values of one layer, each `[slots * positions, KV, D]`. Memory that no context has reached is not
/// touched.
struct Layer {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Packed weights, and the ones that they were made of: as long as these live here, no others can have their
/// place in memory, by which they are known.
struct Version {
    decoder: Decoder,
    weights: Arc<PackedWeights>,
    last_call: u64,
}

impl Slots {
    /// Room for `rows` positions over all slots.
    pub(super) fn new(config: &DecoderConfig, rows: usize) -> Self {
        let zeros = || vec![0.0; rows * config.kv_heads * config.head_width];
        let layers = (0..config.layers).map(|_| Layer { keys: zeros(), values: zeros() }).collect();
        Self { layers, packed: Vec::new(), calls: 0 }
    }

    /// Gives each slot, of which `lengths` says how far it is filled, `after` rows in place of `before`.
    pub(super) fn grow(&mut self, lengths: &[usize], (before, after): (usize, usize)) {
        for layer in &mut self.layers {
            for cache in [&mut layer.keys, &mut layer.values] {
                let row = cache.len() / (lengths.len() * before).max(1);
                let mut larger = vec![0.0; lengths.len() * after * row];
                for (slot, length) in lengths.iter().enumerate() {
                    let from = &cache[slot * before * row..][..length * row];
                    larger[slot * after * row..][..length * row].copy_from_slice(from);
                }
                *cache = larger;
            }
        }
    }

    /// Takes tokens through the layers, appending to the caches.
    ///
    /// # Shapes
    /// The result is row-major `[tokens, hidden]`, before the last norm.
    pub(super) fn extend(&mut self, decoder: &Decoder, ids: &[u32], places: &Places) -> Vec<f32> {
        let weights = self.packed(decoder);
        let config = &decoder.config;
        let table = weights.plain.embedding.slice();
        let mut x = Vec::with_capacity(ids.len() * config.hidden);
        for &id in ids {
            x.extend_from_slice(&table[id as usize * config.hidden..(id as usize + 1) * config.hidden]);
        }
        let angles = config.rope.table(config.head_width, &places.positions);
        for (layer, (block, packed)) in weights.plain.blocks.iter().zip(&weights.blocks).enumerate() {
            let pass = LayerPass { config, block, packed, angles: (&angles.0, &angles.1), places };
            pass.run(&mut x, &mut self.layers[layer]);
        }
        x
    }

    /// Logits of these rows.
    ///
    /// # Shapes
    /// `hidden` `[rows, hidden]`, before the last norm; the result is row-major `[rows, vocabulary]`.
    pub(super) fn logits(&mut self, decoder: &Decoder, hidden: &[f32]) -> Vec<f32> {
        let weights = self.packed(decoder);
        let mut normed = vec![0.0; hidden.len()];
        norm_rows(hidden, weights.plain.final_norm.slice(), decoder.config.rms_eps, &mut normed);
        product(&normed, decoder.config.hidden, &weights.head)
    }

    /// The weights of a model in packed form, made when they are first asked for.
    fn packed(&mut self, decoder: &Decoder) -> Arc<PackedWeights> {
        self.calls += 1;
        let now = self.calls;
        self.packed.retain(|version| now - version.last_call <= IDLE_CALLS_MAX);
        let place = |decoder: &Decoder| Rows::of_tensor(&decoder.weights.embedding).slice().as_ptr();
        let wanted = place(decoder);
        let known = self.packed.iter_mut().find(|version| place(&version.decoder) == wanted);
        if let Some(version) = known {
            version.last_call = now;
            return Arc::clone(&version.weights);
        }
        let weights = Arc::new(PackedWeights::new(decoder));
        let version = Version { decoder: decoder.clone(), weights: Arc::clone(&weights), last_call: now };
        self.packed.push(version);
        weights
    }
}

/// A model's weights as right factors of `x w^T`.
struct PackedWeights {
    plain: Weights<Rows>,
    blocks: Vec<PackedBlock>,
    head: Packed,
}

struct PackedBlock {
    /// Queries, keys and values side by side.
    attention: Packed,
    output: Packed,
    /// Gate and up side by side.
    inner: Packed,
    down: Packed,
}

impl PackedWeights {
    fn new(decoder: &Decoder) -> Self {
        let hidden = decoder.config.hidden;
        let plain = decoder.weights.map(|_, weight| Rows::of_tensor(weight));
        let blocks = plain.blocks.par_iter().map(|block| PackedBlock {
            attention: side_by_side(&[&block.query, &block.key, &block.value], hidden),
            output: side_by_side(&[&block.output], decoder.config.heads * decoder.config.head_width),
            inner: side_by_side(&[&block.gate, &block.up], hidden),
            down: side_by_side(&[&block.down], decoder.config.intermediate),
        });
        let blocks = blocks.collect();
        let head = side_by_side(&[plain.head.as_ref().unwrap_or(&plain.embedding)], hidden);
        Self { plain, blocks, head }
    }
}

fn side_by_side(weights: &[&Rows], inner: usize) -> Packed {
    if let [weight] = weights {
        return Packed::transposed(weight.slice(), inner, weight.slice().len() / inner);
    }
    let joined: Vec<f32> = weights.iter().flat_map(|weight| weight.slice()).copied().collect();
    Packed::transposed(&joined, inner, joined.len() / inner)
}

/// `x w^T` for rows of `inner` numbers, cut into parts by rows and by columns; no cut changes a bit of it.
///
/// # Shapes
/// The result is row-major `[rows, columns]`.
fn product(x: &[f32], inner: usize, weight: &Packed) -> Vec<f32> {
    let (rows, columns) = (x.len() / inner, weight.columns());
    let mut y = vec![0.0; rows * columns];
    if rows * inner * columns < PARALLEL_MIN {
        multiply_panels(rows, Left::Rows(x, inner), (weight, 0..weight.panels()), &mut y);
        return y;
    }
    if rows > ROWS {
        y.par_chunks_mut(ROWS * columns).zip(x.par_chunks(ROWS * inner)).for_each(|(y, x)| {
            multiply_panels(x.len() / inner, Left::Rows(x, inner), (weight, 0..weight.panels()), y);
        });
        return y;
    }
    let parts: Vec<(usize, Vec<f32>)> = panel_parts(weight.panels())
        .into_par_iter()
        .map(|panels| {
            let part_columns = weight.columns_of(&panels);
            let mut part = vec![0.0; rows * part_columns.len()];
            multiply_panels(rows, Left::Rows(x, inner), (weight, panels), &mut part);
            (part_columns.start, part)
        })
        .collect();
    for (first, part) in parts {
        let width = part.len() / rows;
        for (y, part) in y.chunks_exact_mut(columns).zip(part.chunks_exact(width)) {
            y[first..first + width].copy_from_slice(part);
        }
    }
    y
}

/// Panels in as many parts as keep all threads busy to the end.
fn panel_parts(panels: usize) -> Vec<Range<usize>> {
    let each = panels.div_ceil(4 * rayon::current_num_threads()).max(1);
    (0..panels).step_by(each).map(|first| first..(first + each).min(panels)).collect()
}

/// One block over one batch of new tokens.
struct LayerPass<'a> {
    config: &'a DecoderConfig,
    block: &'a Block<Rows>,
    packed: &'a PackedBlock,
    /// Cosines and sines of the tokens' positions.
    angles: (&'a [f32], &'a [f32]),
    places: &'a Places,
}

impl LayerPass<'_> {
    /// Replaces `x` by the block's output.
    fn run(&self, x: &mut [f32], cache: &mut Layer) {
        let (config, block) = (self.config, self.block);
        let (hidden, eps) = (config.hidden, config.rms_eps);
        let mut normed = vec![0.0; x.len()];
        norm_rows(x, block.input_norm.slice(), eps, &mut normed);
        let query = self.project(&normed, cache);
        let heads = attention::Heads {
            query: &query,
            key: &cache.keys,
            value: &cache.values,
            query_shape: [self.places.rows.len(), config.heads, config.head_width],
            key_shape: [cache.keys.len() / self.key_width(), config.kv_heads, config.head_width],
        };
        let mixed = attention::mix_by_rows(&heads, &self.places.spans);
        add_columns(x, &product(&mixed, config.heads * config.head_width, &self.packed.output));
        add_bias(x, block.output_bias.as_ref().map(Rows::slice));
        norm_rows(x, block.post_norm.slice(), eps, &mut normed);
        let mut inner = product(&normed, hidden, &self.packed.inner);
        let mut active = Vec::with_capacity(inner.len() / 2);
        for row in inner.chunks_exact_mut(2 * config.intermediate) {
            let (gate, up) = row.split_at_mut(config.intermediate);
            swiglu::forward_in_place(gate, up);
            active.extend_from_slice(gate);
        }
        add_columns(x, &product(&active, config.intermediate, &self.packed.down));
    }

    fn key_width(&self) -> usize {
        self.config.kv_heads * self.config.head_width
    }

    /// The rotated queries, `[N, H D]`; keys and values go into the cache.
    fn project(&self, normed: &[f32], cache: &mut Layer) -> Vec<f32> {
        let (config, block) = (self.config, self.block);
        let (width, key_width) = (config.heads * config.head_width, self.key_width());
        let rows = self.places.rows.len();
        let (mut query, mut key) = (Vec::with_capacity(rows * width), Vec::with_capacity(rows * key_width));
        let mut value = Vec::with_capacity(rows * key_width);
        let all = product(normed, config.hidden, &self.packed.attention);
        for row in all.chunks_exact(width + 2 * key_width) {
            query.extend_from_slice(&row[..width]);
            key.extend_from_slice(&row[width..width + key_width]);
            value.extend_from_slice(&row[width + key_width..]);
        }
        add_bias(&mut query, block.query_bias.as_ref().map(Rows::slice));
        add_bias(&mut key, block.key_bias.as_ref().map(Rows::slice));
        add_bias(&mut value, block.value_bias.as_ref().map(Rows::slice));
        for (heads, gain) in [(&mut query, &block.query_norm), (&mut key, &block.key_norm)] {
            if let Some(gain) = gain {
                norm_rows_in_place(heads, gain.slice(), config.rms_eps);
            }
            let row = heads.len() / rows;
            rotate_rows(heads, row, self.angles, false);
        }
        let rows = self.places.rows.iter();
        for ((row, key), value) in rows.zip(key.chunks_exact(key_width)).zip(value.chunks_exact(key_width)) {
            cache.keys[row * key_width..][..key_width].copy_from_slice(key);
            cache.values[row * key_width..][..key_width].copy_from_slice(value);
        }
        query
    }
}
