//! Whether two models differ on the same prompts: tests on the difference at each prompt, so that how hard the prompts
//! are does not matter.

use trajectory::random::{Random, key_of};

/// Differences up to this number are tested over all choices of signs; more have too many.
const EXACT_MAX: usize = 14;

/// Random choices of signs where there are too many for all.
const RANDOM_SIGNS: usize = 20_000;

/// Keeps the draws of signs apart from others of the same seed.
const SIGN_STREAM: u64 = 0x7369_676E;

/// McNemar's exact test, two-sided: how likely it is that two equally good models are at least as far apart at the prompts
/// where one answer is right and the other wrong. `gained` are right in the second one only, `lost` in the first one only.
#[must_use]
pub fn mcnemar(gained: usize, lost: usize) -> f64 {
    let (fewer, all) = (gained.min(lost), gained + lost);
    // Each of the discordant prompts is a fair coin: C(all, i) / 2^all, in logarithms.
    let mut log_term = -(all as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for heads in 0..=fewer {
        tail += log_term.exp();
        log_term += ((all - heads) as f64 / (heads + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

/// The paired permutation test, two-sided: how likely a mean difference at least as large is where each prompt's
/// difference might as well have the other sign, as it might if the two models were the same one. Over all choices of signs
/// where there are few differences, else over random ones of the seed.
#[must_use]
pub fn permutation(differences: &[f64], seed: u64) -> f64 {
    // A difference of 0 has no sign.
    let differences: Vec<f64> = differences.iter().copied().filter(|difference| *difference != 0.0).collect();
    let found: f64 = differences.iter().sum::<f64>().abs();
    // What is equal but for the order of the sum counts as equal.
    let slack = 1e-9 * differences.iter().map(|difference| difference.abs()).sum::<f64>();
    let is_as_large = |sum: f64| sum.abs() >= found - slack;
    if differences.len() <= EXACT_MAX {
        let all = 1usize << differences.len();
        let signed = |signs: usize| -> f64 {
            let sign = |place: usize| if signs >> place & 1 == 1 { -1.0 } else { 1.0 };
            differences.iter().enumerate().map(|(place, difference)| sign(place) * difference).sum()
        };
        return (0..all).filter(|signs| is_as_large(signed(*signs))).count() as f64 / all as f64;
    }
    let mut random = Random::new(key_of(&[seed, SIGN_STREAM]));
    let mut as_large = 0;
    for _ in 0..RANDOM_SIGNS {
        let sign = |random: &mut Random| if random.below(2) == 1 { -1.0 } else { 1.0 };
        let sum = differences.iter().map(|difference| sign(&mut random) * difference).sum();
        as_large += usize::from(is_as_large(sum));
    }
    // What was found is one of the choices, so that no p-value is 0.
    (as_large + 1) as f64 / (RANDOM_SIGNS + 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    // By scipy.stats.binomtest(min, n, 0.5).pvalue.
    #[test]
    fn mcnemar_is_the_two_sided_binomial_test() {
        for (gained, lost, expected) in [
            (0, 0, 1.0),
            (1, 0, 1.0),
            (5, 5, 1.0),
            (8, 1, 0.039_062_5),
            (0, 10, 0.001_953_125),
            (30, 12, 0.007_915_897_334_896_727),
        ] {
            let found = mcnemar(gained, lost);
            assert!((found - expected).abs() < 1e-12, "{gained} {lost}: {found}");
            assert_eq!(found, mcnemar(lost, gained));
        }
        // 2^-5000 is no number of f64; the sum of such terms is.
        let close = mcnemar(2500, 2500);
        assert!((close - 1.0).abs() < 1e-9, "{close}");
        assert!(mcnemar(2400, 2600) < 0.01);
    }

    #[test]
    fn few_differences_are_tested_over_all_signs() {
        // Of the four sums of 1 and 2 two are as large as 3.
        assert_eq!(permutation(&[1.0, 0.0, 2.0], 0), 0.5);
        assert_eq!(permutation(&[1.0, -1.0], 0), 1.0);
        assert_eq!(permutation(&[0.25; 10], 0), 2.0 / 1024.0);
        assert_eq!(permutation(&[0.0, 0.0], 0), 1.0);
        assert_eq!(permutation(&[], 0), 1.0);
    }

    #[test]
    fn many_differences_agree_with_the_exact_test() {
        // All differences are 1 or -1, where the test is that of McNemar.
        let differences: Vec<f64> = (0..42).map(|prompt| if prompt < 30 { 1.0 } else { -1.0 }).collect();
        let (drawn, exact) = (permutation(&differences, 5), mcnemar(30, 12));
        assert!((drawn - exact).abs() < 0.002, "{drawn} and {exact}");
        assert_eq!(drawn, permutation(&differences, 5));
        assert!(permutation(&[1.0; 100], 5) > 0.0);
    }
}
