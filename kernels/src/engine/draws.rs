//! From logits in memory to drawn tokens, for engines whose logits are there.

use rayon::prelude::*;

use super::{Draw, DrawRequest, GivenEnd};
use crate::sampling::{SamplingConfig, draw, draw_except, logprob_and_entropy, uniform};

/// Logits below which one thread draws all tokens: it takes less time than to wake another.
const DRAWN_TOGETHER_MIN: usize = 64 * 1024;

/// One draw for each request.
///
/// # Shapes
/// `logits` is row-major `[requests, vocabulary]`.
pub(super) fn draw_all(logits: &[f32], requests: &[DrawRequest<'_>], sampling: &SamplingConfig) -> Vec<Draw> {
    if requests.is_empty() {
        return Vec::new();
    }
    let vocabulary = logits.len() / requests.len();
    let one = |(request, row): (&DrawRequest<'_>, &[f32])| draw_one(row, request, sampling);
    // A draw is a function of its row and its number: which thread makes it changes nothing.
    if logits.len() < DRAWN_TOGETHER_MIN {
        requests.iter().zip(logits.chunks_exact(vocabulary)).map(one).collect()
    } else {
        requests.par_iter().zip(logits.par_chunks_exact(vocabulary)).map(one).collect()
    }
}

fn draw_one(logits: &[f32], request: &DrawRequest<'_>, sampling: &SamplingConfig) -> Draw {
    let number = uniform(request.random_key, request.index);
    let (id, logprob) = match request.excluded {
        [] => draw(logits, sampling, number),
        excluded => draw_except(logits, excluded, sampling, number),
    };
    let drawn = Draw { id, logprob };
    request.given_end.map_or(drawn, |end| end.instead(drawn, logits, sampling.temperature))
}

impl GivenEnd<'_> {
    /// The token to take for the drawn one, with its log-probability at a temperature above 0.
    fn instead(&self, drawn: Draw, logits: &[f32], temperature: f64) -> Draw {
        let ends = |id: u32| self.eos_ids.contains(&id);
        // A log-prob that is no number has to reach whoever stops the run for it.
        if ends(drawn.id) == self.is_here || !drawn.logprob.is_finite() {
            return drawn;
        }
        let after = || (0..logits.len() as u32).map(|step| (drawn.id + step) % logits.len() as u32);
        let other = || after().find(|id| !ends(*id)).unwrap_or(drawn.id);
        let id = if self.is_here { self.eos_ids[0] } else { other() };
        Draw { id, logprob: logprob_and_entropy(logits, temperature, id).0 }
    }
}

#[cfg(test)]
mod tests {
    use super::{Draw, GivenEnd};
    use crate::sampling::logprob_and_entropy;

    // An output ends at the given length and nowhere else, and each token has the log-prob that it has.
    #[test]
    fn an_output_ends_where_it_is_told_to() {
        let logits = [0.0, 1.0, 2.0, 3.0];
        let logprob = |id| logprob_and_entropy(&logits, 1.5, id).0;
        let instead = |id, logprob, is_here| {
            let end = GivenEnd { eos_ids: &[3, 0], is_here };
            let Draw { id, logprob } = end.instead(Draw { id, logprob }, &logits, 1.5);
            (id, logprob)
        };
        assert_eq!(instead(1, -0.5, false), (1, -0.5), "a token that ends nothing stays as it is");
        assert_eq!(instead(0, -0.5, true), (0, -0.5));
        assert_eq!(instead(3, -0.5, false), (1, logprob(1)), "the next one that ends nothing");
        assert_eq!(instead(2, -0.5, true), (3, logprob(3)));
        let (id, impossible) = instead(0, f32::NAN, false);
        assert!(id == 0 && impossible.is_nan());
    }
}
