//! New memory, and zeros in old, written by all threads.

use rayon::prelude::*;

/// Numbers of a task that writes or copies them.
pub(crate) const TASK_NUMBERS: usize = 64 << 10;

/// New zeros. They are written by all threads before they are read: a page of new memory that is read first is given
/// twice, and the second time every processor has to forget the first one.
pub(crate) fn zeros(len: usize) -> Vec<f32> {
    let mut zeros = vec![0.0; len];
    fill_with_zeros(&mut zeros);
    zeros
}

/// Writes zeros on all threads.
pub(crate) fn fill_with_zeros(values: &mut [f32]) {
    values.par_chunks_mut(TASK_NUMBERS).for_each(|part| part.fill(0.0));
}
