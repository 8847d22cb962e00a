//! The text of an answer as it is drawn: only what no later token changes is shown.

use std::io::Write;

use anyhow::Result;
use rollout::{Ends, TextStream};

/// An answer as it appears.
pub(super) struct Shown<'a, W> {
    out: W,
    stream: TextStream<'a>,
    text: String,
    /// Bytes of the text that are out.
    shown: usize,
    /// Bytes at the end of the text that may be the beginning of a stop string that is not to be shown.
    undecided: usize,
}

impl<'a, W: Write> Shown<'a, W> {
    pub(super) fn new(ends: &'a Ends, out: W) -> Self {
        let (stream, undecided) = (ends.text().stream(), ends.undecided_bytes());
        Self { out, stream, text: String::new(), shown: 0, undecided }
    }

    /// Shows what the token makes certain.
    pub(super) fn push(&mut self, id: u32) -> Result<()> {
        self.text.push_str(&self.stream.push(id)?);
        let certain = self.text.floor_char_boundary(self.text.len().saturating_sub(self.undecided));
        self.show(certain)
    }

    fn show(&mut self, to: usize) -> Result<()> {
        if to > self.shown {
            write!(self.out, "{}", &self.text[self.shown..to])?;
            self.out.flush()?;
            self.shown = to;
        }
        Ok(())
    }

    /// The whole text is known.
    pub(super) fn end(mut self, whole: &str) -> Result<()> {
        write!(self.out, "{}", whole.get(self.shown..).unwrap_or_default())?;
        writeln!(self.out)?;
        Ok(())
    }

    /// The limit was met.
    pub(super) fn end_as_it_is(mut self) -> Result<()> {
        self.show(self.text.len())?;
        writeln!(self.out)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rollout::{StopConfig, Text};

    use super::*;

    // What may be the beginning of a stop string waits until it is decided.
    #[test]
    fn a_stop_string_that_is_not_to_be_shown_never_appears() {
        let text = Arc::new(Text::load("models/quickstart".as_ref()).unwrap());
        let stops = StopConfig { stop: vec!["===".to_owned()], ..StopConfig::default() };
        let ends = Ends::new(Arc::clone(&text), stops, 24).unwrap();
        let shown_after = |written: &str| {
            let mut shown = Shown::new(&ends, Vec::new());
            text.encode_fragment(written).unwrap().into_iter().for_each(|id| shown.push(id).unwrap());
            shown
        };
        for (written, certain) in [("4", ""), ("4==", "4"), ("4==5", "4="), ("4==5+7", "4==5")] {
            assert_eq!(String::from_utf8(shown_after(written).out).unwrap(), certain);
        }
        let mut out = Vec::new();
        let shown = shown_after("4==");
        Shown { out: &mut out, stream: shown.stream, text: shown.text, shown: shown.shown, undecided: 2 }
            .end("4")
            .unwrap();
        assert_eq!(out, b"\n", "the third mark ends it, and `4` is out already");
    }
}
