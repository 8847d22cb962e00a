//! Draws against distributions and orders worked out otherwise.

use proptest::prelude::*;

use super::*;

/// The plain version: sorts everything, filters, normalises, walks. Also gives the final distribution.
fn slow_draw(logits: &[f32], config: &SamplingConfig, uniform: f64) -> (u32, f32, Vec<f64>) {
    let temperature = if config.temperature == 0.0 { 1.0 } else { config.temperature };
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let full: Vec<f64> =
        logits.iter().map(|&l| ((f64::from(l) - f64::from(largest)) / temperature).exp()).collect();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap().then(a.cmp(&b)));
    let mut kept = full.clone();
    if config.temperature == 0.0 {
        order[1..].iter().for_each(|&token| kept[token] = 0.0);
    } else {
        if config.top_k != 0 {
            order.iter().skip(config.top_k).for_each(|&token| kept[token] = 0.0);
        }
        let target = config.top_p * kept.iter().sum::<f64>();
        let mut mass = 0.0;
        for &token in &order {
            let enough = config.top_p < 1.0 && mass >= target;
            mass += kept[token];
            if enough {
                kept[token] = 0.0;
            }
        }
    }
    let total: f64 = kept.iter().sum();
    let mut cumulative = 0.0;
    let mut token = 0;
    for (candidate, &weight) in kept.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        token = candidate;
        cumulative += weight;
        if cumulative > uniform * total {
            break;
        }
    }
    let logprob = (full[token] / full.iter().sum::<f64>()).ln() as f32;
    (token as u32, logprob, kept.iter().map(|weight| weight / total).collect())
}

proptest! {
    #[test]
    fn equals_the_slow_version(
        // Few distinct values, so that ties happen, and widths beyond the first sorted front.
        levels in proptest::collection::vec(-12_i8..=12, 1..300),
        temperature in prop_oneof![Just(0.0), 0.3_f64..3.0],
        top_p in prop_oneof![Just(1.0), 0.01_f64..1.0],
        top_k in prop_oneof![Just(0_usize), 1_usize..320],
        uniform in 0.0_f64..1.0,
    ) {
        let logits: Vec<f32> = levels.iter().map(|&level| f32::from(level) * 0.37).collect();
        let config = SamplingConfig { temperature, top_p, top_k };
        let (token, logprob) = draw(&logits, &config, uniform);
        let (slow_token, slow_logprob, _) = slow_draw(&logits, &config, uniform);
        prop_assert_eq!(token, slow_token);
        prop_assert!((logprob - slow_logprob).abs() < 1e-5, "{} against {}", logprob, slow_logprob);
    }

    #[test]
    fn a_greater_number_never_draws_a_smaller_token(
        logits in proptest::collection::vec(-5.0_f32..5.0, 1..50),
        low in 0.0_f64..1.0, high in 0.0_f64..1.0,
    ) {
        let config = SamplingConfig { temperature: 0.8, top_p: 0.9, top_k: 20 };
        let (low, high) = if low < high { (low, high) } else { (high, low) };
        prop_assert!(draw(&logits, &config, low).0 <= draw(&logits, &config, high).0);
    }

    #[test]
    fn logprobs_sum_to_one_and_give_the_entropy(
        logits in proptest::collection::vec(-8.0_f32..8.0, 1..40), temperature in 0.2_f64..4.0,
    ) {
        let (mut mass, mut entropy) = (0.0, 0.0);
        for token in 0..logits.len() as u32 {
            let logprob = f64::from(logprob_and_entropy(&logits, temperature, token).0);
            mass += logprob.exp();
            entropy -= logprob.exp() * logprob;
        }
        prop_assert!((mass - 1.0).abs() < 1e-5);
        prop_assert!((f64::from(logprob_and_entropy(&logits, temperature, 0).1) - entropy).abs() < 1e-4);
    }
}

