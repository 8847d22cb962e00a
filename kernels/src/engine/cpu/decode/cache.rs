//! Keys and values of the contexts that are being decoded, in blocks of a fixed number of positions.
//!
//! A block holds all layers of its positions. A context is a list of blocks, so that it grows without being
//! copied and memory follows what is used; blocks of finished contexts serve the next ones. A block that is full
//! never changes again and may belong to several contexts; only the last ones of a context are its own. Keys lie
//! transposed, one row a number of the head and one column a position: scores of a whole block are then sums
//! along a row's lanes, without a step across them.

use std::collections::HashMap;
use std::iter;
use std::sync::{Arc, Weak};

use pulp::bytemuck;

use crate::gemm::bf16;
use crate::model::config::DecoderConfig;
use crate::panel::{Buffer, LANES};
use crate::prefetch::Lines;
use crate::simd;

/// Positions of a block: four of the widest vectors, and 16 KiB of keys of one head of 64.
pub(crate) const BLOCK_POSITIONS: usize = 64;

/// The precision in which the cache stores keys and values; attention computes in f32 in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CachePrecision {
    /// 32 bits: as they are.
    #[default]
    F32,
    /// 16 bits: keys and values rounded to the nearest of 8 significant bits, ties to even.
    Bf16,
}

impl CachePrecision {
    /// Numbers in a word of 32 bits.
    fn numbers(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
        }
    }
}

/// A key head of a layer.
#[derive(Clone, Copy)]
pub(super) struct HeadAt {
    pub(super) layer: usize,
    pub(super) kv_head: usize,
}

/// The sizes of a block.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    layers: usize,
    pub(super) kv_heads: usize,
    pub(super) head_width: usize,
    /// The head width in whole vectors of words: the distance of the rows of values.
    pub(super) value_width: usize,
    pub(super) precision: CachePrecision,
}

impl Shape {
    pub(crate) fn new(config: &DecoderConfig, precision: CachePrecision) -> Self {
        Self {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_width: config.head_width,
            value_width: config.head_width.next_multiple_of(LANES * precision.numbers()),
            precision,
        }
    }

    /// Words of a block, of 32 bits each.
    pub(crate) fn block_words(&self) -> usize {
        self.layers * self.kv_heads * self.head_words()
    }

    /// Numbers of one head in a block: keys `[D, BLOCK_POSITIONS]`, then values `[BLOCK_POSITIONS, value_width]`.
    pub(super) fn head_len(&self) -> usize {
        BLOCK_POSITIONS * (self.head_width + self.value_width)
    }

    fn head_words(&self) -> usize {
        self.head_len() / self.precision.numbers()
    }

    fn head_at(&self, HeadAt { layer, kv_head }: HeadAt) -> usize {
        (layer * self.kv_heads + kv_head) * self.head_words()
    }

