//! A batch of sequences, one after the other: which rows are of which sequence, and what each row sees.

use std::ops::Range;
use std::sync::Arc;

use crate::attention::AttentionRows;

/// Sequences of tokens one after the other, without padding.
///
/// Sequences that begin with the same tokens may share this prefix: it is a sequence of its own that stands before
/// them, its rows go through the model once, and each of the others attends to them as if they were its own. A prefix may
/// have a prefix itself: a text that all prompts begin with, then a prompt, then its completions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The tokens of all sequences.
    pub ids: Vec<u32>,
    /// The length of each sequence; their sum is the number of ids, and none is 0.
    pub lengths: Vec<usize>,
    /// For each sequence the one before it that is its beginning, if there is one.
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
    /// If it is empty, or the prefix is not there.
    pub fn push(&mut self, sequence: &[u32], prefix: Option<usize>) -> usize {
        self.push_tokens(sequence.iter().copied(), prefix)
    }

    /// As [`Packed::push`], for tokens that do not lie together.
    ///
    /// # Panics
    /// As [`Packed::push`].
    pub fn push_tokens(&mut self, sequence: impl IntoIterator<Item = u32>, prefix: Option<usize>) -> usize {
        assert!(
            prefix.is_none_or(|prefix| prefix < self.lengths.len()),
            "a prefix stands before what it begins"
        );
        let start = self.ids.len();
        self.ids.extend(sequence);
        assert!(self.ids.len() > start, "a sequence has at least one token");
        self.lengths.push(self.ids.len() - start);
        self.prefixes.push(prefix);
        self.lengths.len() - 1
    }

    /// Whether sequences share a prefix.
    pub(crate) fn has_prefixes(&self) -> bool {
        self.prefixes.iter().any(Option::is_some)
    }

    /// The position of every token in its sequence.
    pub(crate) fn positions(&self) -> Vec<u32> {
        self.parts()
            .flat_map(|part| (part.prefix_len()..part.keys.len()).map(|position| position as u32))
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
        // The rows of each sequence from its beginning on, those of its prefixes first.
        let mut whole: Vec<Vec<Range<usize>>> = Vec::with_capacity(self.lengths.len());
        self.lengths.iter().zip(&self.prefixes).map(move |(length, prefix)| {
            let prefix = prefix.map_or_else(Vec::new, |prefix| whole[prefix].clone());
            let rows = row..row + length;
            let before: usize = prefix.iter().map(Range::len).sum();
            let part = SequenceRows { keys: key..key + before + length, rows, prefix };
            whole.push(part.prefix.iter().cloned().chain([part.rows.clone()]).collect());
            (row, key) = (part.rows.end, part.keys.end);
            part
        })
    }

    /// Which rows of a chunk attend to which rows of the batch's keys.
    ///
    /// The chunk is rows `start..end` of the batch. The queries of the spans count from `start`. With a window, keys
    /// that no row of the chunk sees are in no span.
    pub(crate) fn chunk_spans(
        &self,
        start: usize,
        end: usize,
        window: Option<usize>,
    ) -> Arc<[AttentionRows]> {
        let mut spans = Vec::new();
        for SequenceRows { rows, keys, .. } in self.parts() {
            let (from, to) = (rows.start.max(start), rows.end.min(end));
            if from < to {
                let seen = keys.end - (rows.end - to);
                let own = seen - (to - from);
                let first =
                    window.map_or(keys.start, |window| keys.start.max((own + 1).saturating_sub(window)));
                spans.push(AttentionRows { queries: from - start..to - start, keys: first..seen, window });
            }
        }
        spans.into()
    }
}

/// Rows of a prefix that lie together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PrefixRows {
    /// The rows among those of the batch.
    pub(crate) rows: Range<usize>,
    /// The key row that the first of them has in the sequence behind the prefix; the others follow.
    pub(crate) key: usize,
}

/// Where one sequence of a batch lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SequenceRows {
    /// Its rows among those of the batch.
    pub(crate) rows: Range<usize>,
    /// The rows of its keys: those of the prefix, then its own.
    pub(crate) keys: Range<usize>,
    /// The rows of the prefix among those of the batch, in order and behind those of its own prefix; empty where there is
    /// none.
    pub(crate) prefix: Vec<Range<usize>>,
}

impl SequenceRows {
    /// The key row of one of its rows.
    pub(crate) fn key_of(&self, row: usize) -> usize {
        self.keys.end - (self.rows.end - row)
    }

    /// Rows of the prefix.
    pub(crate) fn prefix_len(&self) -> usize {
        self.keys.len() - self.rows.len()
    }

    /// The rows of the prefix, each range with the key row of its first.
    pub(crate) fn prefix_keys(&self) -> impl Iterator<Item = PrefixRows> + '_ {
        let mut key = self.keys.start;
        self.prefix.iter().map(move |rows| {
            let at = PrefixRows { rows: rows.clone(), key };
            key += rows.len();
            at
        })
    }
}