#[test]
fn draws_follow_the_filtered_distribution() {
    let logits = [0.3, -1.0, 2.0, 2.0, 0.0, -3.0, 1.1, 0.3, -0.2, 1.9];
    let configs = [
        SamplingConfig::at_temperature(1.0),
        SamplingConfig::at_temperature(1.7),
        SamplingConfig { temperature: 0.7, top_p: 1.0, top_k: 4 },
        SamplingConfig { temperature: 1.0, top_p: 0.8, top_k: 0 },
        SamplingConfig { temperature: 1.3, top_p: 0.9, top_k: 6 },
    ];
    const DRAWS: u64 = 50_000;
    for (number, config) in configs.iter().enumerate() {
        let stream = key(&[17, number as u64]);
        let mut counts = [0_u32; 10];
        for index in 0..DRAWS {
            counts[draw(&logits, config, uniform(stream, index)).0 as usize] += 1;
        }
        let (_, _, expected) = slow_draw(&logits, config, 0.5);
        let mut chi_square = 0.0;
        for (&count, &probability) in counts.iter().zip(&expected) {
            if probability == 0.0 {
                assert_eq!(count, 0, "a filtered token was drawn with {config:?}");
            } else {
                let mean = probability * DRAWS as f64;
                chi_square += (f64::from(count) - mean).powi(2) / mean;
            }
        }
        // Nine degrees of freedom exceed 33.7 once in ten thousand runs; the seeds are fixed.
        assert!(chi_square < 33.7, "chi-square {chi_square} with {config:?}: {counts:?}");
    }
}

#[test]
fn the_logprob_belongs_to_the_distribution_before_the_filters() {
    let logits = [0.0, (2.0_f32).ln(), (5.0_f32).ln()];
    let config = SamplingConfig { temperature: 1.0, top_p: 1.0, top_k: 1 };
    let (token, logprob) = draw(&logits, &config, 0.4);
    assert_eq!(token, 2);
    assert!((logprob - (5.0_f32 / 8.0).ln()).abs() < 1e-6);
    let hot = SamplingConfig { temperature: 2.0, top_p: 0.1, top_k: 0 };
    let (token, logprob) = draw(&logits, &hot, 0.999);
    assert_eq!(token, 2);
    let roots = [1.0, 2.0_f32.sqrt(), 5.0_f32.sqrt()];
    assert!((logprob - (roots[2] / roots.iter().sum::<f32>()).ln()).abs() < 1e-6);
}

#[test]
fn ties_go_to_the_smaller_id() {
    let logits = [1.0, 3.0, 3.0, 3.0];
    assert_eq!(draw(&logits, &SamplingConfig::GREEDY, 0.9).0, 1);
    let two = SamplingConfig { temperature: 1.0, top_p: 1.0, top_k: 2 };
    assert_eq!(draw(&logits, &two, 0.49).0, 1);
    assert_eq!(draw(&logits, &two, 0.51).0, 2);
    let half = SamplingConfig { temperature: 1.0, top_p: 0.5, top_k: 0 };
    assert_eq!(draw(&logits, &half, 0.999).0, 2);
}

#[test]
fn a_masked_token_is_never_drawn_and_extremes_stay_finite() {
    let logits = [f32::NEG_INFINITY, 5.0, f32::NEG_INFINITY, -1e30, f32::NEG_INFINITY];
    for config in
        [SamplingConfig::at_temperature(1.0), SamplingConfig { temperature: 1.0, top_p: 0.99, top_k: 4 }]
    {
        for uniform in [0.0, 0.5, 1.0 - f64::EPSILON / 2.0] {
            assert_eq!(draw(&logits, &config, uniform), (1, 0.0));
        }
    }
    assert_eq!(draw(&[1.0, 2.0], &SamplingConfig::at_temperature(1e-300), 0.7), (1, 0.0));
    assert_eq!(logprob_and_entropy(&logits, 1.0, 1), (0.0, 0.0));
}

