//! Counter-based random numbers for the tasks: problem 7 does not depend on whether problem 6 was ever drawn.
//!
//! SplitMix64 (Steele, Lea and Flood, 2014): number i of a key is a bijective mix of `key + (i + 1) * GOLDEN`.

/// 2^64 divided by the golden ratio, odd, so that the counter visits every state.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of SplitMix64: every input bit reaches every output bit.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// Folds words into one key; the order of the words matters.
pub(crate) fn key_of(words: &[u64]) -> u64 {
    words.iter().fold(0, |key, &word| mix(key.wrapping_add(GOLDEN) ^ mix(word.wrapping_add(GOLDEN))))
}

/// Folds a text into one key.
pub(crate) fn key_of_text(text: &str) -> u64 {
    text.bytes().fold(GOLDEN, |key, byte| mix(key.wrapping_add(GOLDEN) ^ u64::from(byte)))
}

/// The random numbers of one key, in order.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(key: u64) -> Self {
        Random { state: key }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in `0..limit`. The bias of the multiplication is under `limit / 2^64`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        assert!(limit > 0, "a random number below {limit} does not exist");
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    /// Uniform in `[0, 1)`, with 53 bits.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
