//! Which rows of a batch anything comes back through: those of sequences with a slope.
//!
//! Sequences do not see each other. One whose slopes are all 0 has gradients of 0 in every layer, so a chunk that
//! holds rows of such sequences alone adds zeros to every sum, and is left out.

use std::ops::Range;

use crate::batch::Packed;
use crate::streambp::Slopes;

/// The rows of sequences with a slope, as ranges in their order.
pub(super) struct LiveRows(Vec<Range<usize>>);

impl LiveRows {
    /// By the slopes of a batch's entries. A shared prefix is live where one of the sequences that follow it is.
    pub(super) fn new(batch: &Packed, slopes: &Slopes) -> Self {
        let mut live: Vec<bool> = batch.parts().map(|part| slopes.any(part.rows)).collect();
        // From the last on, so that a prefix of a prefix hears of it.
        for (sequence, prefix) in batch.prefixes.iter().enumerate().rev() {
            if let Some(prefix) = prefix {
                live[*prefix] |= live[sequence];
            }
        }
        let parts = batch.parts().zip(live);
        Self(parts.filter_map(|(part, live)| live.then_some(part.rows)).collect())
    }

    /// All rows of a batch.
    pub(super) fn all(batch: &Packed) -> Self {
        Self(batch.parts().map(|part| part.rows).collect())
    }

    /// Whether no row is live.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of these rows is live.
    pub(super) fn any(&self, rows: &Range<usize>) -> bool {
        let first = self.0.partition_point(|live| live.end <= rows.start);
        self.0.get(first).is_some_and(|live| live.start < rows.end)
    }
}

#[cfg(test)]
mod tests {
    use super::LiveRows;
    use crate::batch::Packed;
    use crate::streambp::Slopes;

    #[test]
    fn a_prefix_of_a_prefix_is_live_with_what_follows_both() {
        let mut batch = Packed::empty();
        let common = batch.push(&[1, 2], None);
        let prompts = [3, 4].map(|id| batch.push(&[id], Some(common)));
        for prompt in prompts {
            batch.push(&[5], Some(prompt));
        }
        let mut slopes = Slopes { logprob: vec![0.0; 6], entropy: Vec::new() };
        slopes.logprob[5] = 1.0;
        let live = LiveRows::new(&batch, &slopes);
        let found: Vec<bool> = (0..6).map(|row| live.any(&(row..row + 1))).collect();
        assert_eq!(found, [true, true, false, true, false, true]);
    }

    #[test]
    fn a_sequence_is_live_as_a_whole_and_with_its_beginning() {
        let mut batch = Packed::empty();
        batch.push(&[1, 2, 3], None);
        let prefix = batch.push(&[4, 5], None);
        batch.push(&[6, 7], Some(prefix));
        batch.push(&[8, 9, 10], Some(prefix));
        batch.push(&[11], None);
        let mut slopes = Slopes { logprob: vec![0.0; 11], entropy: vec![0.0; 11] };
        assert!(LiveRows::new(&batch, &slopes).is_empty());
        slopes.entropy[8] = -1e-30;
        let live = LiveRows::new(&batch, &slopes);
        // Rows 3 and 4 begin rows 7 to 9.
        let found: Vec<bool> = (0..11).map(|row| live.any(&(row..row + 1))).collect();
        let expected = [false, false, false, true, true, false, false, true, true, true, false];
        assert_eq!(found, expected);
        assert!(live.any(&(0..4)) && live.any(&(5..8)) && !live.any(&(5..7)) && !live.any(&(10..11)));
        let (logprob, entropy) = (slopes.entropy, Vec::new());
        assert!(LiveRows::new(&batch, &Slopes { logprob, entropy }).any(&(3..4)));
        assert!(!live.is_empty());
        assert!((0..11).all(|row| LiveRows::all(&batch).any(&(row..row + 1))));
    }
}
