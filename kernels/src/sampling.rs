//! Drawing a token from logits, and the counter-based random numbers that the draws consume.
//!
//! Everything here is plain arithmetic on one row of logits: no tensors and no hidden random state. A
//! random number is a function of a key and a counter, so a draw does not depend on which thread or slot
//! made it.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::{KernelError, simd};

/// How a token is drawn.
///
/// The filters act in the order of `transformers`: temperature, then `top_k`, then `top_p` on what
/// `top_k` left, renormalised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingConfig {
    /// The logits are divided by it. 0 takes the most likely token and looks at no other key.
    pub temperature: f64,
    /// The smallest set of most likely tokens with at least this mass is kept, in `(0, 1]`; 1 keeps all.
    pub top_p: f64,
    /// So many most likely tokens are kept; 0 keeps all.
    pub top_k: usize,
}

impl SamplingConfig {
    /// Takes the most likely token always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, top_k: 0 };

    /// Draws from the unfiltered distribution at one temperature.
    pub const fn at_temperature(temperature: f64) -> Self {
        Self { temperature, top_p: 1.0, top_k: 0 }
    }

    /// The temperature that log-probabilities are given at.
    fn temperature_of_logprobs(&self) -> f64 {
        if self.temperature == 0.0 { 1.0 } else { self.temperature }
    }

    /// Checks the ranges of the keys.
    ///
    /// # Errors
    /// [`KernelError::Input`] with the key and its value.
    pub fn check(&self) -> Result<(), KernelError> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            let value = self.temperature;
            return Err(KernelError::Input(format!(
                "`temperature` must be finite and at least 0, not {value}"
            )));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let value = self.top_p;
            return Err(KernelError::Input(format!("`top_p` must be above 0 and at most 1, not {value}")));
        }
        Ok(())
    }
}

/// Draws one token and gives its log-probability.
///
/// The log-probability is that of the FULL distribution at the sampling temperature (at temperature 1
/// when the draw is greedy): a later forward pass over the finished sequence can recompute this number
/// from the logits alone, whereas the filtered one depends on which tokens the filter happened to keep.
/// `uniform` in `[0, 1)` picks the token by the inverse of the cumulative distribution in the order of
/// token ids; of equal logits the smaller id counts as the more likely one.
///
/// Logits with a NaN, with positive infinity, or with nothing finite give token 0 and a NaN
/// log-probability, so that the caller, who knows where the logits come from, can say so and stop.
///
/// # Panics
/// When there are no logits or `uniform` lies outside its range.
pub fn draw(logits: &[f32], config: &SamplingConfig, uniform: f64) -> (u32, f32) {
    assert!(!logits.is_empty(), "a draw needs at least one logit");
    assert!((0.0..1.0).contains(&uniform), "a draw needs a number in [0, 1), not {uniform}");
    let Some(peak) = peak(logits) else { return (0, f32::NAN) };
    let distribution = Distribution::new(logits, logits[peak], config.temperature_of_logprobs());
    let token = pick_from(&distribution, peak, config, uniform);
    (token_id(token), distribution.logprob(token))
}

