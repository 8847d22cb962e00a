//! Long addition of two numbers with equally many digits; difficulty is the number of digits.
//!
//! `482+977:` is worked from the last column to the first, `2+7+0=09;8+7+0=15;4+9+1=14;#1459`: the two digits, the
//! carry that comes in, then the carry that goes out and the column's digit.

use std::ops::RangeInclusive;

use super::{Extent, Rules, Working, is_digits};
use trajectory::random::Random;

pub(super) struct Addition;

/// 512 columns are 4600 characters of working.
const DIGITS_MAX: usize = 512;

/// The columns of a prompt from the last to the first.
fn columns(prompt: &str) -> Option<Vec<(u8, u8)>> {
    let (left, right) = prompt.strip_suffix(':')?.split_once('+')?;
    let fits = is_digits(left) && is_digits(right) && left.len() == right.len() && left.len() <= DIGITS_MAX;
    let digits = |text: &str| text.bytes().rev().map(|byte| byte - b'0').collect::<Vec<u8>>();
    fits.then(|| digits(left).into_iter().zip(digits(right)).collect())
}

/// Writes the digits of a sum, the last column first, as a number without leading zeros.
fn written(columns_reversed: impl DoubleEndedIterator<Item = u8>) -> String {
    let digits: String = columns_reversed.rev().map(|digit| char::from(b'0' + digit)).collect();
    match digits.trim_start_matches('0') {
        "" => "0".to_string(),
        trimmed => trimmed.to_string(),
    }
}

impl Rules for Addition {
    fn difficulties(&self) -> RangeInclusive<usize> {
        // Two-digit sums are the least of which there are hundreds.
        2..=DIGITS_MAX
    }

    fn draw(&self, difficulty: usize, random: &mut Random) -> String {
        let mut number = || -> String {
            (0..difficulty)
                .map(|place| if place == 0 { 1 + random.below(9) } else { random.below(10) })
                .map(|digit| digit.to_string())
                .collect()
        };
        format!("{}+{}:", number(), number())
    }

    fn work(&self, prompt: &str) -> Option<Working> {
        let mut carry = 0;
        let mut steps = Vec::new();
        let mut sum = Vec::new();
        for (left, right) in columns(prompt)? {
            let column = left + right + carry;
            steps.push(format!("{left}+{right}+{carry}={column:02}"));
            sum.push(column % 10);
            carry = column / 10;
        }
        sum.push(carry);
        Some(Working { steps, answer: written(sum.into_iter()) })
    }

    /// Adds every column by itself and forgets the carries.
    fn hurry(&self, prompt: &str, _right: Working, _random: &mut Random) -> Working {
        let pairs = columns(prompt).expect("a prompt that was worked has columns");
        let answer = written(pairs.into_iter().map(|(left, right)| (left + right) % 10));
        Working { steps: Vec::new(), answer }
    }

    fn is_answer_form(&self, answer: &str) -> bool {
        is_digits(answer) && (answer == "0" || !answer.starts_with('0'))
    }

    fn extent(&self, difficulty: usize) -> Extent {
        Extent { steps: difficulty, step_characters: 8 * difficulty, answer_characters: difficulty + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_the_hand_example() {
        let working = Addition.work("482+977:").unwrap();
        assert_eq!(working.steps, ["2+7+0=09", "8+7+0=15", "4+9+1=14"]);
        assert_eq!(working.answer, "1459");
    }

    #[test]
    fn agrees_with_the_processor() {
        for index in 0..200 {
            let prompt = Addition.draw(2 + index % 17, &mut Random::new(index as u64));
            let (left, right) = prompt.trim_end_matches(':').split_once('+').unwrap();
            let sum = left.parse::<u64>().unwrap() + right.parse::<u64>().unwrap();
            assert_eq!(Addition.work(&prompt).unwrap().answer, sum.to_string());
        }
    }

    #[test]
    fn a_hasty_sum_forgets_the_carries() {
        let right = Addition.work("482+977:").unwrap();
        assert_eq!(Addition.hurry("482+977:", right, &mut Random::new(0)).answer, "359");
        let right = Addition.work("55+55:").unwrap();
        assert_eq!(Addition.hurry("55+55:", right, &mut Random::new(0)).answer, "0");
    }

    #[test]
    fn refuses_what_is_not_a_sum() {
        for prompt in ["", ":", "+:", "1+:", "1+2", "12+3:", "1+2+3:", "1-2:", "a+b:"] {
            assert!(Addition.work(prompt).is_none(), "{prompt}");
        }
        assert!(!Addition.is_answer_form("012"));
        assert!(!Addition.is_answer_form(""));
    }
}
