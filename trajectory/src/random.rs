//! Randomness as pure functions of (seed, position): which thread asks first changes nothing, and problem 7 does
//! not depend on whether problem 6 was ever drawn. Drawing tokens from a key is the decoder's work and is not here:
//! `kernels` depends on no other crate and has its own generator.
//!
//! SplitMix64 (Steele, Lea and Flood, 2014): number i of a key is a bijective mix of `key + (i + 1) * GOLDEN`.

/// Keeps the keys of trajectories apart from those of shuffles under one seed.
const TRAJECTORY_STREAM: u64 = 1;
/// See [`TRAJECTORY_STREAM`].
const SHUFFLE_STREAM: u64 = 2;
/// See [`TRAJECTORY_STREAM`].
const LENGTH_STREAM: u64 = 3;
/// 2^64 divided by the golden ratio, odd, so that the counter visits every state.
pub const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
/// Four rounds make a Feistel network a pseudo-random permutation (Luby and Rackoff).
const FEISTEL_ROUNDS: u64 = 4;

/// The random key of member `member` of group `group`: token `i` of the trajectory draws from (key, `i`).
pub fn trajectory_key(seed: u64, group: u64, member: u32) -> u64 {
    key_of(&[seed, TRAJECTORY_STREAM, group, u64::from(member)])
}

/// The random number that says how long member `member` of group `group` gets, where a distribution says it.
pub fn length_fraction(seed: u64, group: u64, member: u32) -> f64 {
    fraction(&[seed, LENGTH_STREAM, group, u64::from(member)])
}

/// Where position `position` of epoch `epoch` lies in a list of `count` entries: a permutation for each
/// epoch.
pub fn shuffled(seed: u64, epoch: u64, position: u64, count: u64) -> u64 {
    permuted(key_of(&[seed, SHUFFLE_STREAM, epoch]), position, count)
}

/// A number from 0 to below 1 for these words.
pub fn fraction(words: &[u64]) -> f64 {
    unit(key_of(words))
}

/// Folds words into one key; the order of the words matters.
pub fn key_of(words: &[u64]) -> u64 {
    words.iter().fold(0, |key, &word| mix(key.wrapping_add(GOLDEN) ^ mix(word.wrapping_add(GOLDEN))))
}

/// Folds a text into one key.
pub fn key_of_text(text: &str) -> u64 {
    text.bytes().fold(GOLDEN, |key, byte| mix(key.wrapping_add(GOLDEN) ^ u64::from(byte)))
}

/// The random numbers of one key, in order.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The numbers of this key.
    pub fn new(key: u64) -> Self {
        Self { state: key }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in `0..limit`. The bias of the multiplication is under `limit / 2^64`.
    pub fn below(&mut self, limit: usize) -> usize {
        assert!(limit > 0, "a random number below {limit} does not exist");
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    /// Uniform in `[0, 1)`, with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        unit(self.next())
    }
}

/// A number from 0 to below 1 from the first 53 bits.
fn unit(word: u64) -> f64 {
    (word >> 11) as f64 / (1u64 << 53) as f64
}

/// The finaliser of SplitMix64: every input bit reaches every output bit.
pub fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// A Feistel network on the smallest even number of bits that holds `count`, applied until the value is in
/// range again ("cycle walking"), so no table is kept and any index can be asked for.
fn permuted(key: u64, index: u64, count: u64) -> u64 {
    assert!(index < count, "index {index} of {count}");
    let half_bits = (u64::BITS - (count - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half_bits) - 1;
    let mut value = index;
    loop {
        let (mut left, mut right) = (value >> half_bits, value & mask);
        for round in 0..FEISTEL_ROUNDS {
            (left, right) = (right, left ^ (key_of(&[key, round, right]) & mask));
        }
        value = left << half_bits | right;
        if value < count {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{prop_assert_eq, proptest};

    use super::{Random, key_of, key_of_text, shuffled, trajectory_key};

    proptest! {
        #[test]
        fn an_epoch_visits_every_entry_once(seed: u64, epoch in 0u64..5, count in 1u64..300) {
            let visited: BTreeSet<u64> = (0..count).map(|k| shuffled(seed, epoch, k, count)).collect();
            prop_assert_eq!(visited, (0..count).collect::<BTreeSet<u64>>());
        }
    }

    #[test]
    fn epochs_and_seeds_have_other_orders() {
        let order = |seed, epoch| (0..50).map(|k| shuffled(seed, epoch, k, 50)).collect::<Vec<_>>();
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        assert_ne!(order(1, 0), (0..50).collect::<Vec<_>>());
    }

    // Invariant 7: the key depends on seed, group and member, and on nothing else.
    #[test]
    fn keys_of_trajectories_differ_in_every_part() {
        let keys: BTreeSet<u64> = (0..4)
            .flat_map(|seed| {
                (0..16).flat_map(move |group| (0..16).map(move |m| trajectory_key(seed, group, m)))
            })
            .collect();
        assert_eq!(keys.len(), 4 * 16 * 16);
        assert_eq!(trajectory_key(7, 3, 1), trajectory_key(7, 3, 1));
    }

    /// The first outputs for the seed 1234567 as the reference implementation prints them.
    #[test]
    fn gives_the_reference_numbers_of_splitmix64() {
        let mut random = Random::new(1_234_567);
        let drawn: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn draws_every_digit_about_equally_often() {
        let mut random = Random::new(3);
        let mut counts = [0usize; 10];
        (0..10_000).for_each(|_| counts[random.below(10)] += 1);
        assert!(counts.iter().all(|&count| (880..1120).contains(&count)), "{counts:?}");
    }

    #[test]
    fn the_order_of_the_words_matters() {
        assert_ne!(key_of(&[1, 2]), key_of(&[2, 1]));
        assert_ne!(key_of(&[0]), key_of(&[0, 0]));
        assert_ne!(key_of_text("12"), key_of_text("21"));
    }
}
