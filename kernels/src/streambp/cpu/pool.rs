//! Buffers that have served, for the next use of their size.
//!
//! New memory costs a fault for every page, and zeros that one thread writes while others wait. Micro-batches are
//! about equally large, so that one finds nearly all that it needs where the one before has left it.

use rayon::prelude::*;

use crate::zeros::{TASK_NUMBERS, zeros};

/// Buffers that nobody uses.
#[derive(Default)]
pub(super) struct BufferPool {
    /// That have served this pass.
    given: Vec<Vec<f32>>,
    /// That have served the pass before and not this one.
    old: Vec<Vec<f32>>,
}

impl BufferPool {
    /// A buffer of so many numbers, whichever they are.
    pub(super) fn take(&mut self, len: usize) -> Vec<f32> {
        for buffers in [&mut self.given, &mut self.old] {
            let numbered = buffers.iter().map(Vec::capacity).enumerate();
            let fitting = numbered.filter(|(_, capacity)| (len..=2 * len).contains(capacity));
            if let Some((place, _)) = fitting.min_by_key(|(_, capacity)| *capacity) {
                let mut buffer = buffers.swap_remove(place);
                buffer.resize(len, 0.0);
                return buffer;
            }
        }
        // What the pass before needed makes room, so that the needs of both are never held together.
        let mut freed = 0;
        while freed < len {
            let Some(buffer) = self.old.pop() else { break };
            freed += buffer.capacity();
        }
        zeros(len)
    }

    /// A copy of some numbers.
    pub(super) fn copy(&mut self, from: &[f32]) -> Vec<f32> {
        let mut copy = self.take(from.len());
        let parts = copy.par_chunks_mut(TASK_NUMBERS).zip(from.par_chunks(TASK_NUMBERS));
        parts.for_each(|(to, from)| to.copy_from_slice(from));
        copy
    }

    /// Takes back what nobody needs any more.
    pub(super) fn give(&mut self, buffer: Vec<f32>) {
        if buffer.capacity() > 0 {
            self.given.push(buffer);
        }
    }

    /// Ends a pass: what it had no use for is given up.
    pub(super) fn keep_given(&mut self) {
        self.old = std::mem::take(&mut self.given);
    }

    /// Ends a pass and gives up nothing.
    pub(super) fn keep_all(&mut self) {
        self.old.append(&mut self.given);
    }
}

#[cfg(test)]
mod tests {
    use super::{BufferPool, zeros};

    #[test]
    fn buffers_serve_again_where_they_are_about_as_large() {
        let mut pool = BufferPool::default();
        let (small, large) = (pool.take(80), pool.take(1000));
        let places = [small.as_ptr(), large.as_ptr()];
        pool.give(small);
        pool.give(large);
        pool.keep_given();
        let large = pool.take(600);
        assert_eq!((large.as_ptr(), large.len()), (places[1], 600));
        pool.give(large);
        // Less than half of one is no use for it.
        let small = pool.take(400);
        assert_ne!(small.as_ptr(), places[1]);
        let large = pool.take(1000);
        assert_eq!((large.as_ptr(), large.len()), (places[1], 1000));
    }

    #[test]
    fn what_two_passes_have_no_use_for_is_given_up() {
        let mut pool = BufferPool::default();
        let buffer = pool.take(100);
        pool.give(buffer);
        pool.keep_given();
        assert_eq!((pool.given.len(), pool.old.len()), (0, 1));
        pool.keep_given();
        assert_eq!((pool.given.len(), pool.old.len()), (0, 0));
        // A pass that needs larger ones gives up as much before it has them.
        for len in [100, 110, 120] {
            let buffer = zeros(len);
            pool.give(buffer);
        }
        pool.keep_given();
        assert_eq!(pool.take(200).len(), 200);
        assert_eq!(pool.old.len(), 1);
    }

    #[test]
    fn copies_are_equal_whatever_a_buffer_held() {
        let mut pool = BufferPool::default();
        for len in [5, 200_000, 190_000, 200_000] {
            let from: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let copy = pool.copy(&from);
            assert_eq!(copy, from);
            pool.give(copy);
        }
    }
}
