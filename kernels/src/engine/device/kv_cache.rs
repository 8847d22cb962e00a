//! Keys and values of the contexts that are being decoded: one region of rows a slot in each layer.
//!
//! Rows are written in place: a layer's tensor is taken out of the cache, changed while nothing else holds
//! it, and put back. Memory of a slot that was never filled is never touched.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use crate::model::config::DecoderConfig;

/// Keys and values of one layer, each `[slots * rows_a_slot, KV, D]`.
struct LayerCache {
    keys: Tensor<3>,
    values: Tensor<3>,
}

/// The cache of all layers.
pub(crate) struct KvCache {
    layers: Vec<LayerCache>,
}

impl KvCache {
    /// Room for `rows` positions over all slots.
    pub(crate) fn new(config: &DecoderConfig, rows: usize, device: &Device) -> Self {
        let zeros = || Tensor::zeros([rows, config.kv_heads, config.head_width], device);
        let layers = (0..config.layers).map(|_| LayerCache { keys: zeros(), values: zeros() }).collect();
        Self { layers }
    }

    /// Gives each of `slots` slots `positions` rows instead of what it has, keeping what is in them.
    pub(crate) fn grow(&mut self, slots: usize, positions: usize) {
        for layer in &mut self.layers {
            for cache in [&mut layer.keys, &mut layer.values] {
                let [rows, heads, width] = cache.dims();
                let before = rows / slots;
                let device = cache.device();
                let old = std::mem::replace(cache, Tensor::empty([0, heads, width], &device));
                let old = old.reshape([slots, before, heads, width]);
                let larger = Tensor::<4>::zeros([slots, positions, heads, width], &device);
                let larger = larger.slice_assign([0..slots, 0..before, 0..heads, 0..width], old);
                *cache = larger.reshape([slots * positions, heads, width]);
            }
        }
    }

    /// Writes new rows of one layer and returns its whole keys and values to attend to. The caller drops
    /// them before the next write to the layer, or that write copies the cache.
    ///
    /// # Shapes
    /// `keys` and `values` `[N, KV, D]` with N entries in `rows`; the results are the layer's tensors.
    pub(crate) fn write(
        &mut self,
        layer: usize,
        (keys, values): (Tensor<3>, Tensor<3>),
        rows: &Arc<[usize]>,
    ) -> (Tensor<3>, Tensor<3>) {
        let cache = &mut self.layers[layer];
        write_rows(&mut cache.keys, keys, rows);
        write_rows(&mut cache.values, values, rows);
        (cache.keys.clone(), cache.values.clone())
    }
}

fn write_rows(cache: &mut Tensor<3>, values: Tensor<3>, rows: &Arc<[usize]>) {
    let [count, heads, width] = values.dims();
    assert_eq!(count, rows.len(), "one place a row");
    let device = cache.device();
    let owned = std::mem::replace(cache, Tensor::empty([0, heads, width], &device));
    *cache = runs(rows).into_iter().fold(owned, |cache, (from, to, length)| {
        let part = values.clone().slice([from..from + length, 0..heads, 0..width]);
        cache.slice_assign([to..to + length, 0..heads, 0..width], part)
    });
}

/// Consecutive places as runs `(first value, first place, length)`.
fn runs(rows: &[usize]) -> Vec<(usize, usize, usize)> {
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for (from, &to) in rows.iter().enumerate() {
        match runs.last_mut() {
            Some((_, first, length)) if *first + *length == to => *length += 1,
            _ => runs.push((from, to, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn consecutive_places_become_one_run() {
        assert_eq!(runs(&[4, 5, 6, 9, 1, 2]), [(0, 4, 3), (3, 9, 1), (4, 1, 2)]);
        assert!(runs(&[]).is_empty());
    }
}
