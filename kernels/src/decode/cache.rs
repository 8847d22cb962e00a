//! Keys and values of the contexts that are being decoded, in blocks of a fixed number of positions.
//!
//! A block holds all layers of its positions. A context is a list of blocks, so that it grows without being
//! copied and memory follows what is used; blocks of finished contexts serve the next ones. Keys lie
//! transposed, one row a number of the head and one column a position: scores of a whole block are then sums
//! along a row's lanes, without a step across them.

use pulp::bytemuck;

use crate::decoder::config::DecoderConfig;
use crate::panel::{Buffer, LANES};

/// Positions of a block: four of the widest vectors, and 16 KiB of keys of one head of 64.
pub(crate) const BLOCK_POSITIONS: usize = 64;

/// The sizes of a block.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    layers: usize,
    pub(super) kv_heads: usize,
    pub(super) head_width: usize,
    /// The head width in whole vectors: the distance of the rows of values.
    pub(super) value_width: usize,
}

impl Shape {
    pub(crate) fn new(config: &DecoderConfig) -> Self {
        Self {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_width: config.head_width,
            value_width: config.head_width.next_multiple_of(LANES),
        }
    }

    /// Numbers of a block.
    pub(crate) fn block_len(&self) -> usize {
        self.layers * self.kv_heads * self.head_len()
    }

    fn head_len(&self) -> usize {
        BLOCK_POSITIONS * (self.head_width + self.value_width)
    }

    fn head_at(&self, layer: usize, kv_head: usize) -> usize {
        (layer * self.kv_heads + kv_head) * self.head_len()
    }
}

/// One context: its blocks and how many positions are filled.
#[derive(Default)]
pub(crate) struct Context {
    blocks: Vec<Buffer>,
    len: usize,
    /// Stands in a slot whose context is being worked on.
    taken: bool,
}

impl Context {
    pub(super) fn taken() -> Self {
        Self { taken: true, ..Self::default() }
    }

    pub(super) fn is_taken(&self) -> bool {
        self.taken
    }

    /// Positions that are filled.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Counts positions as filled whose keys and values were written for every layer.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Keys `[D, BLOCK_POSITIONS]` and values `[BLOCK_POSITIONS, value_width]` of one head in one block.
    pub(super) fn head(
        &self,
        shape: &Shape,
        block: usize,
        (layer, kv_head): (usize, usize),
    ) -> (&[f32], &[f32]) {
        let at = shape.head_at(layer, kv_head);
        self.blocks[block][at..at + shape.head_len()].split_at(BLOCK_POSITIONS * shape.head_width)
    }

    /// The words that are read after those of a head in a block, where attention goes over so many positions: the
    /// head in the next block, and after the last one the next head.
    pub(super) fn next(
        &self,
        shape: &Shape,
        (block, positions): (usize, usize),
        (layer, kv_head): (usize, usize),
    ) -> &[u32] {
        let last = (block + 1) * BLOCK_POSITIONS >= positions;
        let (block, at) = if last {
            (0, shape.head_at(layer, kv_head) + shape.head_len())
        } else {
            (block + 1, shape.head_at(layer, kv_head))
        };
        let words: &[u32] = bytemuck::cast_slice(&self.blocks[block]);
        words.get(at..at + shape.head_len()).unwrap_or(&[])
    }

    /// Writes the key and the value, `[KV, D]` each, of one position in one layer.
    pub(super) fn write(
        &mut self,
        shape: &Shape,
        (layer, position): (usize, usize),
        key: &[f32],
        value: &[f32],
    ) {
        let (block, column) = (position / BLOCK_POSITIONS, position % BLOCK_POSITIONS);
        let heads = key.chunks_exact(shape.head_width).zip(value.chunks_exact(shape.head_width));
        for (kv_head, (key, value)) in heads.enumerate() {
            let at = shape.head_at(layer, kv_head);
            let head = &mut self.blocks[block][at..at + shape.head_len()];
            let (keys, values) = head.split_at_mut(BLOCK_POSITIONS * shape.head_width);
            for (to, from) in keys[column..].iter_mut().step_by(BLOCK_POSITIONS).zip(key) {
                *to = *from;
            }
            values[column * shape.value_width..][..value.len()].copy_from_slice(value);
        }
    }
}

/// Where blocks come from.
pub(super) struct Blocks {
    shape: Shape,
    free: Vec<Buffer>,
}

impl Blocks {
    pub(super) fn new(config: &DecoderConfig) -> Self {
        Self { shape: Shape::new(config), free: Vec::new() }
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Gives a context blocks for so many positions.
    pub(super) fn make_room(&mut self, context: &mut Context, positions: usize) {
        let len = self.shape.block_len();
        while context.blocks.len() * BLOCK_POSITIONS < positions {
            context.blocks.push(self.free.pop().unwrap_or_else(|| Buffer::zeros(len)));
        }
    }

    /// Takes a context's blocks for others; the context is empty after that.
    pub(super) fn take_back(&mut self, context: &mut Context) {
        self.free.append(&mut context.blocks);
        context.len = 0;
    }
}
