//! What answers to a sample of prompts say about all prompts: unbiased pass@k, majority votes, and how far a mean over
//! prompts may be from the one that was asked for. Pure functions: the same numbers and seed give the same result.

pub mod paired;

use serde::{Deserialize, Serialize};
use trajectory::random::{Random, key_of};

/// Resamples of a bootstrap: the ends of a 95 % interval then stand on 50 means each.
const RESAMPLES: usize = 2000;

/// What lies outside of an interval on each side.
const TAIL: f64 = 0.025;

/// Keeps the draws of resamples apart from others of the same seed.
const BOOTSTRAP_STREAM: u64 = 0x0062_6F6F_7473_7472;

/// A mean over prompts, and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// Its standard error: the deviation over prompts (n - 1) by the root of their number; absent for one prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
    /// The ends of its 95 % interval, by the bootstrap over prompts.
    pub interval: [f64; 2],
}

/// The means of several quantities over the same prompts. Prompts are drawn again, not answers: the answers to one prompt
/// are alike, so that they count as one observation. All quantities share the draws.
///
/// # Panics
/// If there are no prompts, or the quantities have different numbers of them.
#[must_use]
pub fn estimates(quantities: &[Vec<f64>], seed: u64) -> Vec<Estimate> {
    let Some(prompts) = quantities.first().map(Vec::len) else { return Vec::new() };
    assert!(prompts > 0, "a mean over no prompts");
    assert!(quantities.iter().all(|values| values.len() == prompts), "each prompt has a value");
    let mut random = Random::new(key_of(&[seed, BOOTSTRAP_STREAM]));
    let mut resampled = vec![Vec::with_capacity(RESAMPLES); quantities.len()];
    for _ in 0..RESAMPLES {
        let mut sums = vec![0.0; quantities.len()];
        for _ in 0..prompts {
            let drawn = random.below(prompts);
            for (sum, values) in sums.iter_mut().zip(quantities) {
                *sum += values[drawn];
            }
        }
        for (means, sum) in resampled.iter_mut().zip(sums) {
            means.push(sum / prompts as f64);
        }
    }
    let found = quantities.iter().zip(resampled).map(|(values, mut means)| {
        means.sort_by(f64::total_cmp);
        Estimate {
            value: mean(values),
            standard_error: standard_error(values),
            interval: [quantile(&means, TAIL), quantile(&means, 1.0 - TAIL)],
        }
    });
    found.collect()
}

/// The mean of some numbers; 0 of none.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    // A sum of nothing is -0.0.
    values.iter().fold(0.0, |sum, value| sum + value) / values.len().max(1) as f64
}

fn standard_error(values: &[f64]) -> Option<f64> {
    let (mean, count) = (mean(values), values.len() as f64);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt())
}

/// The number below which this share of sorted numbers lies, between two of them in proportion.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// The chance that at least one of `k` answers is right, drawn without replacement from `answers` of which `right` are:
/// the unbiased estimate of pass@k (Chen et al. 2021, arXiv 2107.03374), 1 - C(n-c, k) / C(n, k), as a product so that no
/// binomial is too large a number.
///
/// # Panics
/// If more answers are asked for than there are.
#[must_use]
pub fn pass_at_k(answers: usize, right: usize, k: usize) -> f64 {
    assert!(k <= answers && right <= answers, "{k} of {answers} answers, {right} of them right");
    let wrong = answers - right;
    if wrong < k {
        return 1.0;
    }
    1.0 - (wrong + 1..=answers).map(|place| 1.0 - k as f64 / place as f64).product::<f64>()
}

/// 1, 2, 4 and so on below a number of answers, and that number.
#[must_use]
pub fn doublings(answers: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1), |k: &usize| k.checked_mul(2));
    powers.take_while(|k| *k < answers).chain([answers]).collect()
}

