//! Insertion sort of digits; difficulty is how many. The working grows with its square.
//!
//! `3141>` is worked as `3:3;1:13;4:134;1:1134;#1134`: the digit that is inserted, then the sorted part with it.

use std::ops::RangeInclusive;

use super::{Extent, Rules, Working, is_digits};
use trajectory::random::Random;

pub(super) struct Sorting;

/// 256 digits are 33 thousand characters of working.
const DIGITS_MAX: usize = 256;

fn digits_of(prompt: &str) -> Option<&str> {
    let digits = prompt.strip_suffix('>')?;
    (is_digits(digits) && digits.len() <= DIGITS_MAX).then_some(digits)
}

impl Rules for Sorting {
    fn difficulties(&self) -> RangeInclusive<usize> {
        // Three digits are the least of which there are a thousand lists.
        3..=DIGITS_MAX
    }

    fn draw(&self, difficulty: usize, random: &mut Random) -> String {
        let digits: String = (0..difficulty).map(|_| random.below(10).to_string()).collect();
        digits + ">"
    }

    fn work(&self, prompt: &str) -> Option<Working> {
        let mut sorted = String::new();
        let mut steps = Vec::new();
        for digit in digits_of(prompt)?.chars() {
            let place = sorted.find(|other| other > digit).unwrap_or(sorted.len());
            sorted.insert(place, digit);
            steps.push(format!("{digit}:{sorted}"));
        }
        Some(Working { steps, answer: sorted })
    }

    /// Inserts at most the first half and leaves the other digits as they came.
    fn hurry(&self, prompt: &str, mut right: Working, random: &mut Random) -> Working {
        let inserted = random.below(right.steps.len() / 2 + 1);
        right.steps.truncate(inserted);
        let sorted = right.steps.last().map_or("", |step| &step[2..]);
        let digits = digits_of(prompt).expect("a prompt that was worked is a list of digits");
        Working { answer: format!("{sorted}{}", &digits[inserted..]), ..right }
    }

    fn is_answer_form(&self, answer: &str) -> bool {
        is_digits(answer)
    }

    fn extent(&self, difficulty: usize) -> Extent {
        // Step i writes the digit, a colon and i digits.
        let step_characters = 2 * difficulty + difficulty * (difficulty + 1) / 2;
        Extent { steps: difficulty, step_characters, answer_characters: difficulty }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_the_hand_example() {
        let working = Sorting.work("3141>").unwrap();
        assert_eq!(working.steps, ["3:3", "1:13", "4:134", "1:1134"]);
        assert_eq!(working.answer, "1134");
    }

    #[test]
    fn agrees_with_the_library_sort() {
        for index in 0..100 {
            let prompt = Sorting.draw(3 + index % 20, &mut Random::new(index as u64));
            let mut expected: Vec<char> = prompt.trim_end_matches('>').chars().collect();
            expected.sort_unstable();
            assert_eq!(Sorting.work(&prompt).unwrap().answer, expected.into_iter().collect::<String>());
        }
    }

    #[test]
    fn refuses_what_is_not_a_list() {
        for prompt in ["", ">", "12", "1a>", "1 2>", "12>>"] {
            assert!(Sorting.work(prompt).is_none(), "{prompt}");
        }
    }
}