// The token is drawn as if the excluded ones were not there; its log-prob is the one that a later pass finds.
#[test]
fn excluded_tokens_are_never_drawn_and_stay_in_the_logprob() {
    let logits = [4.0, 1.0, 3.0, -2.0, 2.5, 4.5];
    let excluded = [5, 0, 5, 99];
    let masked = [f32::NEG_INFINITY, 1.0, 3.0, -2.0, 2.5, f32::NEG_INFINITY];
    for config in [
        SamplingConfig::GREEDY,
        SamplingConfig::at_temperature(0.7),
        SamplingConfig { temperature: 1.3, top_p: 0.8, top_k: 3 },
        SamplingConfig { temperature: 1.0, top_p: 1.0, top_k: 1 },
    ] {
        let temperature = config.temperature_of_logprobs();
        for uniform in [0.0, 0.3, 0.6, 0.9, 0.999] {
            let (token, logprob) = draw_except(&logits, &excluded, &config, uniform);
            assert_eq!(token, draw(&masked, &config, uniform).0, "{config:?} at {uniform}");
            let expected = logprob_and_entropy(&logits, temperature, token).0;
            assert!((logprob - expected).abs() < 1e-6, "{logprob} for {expected}");
            assert_eq!(draw_except(&logits, &[], &config, uniform), draw(&logits, &config, uniform));
        }
    }
}

#[test]
fn excluding_every_token_excludes_none() {
    let config = SamplingConfig::at_temperature(1.0);
    let logits = [1.0, f32::NEG_INFINITY, 2.0];
    assert_eq!(draw_except(&logits, &[0, 2], &config, 0.1), draw(&logits, &config, 0.1));
    assert_eq!(draw_except(&[1.0, f32::NAN], &[1], &config, 0.1).0, 0);
    assert!(draw_except(&[1.0, f32::NAN], &[1], &config, 0.1).1.is_nan(), "an excluded NaN is still told");
}

#[test]
fn logits_without_a_distribution_give_nan() {
    for logits in [[0.0, f32::NAN], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
        for config in [SamplingConfig::GREEDY, SamplingConfig { temperature: 1.0, top_p: 0.9, top_k: 1 }] {
            let (token, logprob) = draw(&logits, &config, 0.3);
            assert_eq!(token, 0);
            assert!(logprob.is_nan());
        }
    }
}

#[test]
fn settings_out_of_range_name_their_key() {
    let bad = SamplingConfig { temperature: -1.0, top_p: 1.0, top_k: 0 };
    assert!(bad.check().unwrap_err().to_string().contains("`temperature`"));
    let bad = SamplingConfig { temperature: 1.0, top_p: 0.0, top_k: 0 };
    assert!(bad.check().unwrap_err().to_string().contains("`top_p`"));
    assert!(SamplingConfig { temperature: f64::NAN, top_p: 1.0, top_k: 0 }.check().is_err());
    assert!(SamplingConfig::GREEDY.check().is_ok());
}

#[test]
fn random_numbers_are_uniform_and_streams_are_independent() {
    const COUNT: u64 = 100_000;
    let (left, right) = (key(&[1, 2]), key(&[1, 3]));
    let (mut mean, mut square, mut between, mut neighbours) = (0.0, 0.0, 0.0, 0.0);
    for index in 0..COUNT {
        let number = uniform(left, index);
        assert!((0.0..1.0).contains(&number));
        mean += number;
        square += number * number;
        between += (number - 0.5) * (uniform(right, index) - 0.5);
        neighbours += (number - 0.5) * (uniform(left, index + 1) - 0.5);
    }
    let count = COUNT as f64;
    // The standard errors are 0.0009, 0.0009, 0.0003 and 0.0003.
    assert!((mean / count - 0.5).abs() < 0.004);
    assert!((square / count - 1.0 / 3.0).abs() < 0.004);
    assert!((between / count).abs() < 0.0012);
    assert!((neighbours / count).abs() < 0.0012);
}

#[test]
fn keys_tell_order_and_length_apart() {
    let keys = [key(&[]), key(&[0]), key(&[0, 0]), key(&[1, 2]), key(&[2, 1]), key(&[1, 2, 0])];
    for (number, left) in keys.iter().enumerate() {
        assert!(keys[..number].iter().all(|right| left != right));
    }
}

#[test]
fn random_numbers_stay_what_they_were() {
    // A change here would silently change every seeded run. The numbers come from a second
    // implementation, in Python's integers.
    assert_eq!(mix(GOLDEN), 0xe220_a839_7b1d_cdaf); // The first output of splitmix64 with seed 0.
    assert_eq!(key(&[7, 11]), 0x63cc_dc23_37dd_d7ad);
    assert_eq!(uniform(5, 3), 0.5918830552016149);
}
