//! A machine with one register that holds a digit. `4+3*2-5=` starts at 4 and applies the operations from left to
//! right, everything modulo 10; difficulty is the number of operations.
//!
//! The working `4+3=7;7*2=4;4-5=9;#9` copies the register, the next operation and its result in each step.

use std::ops::RangeInclusive;

use super::{Extent, Rules, Working};
use trajectory::random::Random;

pub(super) struct Machine;

const OPERATIONS: [u8; 3] = *b"+-*";

/// Longer programs exist only to fill an output limit; 1024 operations are 6 thousand characters of working.
const OPERATIONS_MAX: usize = 1024;

/// The register after one operation, or `None` for an unknown operation or an operand that is not a digit.
fn apply(register: u8, operation: u8, operand: u8) -> Option<u8> {
    let operand = operand.is_ascii_digit().then(|| operand - b'0')?;
    match operation {
        b'+' => Some((register + operand) % 10),
        b'-' => Some((register + 10 - operand) % 10),
        b'*' => Some((register * operand) % 10),
        _ => None,
    }
}

impl Rules for Machine {
    fn difficulties(&self) -> RangeInclusive<usize> {
        1..=OPERATIONS_MAX
    }

    fn draw(&self, difficulty: usize, random: &mut Random) -> String {
        let mut prompt = random.below(10).to_string();
        for _ in 0..difficulty {
            prompt.push(char::from(OPERATIONS[random.below(OPERATIONS.len())]));
            // No operand is 0: it would repeat the register or erase it, and then a guess would often be right.
            prompt.push_str(&(1 + random.below(9)).to_string());
        }
        prompt.push('=');
        prompt
    }

    fn work(&self, prompt: &str) -> Option<Working> {
        let (first, operations) = prompt.strip_suffix('=')?.as_bytes().split_first()?;
        let (pairs, rest) = operations.as_chunks::<2>();
        if !first.is_ascii_digit() || !rest.is_empty() || !(1..=OPERATIONS_MAX).contains(&pairs.len()) {
            return None;
        }
        let mut register = first - b'0';
        let mut steps = Vec::with_capacity(pairs.len());
        for &[operation, operand] in pairs {
            let next = apply(register, operation, operand)?;
            steps.push(format!("{register}{}{}={next}", char::from(operation), char::from(operand)));
            register = next;
        }
        Some(Working { steps, answer: register.to_string() })
    }

    /// Gives up after the first operation, with the register as it is there, or at once, with a random digit.
    fn hurry(&self, _prompt: &str, mut right: Working, random: &mut Random) -> Working {
        right.steps.truncate(random.below(2));
        let answer = match right.steps.last() {
            Some(step) => step[step.len() - 1..].to_string(),
            None => random.below(10).to_string(),
        };
        Working { answer, ..right }
    }

    fn is_answer_form(&self, answer: &str) -> bool {
        answer.len() == 1 && super::is_digits(answer)
    }

    fn extent(&self, difficulty: usize) -> Extent {
        Extent { steps: difficulty, step_characters: 5 * difficulty, answer_characters: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_the_hand_example() {
        let working = Machine.work("4+3*2-5+8*7=").unwrap();
        assert_eq!(working.steps, ["4+3=7", "7*2=4", "4-5=9", "9+8=7", "7*7=9"]);
        assert_eq!(working.answer, "9");
    }

    #[test]
    fn refuses_what_is_not_a_program() {
        for prompt in ["", "=", "4=", "4+=", "4+3", "4/3=", "4+x=", "+3=", "44+3=", "4+3*=", "4+é="] {
            assert!(Machine.work(prompt).is_none(), "{prompt}");
        }
    }

    #[test]
    fn takes_one_digit_as_an_answer() {
        assert!(Machine.is_answer_form("9"));
        for answer in ["", "10", "-1", "x", "٣"] {
            assert!(!Machine.is_answer_form(answer), "{answer}");
        }
    }
}