    /// The words of keys and of values of one head.
    pub(super) fn keys_and_values<'a>(&self, words: &'a [u32]) -> (&'a [u32], &'a [u32]) {
        words.split_at(BLOCK_POSITIONS * self.head_width / self.precision.numbers())
    }

    /// Keys and values of one head in f32; rounded ones are widened into `scratch`.
    pub(super) fn widened<'a>(&self, words: &'a [u32], scratch: &'a mut Buffer) -> (&'a [f32], &'a [f32]) {
        let (key_words, value_words) = self.keys_and_values(words);
        match self.precision {
            CachePrecision::F32 => (bytemuck::cast_slice(key_words), bytemuck::cast_slice(value_words)),
            CachePrecision::Bf16 => {
                if scratch.len() < self.head_len() {
                    *scratch = Buffer::zeros(self.head_len());
                }
                let scratch = &mut scratch[..self.head_len()];
                let (keys, values) = scratch.split_at_mut(BLOCK_POSITIONS * self.head_width);
                widen_rows(key_words, BLOCK_POSITIONS, keys);
                widen_rows(value_words, self.value_width, values);
                (keys, values)
            }
        }
    }

    /// What of a head's words attention over the first `seen` positions reads: of keys and of values.
    fn lines<'a>(&self, words: &'a [u32], seen: usize) -> [Lines<'a>; 2] {
        let numbers = self.precision.numbers();
        let (keys, values) = self.keys_and_values(words);
        let (distance, row) = (BLOCK_POSITIONS / numbers, self.value_width / numbers);
        [
            // The second half of rounded keys is held in the words of the first.
            Lines::of_rows(keys, distance, seen.min(distance)),
            Lines::of_rows(&values[..seen * row], row, row),
        ]
    }

    /// Writes the key and the value of one position into the words of a head.
    fn write(&self, head: &mut [u32], column: usize, (key, value): (&[f32], &[f32])) {
        let (keys, values) = head.split_at_mut(BLOCK_POSITIONS * self.head_width / self.precision.numbers());
        match self.precision {
            CachePrecision::F32 => {
                for (to, from) in keys[column..].iter_mut().step_by(BLOCK_POSITIONS).zip(key) {
                    *to = from.to_bits();
                }
                let row = &mut values[column * self.value_width..][..value.len()];
                row.iter_mut().zip(value).for_each(|(to, from)| *to = from.to_bits());
            }
            CachePrecision::Bf16 => {
                for (row, from) in keys.chunks_exact_mut(BLOCK_POSITIONS / 2).zip(key) {
                    put(row, column, *from);
                }
                let half = self.value_width / 2;
                let (low, high) = value.split_at(value.len().min(half));
                let (low, high) = (low.iter().map(|low| bf16(*low)), high.iter().map(|high| bf16(*high)));
                let row = values[column * half..][..half].iter_mut();
                for (word, (low, high)) in row.zip(low.zip(high.chain(iter::repeat(0)))) {
                    *word = u32::from(low) | u32::from(high) << 16;
                }
            }
        }
    }
}

/// Puts a rounded number into its place in a row: the words of a row hold its first half low and its second half
/// high, so that widening takes no step across lanes.
fn put(row: &mut [u32], place: usize, number: f32) {
    let bits = u32::from(bf16(number));
    let is_low = place < row.len();
    let word = &mut row[place % row.len()];
    *word = if is_low { (*word & 0xffff_0000) | bits } else { (*word & 0xffff) | (bits << 16) };
}

/// Rows of so many numbers back in f32.
fn widen_rows(words: &[u32], width: usize, to: &mut [f32]) {
    simd::vectorized(
        #[inline(always)]
        || {
            for (to, words) in to.chunks_exact_mut(width).zip(words.chunks_exact(width / 2)) {
                let (low, high) = to.split_at_mut(width / 2);
                low.iter_mut().zip(words).for_each(|(to, word)| *to = f32::from_bits(word << 16));
                high.iter_mut().zip(words).for_each(|(to, word)| *to = f32::from_bits(word & 0xffff_0000));
            }
        },
    );
}

/// A block whose positions are all filled. It never changes.
struct FullBlock {
    words: Buffer<u32>,
    /// Tells blocks apart that were full at any time.
    number: u64,
    /// By what it is found, where one version of the weights has computed it and everything before it.
    key: Option<Key>,
}

/// Everything that the keys and values of a block depend on.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// The weights.
    weights: u64,
    /// The block before it, which stands for all tokens before; 0 at the beginning.
    before: u64,
    tokens: [u32; BLOCK_POSITIONS],
}

/// One context: its blocks and how many positions are filled.
#[derive(Default)]
pub(crate) struct Context {
    full: Vec<Arc<FullBlock>>,
    /// The blocks behind them, which are no other context's.
    own: Vec<Buffer<u32>>,
    /// The tokens of the positions that are filled there.
    tail: Vec<u32>,
    /// The weights that have computed all of it; `None` if there were several.
    weights: Option<u64>,
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

    fn block(&self, block: usize) -> &[u32] {
        match self.full.get(block) {
            Some(full) => &full.words,
            None => &self.own[block - self.full.len()],
        }
    }

    /// The words of one head in one block.
    pub(super) fn head(&self, shape: &Shape, block: usize, head: HeadAt) -> &[u32] {
        &self.block(block)[shape.head_at(head)..][..shape.head_words()]
    }