/// [`draw`] where some tokens are never drawn, as if their logits were minus infinity before all filters. The
/// log-probability stays that of the full distribution, with these tokens in it.
///
/// Where no other token has a finite logit, nothing is excluded. Ids without a logit are passed over.
///
/// # Panics
/// As [`draw`].
pub fn draw_except(logits: &[f32], excluded: &[u32], config: &SamplingConfig, uniform: f64) -> (u32, f32) {
    let mut masked = logits.to_vec();
    for id in excluded {
        if let Some(logit) = masked.get_mut(*id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    // Without a distribution, before or after, there is nothing to choose between.
    let (Some(whole_peak), Some(masked_peak)) = (peak(logits), peak(&masked)) else {
        return draw(logits, config, uniform);
    };
    let temperature = config.temperature_of_logprobs();
    let rest = Distribution::new(&masked, masked[masked_peak], temperature);
    let token = pick_from(&rest, masked_peak, config, uniform);
    let whole = Distribution::new(logits, logits[whole_peak], temperature);
    (token_id(token), whole.logprob(token))
}

/// The token that `uniform` picks after the filters; the distribution's most likely token is `peak`.
fn pick_from(distribution: &Distribution<'_>, peak: usize, config: &SamplingConfig, uniform: f64) -> usize {
    let filtered = (config.top_k != 0 && config.top_k < distribution.logits.len()) || config.top_p < 1.0;
    if config.temperature == 0.0 {
        peak
    } else if filtered {
        pick(&kept_tokens(distribution, config), uniform)
    } else {
        distribution.pick(uniform)
    }
}

/// The log-probability of one token and the entropy of the whole distribution, in nats, at a temperature
/// above 0. Both are NaN where [`draw`] gives NaN.
///
/// # Panics
/// When `token` has no logit or the temperature is not above 0.
pub fn logprob_and_entropy(logits: &[f32], temperature: f64, token: u32) -> (f32, f32) {
    assert!(temperature > 0.0, "log-probabilities need a temperature above 0, not {temperature}");
    assert!((token as usize) < logits.len(), "token {token} has none of the {} logits", logits.len());
    let Some(peak) = peak(logits) else { return (f32::NAN, f32::NAN) };
    let scaled = |logit: f32| (f64::from(logit) - f64::from(logits[peak])) / temperature;
    let (mut total, mut weighted) = (0.0, 0.0);
    for &logit in logits {
        let weight = scaled(logit).exp();
        total += weight;
        // A weight of 0 can belong to a logit of minus infinity, and 0 times infinity is NaN.
        if weight > 0.0 {
            weighted += weight * scaled(logit);
        }
    }
    let logprob = scaled(logits[token as usize]) - total.ln();
    // H = -sum p ln p with ln p = scaled - ln(total); rounding must not make it negative.
    let entropy = (total.ln() - weighted / total).max(0.0);
    (logprob as f32, entropy as f32)
}

/// A uniform number in `[0, 1)` with 53 random bits: the draw number `index` of the stream `key`.
///
/// The counter is hashed before it meets the key, so two keys that differ in a few bits do not give one
/// stream shifted against itself, and the result is hashed again.
pub fn uniform(key: u64, index: u64) -> f64 {
    let bits = mix(key ^ mix(index.wrapping_add(GOLDEN)));
    (bits >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// The key of a stream from the numbers that name it, in order: (a, b), (b, a) and (a, b, 0) differ.
pub fn key(parts: &[u64]) -> u64 {
    let start = mix(GOLDEN.wrapping_add(parts.len() as u64));
    parts.iter().fold(start, |state, &part| mix(state ^ mix(part.wrapping_add(GOLDEN))).wrapping_add(GOLDEN))
}

/// The odd integer nearest to 2^64 divided by the golden ratio, the increment of splitmix64. The crate `trajectory`
/// has this generator for everything that is not a tensor; this crate depends on no other, so it has its own.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of splitmix64 (Steele, Lea, Flood 2014, with Stafford's variant 13): a bijection
/// of 64 bits in which every input bit reaches every output bit.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Where the largest logit stands, the first one of equals; `None` where there is no distribution.
fn peak(logits: &[f32]) -> Option<usize> {
    let (largest, bounded) = simd::vectorized(
        #[inline(always)]
        || {
            // Without a branch, so that it takes one instruction for many logits.
            let unbounded = logits
                .iter()
                .fold(0_u32, |bad, &logit| bad | u32::from(logit.is_nan() | (logit == f32::INFINITY)));
            (simd::max(logits), unbounded == 0)
        },
    );
    if !bounded || largest == f32::NEG_INFINITY {
        return None;
    }
    logits.iter().position(|&logit| logit == largest)
}

/// Tokens whose weights are summed together, so that a draw looks for its token in one block.
const BLOCK: usize = 256;

/// A distribution at a temperature. Weights are probabilities up to one common factor; the largest is 1.
struct Distribution<'a> {
    logits: &'a [f32],
    largest: f32,
    temperature: f64,
    /// Sum of the weights of each block of tokens.
    sums: Vec<f64>,
    total: f64,
}

impl<'a> Distribution<'a> {
    fn new(logits: &'a [f32], largest: f32, temperature: f64) -> Self {
        let mut distribution = Self { logits, largest, temperature, sums: Vec::new(), total: 0.0 };
        distribution.sums = logits.chunks(BLOCK).map(|block| distribution.sum(block)).collect();
        distribution.total = distribution.sums.iter().sum();
        distribution
    }

    /// A logit's distance from the largest over the temperature.
    fn scaled(&self, token: usize) -> f64 {
        (f64::from(self.logits[token]) - f64::from(self.largest)) / self.temperature
    }

    fn logprob(&self, token: usize) -> f32 {
        (self.scaled(token) - self.total.ln()) as f32
    }

    fn weights(&self, block: &[f32]) -> [f32; BLOCK] {
        let mut weights = [0.0; BLOCK];
        // A temperature near 0 has no inverse in f32, and 0 times infinity is NaN.
        let (largest, inverse) = (self.largest, (1.0 / self.temperature).min(f64::from(f32::MAX)) as f32);
        simd::vectorized(
            #[inline(always)]
            || {
                for (weight, logit) in weights.iter_mut().zip(block) {
                    *weight = simd::exp((logit - largest) * inverse);
                }
            },
        );
        weights
    }

    fn sum(&self, block: &[f32]) -> f64 {
        let weights = self.weights(block);
        f64::from(simd::vectorized(
            #[inline(always)]
            || simd::sum(&weights),
        ))
    }

    /// The inverse of the cumulative distribution over all tokens, in their order.
    fn pick(&self, uniform: f64) -> usize {
        let target = uniform * self.total;
        let (mut cumulative, mut found) = (0.0, 0);
        for (block, &sum) in self.sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
            found = block;
            if cumulative + sum > target {
                break;
            }
            cumulative += sum;
        }
        // The product above may round up to the total itself, and then the last token is the right one.
        let first = found * BLOCK;
        let block = &self.logits[first..self.logits.len().min(first + BLOCK)];
        let mut token = first;
        for (place, weight) in self.weights(block).into_iter().enumerate().filter(|(_, weight)| *weight > 0.0)
        {
            token = first + place;
            cumulative += f64::from(weight);
            if cumulative > target {
                break;
            }
        }
        token
    }
}

/// A token that passed the filters and its weight.
type Kept = (usize, f64);

/// The inverse of the cumulative distribution over `tokens`, in their order.
fn pick(tokens: &[Kept], uniform: f64) -> usize {
    let total: f64 = tokens.iter().map(|(_, weight)| weight).sum();
    let mut cumulative = 0.0;
    let mut last = None;
    for (token, weight) in tokens.iter().filter(|(_, weight)| *weight > 0.0) {
        cumulative += weight;
        last = Some(*token);
        if cumulative > uniform * total {
            break;
        }
    }
    // The product above may round up to the total itself, and then the last token is the right one.
    last.expect("the most likely token is always kept and has weight 1")
}

/// The tokens that pass `top_k` and `top_p`, in ascending order.
fn kept_tokens(distribution: &Distribution<'_>, config: &SamplingConfig) -> Vec<Kept> {
    let logits = distribution.logits;
    let cut = config.top_k != 0 && config.top_k < logits.len();
    let mut tokens: Vec<usize> =
        if cut { (0..logits.len()).collect() } else { candidates(distribution, config) };
    if cut {
        tokens.select_nth_unstable_by(config.top_k - 1, by_likelihood(logits));
        tokens.truncate(config.top_k);
        tokens.sort_unstable();
    }
    let mut kept: Vec<Kept> =
        tokens.into_iter().map(|token| (token, distribution.scaled(token).exp())).collect();
    if config.top_p < 1.0 {
        let total = if cut { kept.iter().map(|(_, weight)| weight).sum() } else { distribution.total };
        keep_nucleus(&mut kept, logits, config.top_p * total);
        kept.sort_unstable_by_key(|(token, _)| *token);
    }
    kept
}

/// The tokens that can be in the nucleus: all that weigh less than the share of one token in the mass outside
/// of it are outside together. Half of that share leaves room for rounding.
fn candidates(distribution: &Distribution<'_>, config: &SamplingConfig) -> Vec<usize> {
    let logits = distribution.logits;
    let share = 0.5 * (1.0 - config.top_p) * distribution.total / logits.len() as f64;
    let least = f64::from(distribution.largest) + distribution.temperature * share.ln();
    (0..logits.len()).filter(|&token| f64::from(logits[token]) >= least).collect()
}

/// Shortens `kept` to its smallest set of most likely tokens with at least the mass `target`.
///
/// Only the front is ever sorted: the best 64 first, because that is mostly enough, then four times as
/// many of the rest and so on.
fn keep_nucleus(kept: &mut Vec<Kept>, logits: &[f32], target: f64) {
    let by_likelihood = |(left, _): &Kept, (right, _): &Kept| by_likelihood(logits)(left, right);
    let (mut mass, mut sorted, mut width) = (0.0, 0, 64);
    while sorted < kept.len() {
        let rest = &mut kept[sorted..];
        let taken = rest.len().min(width);
        if taken < rest.len() {
            rest.select_nth_unstable_by(taken - 1, by_likelihood);
        }
        rest[..taken].sort_unstable_by(by_likelihood);
        for position in sorted..sorted + taken {
            mass += kept[position].1;
            if mass >= target {
                kept.truncate(position + 1);
                return;
            }
        }
        sorted += taken;
        width *= 4;
    }
}

/// The more likely token first, of equals the smaller id.
fn by_likelihood(logits: &[f32]) -> impl Fn(&usize, &usize) -> Ordering {
    |&left, &right| logits[right].total_cmp(&logits[left]).then(left.cmp(&right))
}

fn token_id(position: usize) -> u32 {
    u32::try_from(position).expect("a vocabulary has fewer than 2^32 tokens")
}

#[cfg(test)]
mod tests;
