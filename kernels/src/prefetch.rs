//! Asking memory for words ahead of their use.
//!
//! A product with few rows is over sooner than memory brings its factor. The machine's own prefetching stops
//! while a block is worked on that is in cache already, and at every page; requests keep memory busy meanwhile.

/// Words that will be read soon, asked for bit by bit.
pub(crate) struct Ahead<'a> {
    left: &'a [u32],
    /// Words of a request.
    at_once: usize,
}

/// Words of a line of the cache.
const LINE: usize = 16;

impl<'a> Ahead<'a> {
    pub(crate) fn new(words: &'a [u32], at_once: usize) -> Self {
        Self { left: words, at_once: at_once.next_multiple_of(LINE) }
    }

    /// From here on, how many words a request is for.
    pub(crate) fn at_once(&mut self, words: usize) {
        self.at_once = words.next_multiple_of(LINE);
    }

    /// Asks for the next words.
    #[inline(always)]
    pub(crate) fn ask(&mut self) {
        let (now, left) = self.left.split_at(self.at_once.min(self.left.len()));
        for line in now.chunks(LINE) {
            ask(&line[0]);
        }
        self.left = left;
    }
}

/// Rows of words of which the first ones will be read soon. Rows begin with lines of the cache.
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a> {
    words: &'a [u32],
    /// From one row to the next.
    distance: usize,
    /// Words of a row that will be read.
    used: usize,
}

impl<'a> Lines<'a> {
    pub(crate) const NONE: Lines<'static> = Lines { words: &[], distance: 1, used: 0 };

    /// The first `used` words of rows that lie so far apart.
    pub(crate) fn of_rows(words: &'a [u32], distance: usize, used: usize) -> Self {
        Self { words, distance, used }
    }

    /// How many rows there are.
    pub(crate) fn count(&self) -> usize {
        self.words.len() / self.distance
    }

    /// The rows, for [`Lines::ask`].
    pub(crate) fn rows(&self) -> impl Iterator<Item = &'a [u32]> + use<'a> {
        self.words.chunks_exact(self.distance)
    }

    /// Asks for what will be read of a row.
    #[inline(always)]
    pub(crate) fn ask(&self, row: &[u32]) {
        row[..self.used].chunks(LINE).for_each(|line| ask(&line[0]));
    }
}

/// Asks for the line of a word.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[allow(unsafe_code)]
#[inline(always)]
fn ask(word: &u32) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: a prefetch is a hint that neither reads nor writes for the program and cannot fault, and SSE,
    // which it takes, is part of every x86_64.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(word).cast()) };
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline(always)]
fn ask(_: &u32) {}