    /// The keys and the values that are read after those of a head in a block, where attention goes over so many
    /// positions: the head in the next block, and after the last one the next head.
    pub(super) fn next(&self, shape: &Shape, block: usize, positions: usize, head: HeadAt) -> [Lines<'_>; 2] {
        let end = (block + 1) * BLOCK_POSITIONS;
        let (block, at, seen) = if end >= positions {
            (0, shape.head_at(head) + shape.head_words(), positions)
        } else {
            (block + 1, shape.head_at(head), positions - end)
        };
        let words = self.block(block).get(at..at + shape.head_words());
        words.map_or([Lines::NONE; 2], |words| shape.lines(words, seen.min(BLOCK_POSITIONS)))
    }

    /// Writes the key and the value, `[KV, D]` each, of one position in one layer.
    pub(super) fn write(&mut self, shape: &Shape, layer: usize, position: usize, key: &[f32], value: &[f32]) {
        let (block, column) = (position / BLOCK_POSITIONS, position % BLOCK_POSITIONS);
        let words = &mut self.own[block - self.full.len()];
        let heads = key.chunks_exact(shape.head_width).zip(value.chunks_exact(shape.head_width));
        for (kv_head, pair) in heads.enumerate() {
            let head = &mut words[shape.head_at(HeadAt { layer, kv_head })..][..shape.head_words()];
            shape.write(head, column, pair);
        }
    }
}

/// Where blocks come from, and where full ones are found again.
pub(super) struct Blocks {
    shape: Shape,
    free: Vec<Buffer<u32>>,
    /// The full blocks of live contexts by what they were computed from.
    known: HashMap<Key, Weak<FullBlock>>,
    /// Blocks that were full at any time.
    filled: u64,
}

