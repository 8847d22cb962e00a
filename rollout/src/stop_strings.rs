//! Where a stop string is completed. All that a search needs is the tokens themselves: nothing has to be carried
//! from one to the next, over the border of a segment or through a checkpoint.

use crate::token_bytes::TokenBytes;

/// Stop strings over one vocabulary.
#[derive(Debug)]
pub(crate) struct StopStrings {
    strings: Vec<String>,
    /// Bytes of the longest.
    longest: usize,
    bytes: TokenBytes,
    /// Whether a token can be the last one of a stop string, by id. Most tokens cannot, and cost a look here.
    candidates: Vec<bool>,
}

/// A stop string at the end of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    /// The string.
    pub(crate) string: &'a str,
    /// Bytes from its first one to the end of the token that completed it.
    pub(crate) tail_bytes: usize,
}

impl StopStrings {
    /// None of the strings is empty.
    pub(crate) fn new(strings: Vec<String>, bytes: TokenBytes) -> Self {
        assert!(strings.iter().all(|string| !string.is_empty()), "an empty string ends nothing");
        let completes = |written: &[u8]| strings.iter().any(|string| ends_inside(string.as_bytes(), written));
        let candidates = bytes.iter().map(|written| written.is_some_and(completes)).collect();
        let longest = strings.iter().map(String::len).max().unwrap_or(0);
        Self { strings, longest, bytes, candidates }
    }

    /// The first string that no token can be the last one of: it would never be found.
    pub(crate) fn never_found(&self) -> Option<&str> {
        let completes = |string: &&String| {
            self.bytes.iter().flatten().any(|written| ends_inside(string.as_bytes(), written))
        };
        self.strings.iter().find(|string| !completes(string)).map(String::as_str)
    }

    /// Bytes of the longest string.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// What a token writes; nothing, if the tokenizer does not know it.
    pub(crate) fn written(&self, id: u32) -> &[u8] {
        self.bytes.of(id).unwrap_or_default()
    }

    /// The string that the token `id` completes: one that ends inside of it. Of several it is the one that begins
    /// first, and of those the first one of the list. `before` are the tokens before it, the nearest first, those of
    /// the prompt at last.
    pub(crate) fn find(&self, before: impl IntoIterator<Item = u32>, id: u32) -> Option<Found<'_>> {
        if !self.candidates.get(id as usize).is_some_and(|candidate| *candidate) {
            return None;
        }
        let last = self.written(id);
        let tail = self.tail(before, last);
        let ends_after = tail.len() - last.len();
        let places = self.strings.iter().filter_map(|string| {
            // The last byte is one of the token's.
            let first = (ends_after + 1).saturating_sub(string.len());
            let mut places = first..(tail.len() + 1).saturating_sub(string.len());
            places.find(|place| tail[*place..].starts_with(string.as_bytes())).map(|place| (place, string))
        });
        // Of equals `min_by_key` takes the first.
        let (place, string) = places.min_by_key(|(place, _)| *place)?;
        Some(Found { string, tail_bytes: tail.len() - place })
    }

    /// The bytes in which a string can lie that ends inside the last token. A token that the tokenizer does not know
    /// parts what is before it from what is after it.
    fn tail(&self, before: impl IntoIterator<Item = u32>, last: &[u8]) -> Vec<u8> {
        let mut reversed: Vec<u8> = last.iter().rev().copied().collect();
        let enough = last.len() + self.longest - 1;
        for id in before {
            if reversed.len() >= enough {
                break;
            }
            let Some(written) = self.bytes.of(id) else { break };
            reversed.extend(written.iter().rev());
        }
        reversed.truncate(enough);
        reversed.reverse();
        reversed
    }
}

/// Whether a string may end inside what a token writes: the string's end stands there, as far as there is room.
fn ends_inside(string: &[u8], written: &[u8]) -> bool {
    (1..=written.len()).any(|end| {
        let overlap = end.min(string.len());
        written[end - overlap..end] == string[string.len() - overlap..]
    })
}
