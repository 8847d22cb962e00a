//! Memory of weights, in the system's large pages where there are any.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;
use pulp::bytemuck;

use crate::panel::Buffer;

/// Words, at first zero, that begin at a line of the cache.
///
/// A step of decoding reads every weight once, and looks up each page of 4 KiB as it comes to it. In pages of 2 MiB
/// it looks up 512 times fewer of them. The system is asked for such pages and gives them if it can.
pub(super) enum Pages {
    Mapped(MmapMut),
    /// Where the system maps no memory without a file.
    Allocated(Buffer<u32>),
}

impl Pages {
    /// Room for so many words.
    pub(super) fn zeros(words: usize) -> Self {
        match MmapMut::map_anon(words.saturating_mul(size_of::<u32>())) {
            Ok(memory) => {
                // That they are not to be had is no fault: they save time and nothing else.
                #[cfg(target_os = "linux")]
                let _ = memory.advise(memmap2::Advice::HugePage);
                Self::Mapped(memory)
            }
            Err(_) => Self::Allocated(Buffer::zeros(words)),
        }
    }
}

impl Deref for Pages {
    type Target = [u32];

    #[inline(always)]
    fn deref(&self) -> &[u32] {
        match self {
            Self::Mapped(memory) => bytemuck::cast_slice(memory),
            Self::Allocated(words) => words,
        }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u32] {
        match self {
            Self::Mapped(memory) => bytemuck::cast_slice_mut(memory),
            Self::Allocated(words) => words,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pages;
    use crate::panel::Buffer;

    #[test]
    fn both_kinds_hold_as_many_words_as_were_asked_for_and_begin_at_a_line_of_the_cache() {
        for words in [0, 1, 1023, 1 << 20] {
            for mut pages in [Pages::zeros(words), Pages::Allocated(Buffer::zeros(words))] {
                assert_eq!(pages.len(), words);
                assert!(words == 0 || pages.as_ptr().align_offset(64) == 0);
                assert!(pages.iter().all(|word| *word == 0));
                pages.iter_mut().enumerate().for_each(|(number, word)| *word = number as u32);
                assert!(pages.iter().enumerate().all(|(number, word)| *word == number as u32));
            }
        }
    }
}