impl Blocks {
    pub(super) fn new(config: &DecoderConfig, precision: CachePrecision) -> Self {
        Self { shape: Shape::new(config, precision), free: Vec::new(), known: HashMap::new(), filled: 0 }
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    fn free_block(&mut self) -> Buffer<u32> {
        self.free.pop().unwrap_or_else(|| Buffer::zeros(self.shape.block_words()))
    }

    /// Gives a context blocks for so many positions.
    pub(super) fn make_room(&mut self, context: &mut Context, positions: usize) {
        while (context.full.len() + context.own.len()) * BLOCK_POSITIONS < positions {
            context.own.push(self.free_block());
        }
    }

    /// Ends an extension: the context's new positions hold these tokens, computed by these weights. Blocks that have
    /// become full are given up for equal ones where another context has them.
    pub(super) fn commit(&mut self, context: &mut Context, tokens: &[u32], weights: u64) {
        let is_new = context.len == tokens.len();
        context.weights = (is_new || context.weights == Some(weights)).then_some(weights);
        context.tail.extend_from_slice(tokens);
        let (tails, rest) = context.tail.as_chunks::<BLOCK_POSITIONS>();
        for (tokens, words) in tails.iter().zip(context.own.drain(..tails.len())) {
            let before = context.full.last().map_or(0, |block| block.number);
            let key = context.weights.map(|weights| Key { weights, before, tokens: *tokens });
            let full = match self.find(key.as_ref()) {
                Some(full) => {
                    self.free.push(words);
                    full
                }
                None => self.keep(words, key),
            };
            context.full.push(full);
        }
        let committed = context.tail.len() - rest.len();
        context.tail.drain(..committed);
    }

    fn find(&self, key: Option<&Key>) -> Option<Arc<FullBlock>> {
        self.known.get(key?)?.upgrade()
    }

    fn keep(&mut self, words: Buffer<u32>, key: Option<Key>) -> Arc<FullBlock> {
        self.filled += 1;
        let full = Arc::new(FullBlock { words, number: self.filled, key: key.clone() });
        if let Some(key) = key {
            self.known.insert(key, Arc::downgrade(&full));
        }
        full
    }

    /// Gives an empty context the full blocks that live contexts have of its first tokens, computed by the same
    /// weights.
    pub(super) fn take_over_known(&self, context: &mut Context, tokens: &[u32], weights: u64) {
        assert!(context.len == 0 && context.own.is_empty(), "an empty context takes over");
        context.weights = Some(weights);
        for tokens in tokens.as_chunks::<BLOCK_POSITIONS>().0 {
            let before = context.full.last().map_or(0, |block| block.number);
            let Some(full) = self.find(Some(&Key { weights, before, tokens: *tokens })) else { break };
            context.full.push(full);
        }
        context.len = context.full.len() * BLOCK_POSITIONS;
    }

    /// Gives a context the first positions of another one that holds the same tokens there, computed by the same
    /// weights: full blocks in common, and a copy of the one behind them.
    pub(super) fn take_over(&mut self, to: &mut Context, from: &Context, tokens: &[u32]) {
        assert!(to.len <= tokens.len() && tokens.len() <= from.len, "{} of {}", tokens.len(), from.len);
        assert_eq!(to.weights, from.weights, "contexts under the same weights");
        let (full, rest) = tokens.as_chunks::<BLOCK_POSITIONS>();
        let known = to.full.len();
        to.full.extend_from_slice(&from.full[known..full.len()]);
        self.free.append(&mut to.own);
        if !rest.is_empty() {
            let mut copy = self.free_block();
            copy.copy_from_slice(from.block(full.len()));
            to.own.push(copy);
        }
        to.tail = rest.to_vec();
        to.len = tokens.len();
    }

    /// Takes a context's blocks for others, but for those that others have; the context is empty after that.
    pub(super) fn take_back(&mut self, context: &mut Context) {
        for full in context.full.drain(..) {
            if let Some(full) = Arc::into_inner(full) {
                full.key.iter().for_each(|key| drop(self.known.remove(key)));
                self.free.push(full.words);
            }
        }
        self.free.append(&mut context.own);
        *context = Context::default();
    }

    /// Whether no block is remembered.
    #[cfg(test)]
    pub(super) fn is_forgotten(&self) -> bool {
        self.known.is_empty()
    }

    /// The blocks that contexts have, each counted once.
    #[cfg(test)]
    pub(super) fn in_use(contexts: &[Context]) -> usize {
        let full = contexts.iter().flat_map(|context| &context.full).map(|block| block.number);
        let own: usize = contexts.iter().map(|context| context.own.len()).sum();
        full.collect::<std::collections::BTreeSet<u64>>().len() + own
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_POSITIONS, CachePrecision, Shape};
    use crate::DecoderConfig;
    use crate::model::families;
    use crate::panel::Buffer;

    /// What is written comes back, in f32 as it was and in bf16 rounded, whatever stood there before.
    #[test]
    fn keys_and_values_come_back_from_either_precision() {
        let config = DecoderConfig { head_width: 18, ..DecoderConfig::small(&families::llama::LLAMA) };
        for precision in [CachePrecision::F32, CachePrecision::Bf16] {
            let shape = Shape::new(&config, precision);
            let number = |position: usize, place: usize| ((position * 31 + place * 7) as f32 * 0.37).sin();
            let mut words = vec![0; shape.head_words()];
            for round in 0..2 {
                for position in 0..BLOCK_POSITIONS {
                    let row = |from: usize| -> Vec<f32> {
                        (0..18).map(|place| number(position, from + place)).collect()
                    };
                    shape.write(&mut words, position, (&row(100 * round), &row(50 + 100 * round)));
                }
            }
            let mut scratch = Buffer::zeros(0);
            let (keys, values) = shape.widened(&words, &mut scratch);
            let rounded = |x: f32| match precision {
                CachePrecision::F32 => x,
                CachePrecision::Bf16 => f32::from_bits(u32::from(crate::gemm::bf16(x)) << 16),
            };
            for (position, row) in values.chunks_exact(shape.value_width).enumerate() {
                for place in 0..18 {
                    let key = keys[place * BLOCK_POSITIONS + position];
                    assert_eq!(key, rounded(number(position, 100 + place)), "{precision:?}");
                    assert_eq!(row[place], rounded(number(position, 150 + place)), "{precision:?}");
                }
                assert!(row[18..].iter().all(|filling| *filling == 0.0));
            }
        }
    }
}
