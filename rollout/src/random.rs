//! Randomness as pure functions of (seed, position): which thread asks first changes nothing.
//! Drawing tokens from a key is the generator's work and is not here.

/// Keeps the keys of trajectories apart from those of shuffles under one seed.
const TRAJECTORY_STREAM: u64 = 1;
/// See [`TRAJECTORY_STREAM`].
const SHUFFLE_STREAM: u64 = 2;
/// See [`TRAJECTORY_STREAM`].
const LENGTH_STREAM: u64 = 3;
/// The golden-ratio increment of SplitMix64.
const INCREMENT: u64 = 0x9E37_79B9_7F4A_7C15;
/// Four rounds make a Feistel network a pseudo-random permutation (Luby and Rackoff).
const FEISTEL_ROUNDS: u64 = 4;

/// The random key of member `member` of group `group`: token `i` of the trajectory draws from (key, `i`).
pub fn trajectory_key(seed: u64, group: u64, member: u32) -> u64 {
    hash(&[seed, TRAJECTORY_STREAM, group, u64::from(member)])
}

/// The random number that says how long member `member` of group `group` gets, where a distribution says it.
pub(crate) fn length_fraction(seed: u64, group: u64, member: u32) -> f64 {
    fraction(&[seed, LENGTH_STREAM, group, u64::from(member)])
}

/// Where position `position` of epoch `epoch` lies in a list of `count` entries: a permutation for each
/// epoch.
pub(crate) fn shuffled(seed: u64, epoch: u64, position: u64, count: u64) -> u64 {
    permuted(hash(&[seed, SHUFFLE_STREAM, epoch]), position, count)
}

/// A number from 0 to below 1 for these words.
pub(crate) fn fraction(words: &[u64]) -> f64 {
    (hash(words) >> 11) as f64 / (1u64 << 53) as f64
}

fn hash(words: &[u64]) -> u64 {
    words.iter().fold(0, |state, word| mix(state.wrapping_add(INCREMENT) ^ mix(word.wrapping_add(INCREMENT))))
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
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
            (left, right) = (right, left ^ (hash(&[key, round, right]) & mask));
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

    use super::{shuffled, trajectory_key};

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
}