/// The answer with the most votes: the place of its first vote. Votes for the same answer by `is_same` are counted together,
/// each with the first that it equals; of answers with equally many votes the one that was given first wins. `None` without
/// a vote.
#[must_use]
pub fn majority(votes: &[Option<&str>], is_same: impl Fn(&str, &str) -> bool) -> Option<usize> {
    let mut counted: Vec<(usize, usize)> = Vec::new();
    for (place, vote) in votes.iter().enumerate() {
        let Some(vote) = vote else { continue };
        let known =
            counted.iter_mut().find(|(first, _)| votes[*first].is_some_and(|first| is_same(first, vote)));
        match known {
            Some((_, count)) => *count += 1,
            None => counted.push((place, 1)),
        }
    }
    let most = counted.iter().map(|(_, count)| *count).max()?;
    counted.iter().find(|(_, count)| *count == most).map(|(first, _)| *first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All subsets of `k` answers, by hand.
    fn pass_by_counting(answers: usize, right: usize, k: usize) -> f64 {
        let subsets = (0u32..1 << answers).filter(|subset| subset.count_ones() as usize == k);
        let (mut all, mut solved) = (0, 0);
        for subset in subsets {
            all += 1;
            // The first answers are the right ones.
            solved += usize::from(subset & ((1 << right) - 1) != 0);
        }
        f64::from(solved as u32) / f64::from(all)
    }

    #[test]
    fn pass_at_k_is_the_share_of_subsets_with_a_right_answer() {
        for answers in 1..=8 {
            for right in 0..=answers {
                for k in 1..=answers {
                    let (found, counted) =
                        (pass_at_k(answers, right, k), pass_by_counting(answers, right, k));
                    assert!((found - counted).abs() < 1e-12, "{answers} {right} {k}: {found} and {counted}");
                }
            }
        }
        // Binomials of such numbers have hundreds of digits.
        assert!((pass_at_k(4096, 1, 2048) - 0.5).abs() < 1e-12);
        assert_eq!((pass_at_k(10, 0, 10), pass_at_k(10, 10, 1)), (0.0, 1.0));
    }

    #[test]
    fn each_k_is_twice_the_one_before_and_the_last_is_all() {
        assert_eq!(doublings(1), [1]);
        assert_eq!(doublings(8), [1, 2, 4, 8]);
        assert_eq!(doublings(6), [1, 2, 4, 6]);
    }

    #[test]
    fn equal_answers_vote_together_and_the_first_of_equals_wins() {
        let same = |one: &str, other: &str| one.trim_start_matches('0') == other.trim_start_matches('0');
        let votes = |texts: &[&'static str]| -> Vec<Option<&'static str>> {
            texts.iter().map(|text| (!text.is_empty()).then_some(*text)).collect()
        };
        assert_eq!(majority(&votes(&["7", "5", "05", "", "7", "005"]), same), Some(1));
        assert_eq!(majority(&votes(&["7", "5", "5", "7"]), same), Some(0));
        assert_eq!(majority(&votes(&["", "5"]), same), Some(1));
        assert_eq!(majority(&votes(&["", ""]), same), None);
        assert_eq!(majority(&[], same), None);
    }

    #[test]
    fn an_interval_is_about_two_standard_errors_wide_and_repeats() {
        // 400 prompts of which 100 are right: a standard error of 0.0217.
        let values: Vec<f64> = (0..400).map(|prompt| f64::from(u8::from(prompt % 4 == 0))).collect();
        let [estimate] = estimates(std::slice::from_ref(&values), 3)[..] else { panic!("one quantity") };
        assert_eq!(estimate.value, 0.25);
        assert!((estimate.standard_error.unwrap() - 0.021_678).abs() < 1e-6, "{estimate:?}");
        let [low, high] = estimate.interval;
        assert!((low - 0.2075).abs() < 0.008 && (high - 0.2925).abs() < 0.008, "{estimate:?}");
        let opposite: Vec<f64> = values.iter().map(|value| 1.0 - value).collect();
        let both = estimates(&[values, opposite], 3);
        assert_eq!(both[0], estimate, "the draws are shared, and those of one quantity alone");
        assert!((both[1].interval[0] - (1.0 - high)).abs() < 1e-12, "{both:?}");
    }

    #[test]
    fn one_prompt_has_no_standard_error() {
        let expected = Estimate { value: 0.5, standard_error: None, interval: [0.5, 0.5] };
        assert_eq!(estimates(&[vec![0.5]], 0), [expected]);
        assert_eq!(estimates(&[], 0), []);
    }
}
