//! Countdown: an expression over exactly the given numbers that reaches the target; difficulty is how many numbers.
//!
//! `3,7,2=19:` is worked by trying the operations `+ - *` between the numbers as they stand, in the order of an
//! odometer, until one fits: `3+7+2=12;3+7-2=8;...;3*7-2=19;#3*7-2`. An answer may reorder the numbers and use
//! `+ - * / ( )`; it is parsed and calculated with exact fractions, never run.

use std::ops::RangeInclusive;

use super::{Extent, Rules, Working, is_digits};
use trajectory::random::Random;

pub(super) struct Countdown;

const OPERATIONS: [char; 3] = ['+', '-', '*'];

/// 8 numbers have 3^7 = 2187 lines of working; one more would triple that.
const NUMBERS_MAX: usize = 8;

/// Numbers are 1 to 9, targets 0 to this: products of eight numbers would make targets that give them away.
const TARGET_MAX: i128 = 999;

/// Draws of operations before the sum of all numbers is taken, which always fits.
const DRAWS_MAX: usize = 32;

/// A right answer with eight numbers has 15 characters without parentheses; this leaves room for idle ones and
/// bounds the work on hostile text.
const ANSWER_BYTES_MAX: usize = 256;

/// A prompt's numbers and target.
struct Puzzle {
    numbers: Vec<i128>,
    target: i128,
}

impl Puzzle {
    fn parse(prompt: &str) -> Option<Puzzle> {
        let (numbers, target) = prompt.strip_suffix(':')?.split_once('=')?;
        let numbers: Vec<i128> = numbers.split(',').map(parse_number).collect::<Option<_>>()?;
        (2..=NUMBERS_MAX)
            .contains(&numbers.len())
            .then_some(Puzzle { numbers, target: parse_number(target)? })
    }

    /// Line `index` of the working: its operations are the digits of `index` in base 3, the last place turning
    /// fastest.
    fn line(&self, mut index: usize) -> String {
        let mut operations = vec![OPERATIONS[0]; self.numbers.len() - 1];
        for operation in operations.iter_mut().rev() {
            *operation = OPERATIONS[index % OPERATIONS.len()];
            index /= OPERATIONS.len();
        }
        let mut text = self.numbers[0].to_string();
        for (operation, number) in operations.into_iter().zip(&self.numbers[1..]) {
            text.push(operation);
            text.push_str(&number.to_string());
        }
        text
    }

    fn lines(&self) -> usize {
        OPERATIONS.len().pow(self.numbers.len() as u32 - 1)
    }
}

/// A number of at most six digits; the task itself draws none above [`TARGET_MAX`].
fn parse_number(text: &str) -> Option<i128> {
    (is_digits(text) && text.len() <= 6).then(|| text.parse().ok())?
}

/// An exact fraction; the denominator is above 0.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Fraction {
    top: i128,
    bottom: i128,
}

impl Fraction {
    fn whole(top: i128) -> Self {
        Fraction { top, bottom: 1 }
    }

    /// `None` for a division by zero or a number beyond 128 bits.
    fn apply(self, operation: u8, other: Fraction) -> Option<Fraction> {
        let left = self.top.checked_mul(other.bottom)?;
        let right = other.top.checked_mul(self.bottom)?;
        let bottom = self.bottom.checked_mul(other.bottom)?;
        let (top, bottom) = match operation {
            b'+' => (left.checked_add(right)?, bottom),
            b'-' => (left.checked_sub(right)?, bottom),
            b'*' => (self.top.checked_mul(other.top)?, bottom),
            _ if right == 0 => return None,
            _ => (left.checked_mul(right.signum())?, right.checked_abs()?),
        };
        let common = greatest_common_divisor(top, bottom);
        Some(Fraction { top: top / common, bottom: bottom / common })
    }
}

fn greatest_common_divisor(left: i128, right: i128) -> i128 {
    let (mut left, mut right) = (left.unsigned_abs(), right.unsigned_abs());
    while right != 0 {
        (left, right) = (right, left % right);
    }
    i128::try_from(left.max(1)).unwrap_or(1)
}

/// What an expression is worth and which numbers it uses, in its order.
struct Evaluated {
    value: Fraction,
    numbers: Vec<i128>,
}

/// Two stacks (Dijkstra's shunting yard) instead of recursion, so that parentheses cannot exhaust the call stack.
#[derive(Default)]
struct Calculator {
    values: Vec<Fraction>,
    operations: Vec<u8>,
    numbers: Vec<i128>,
}

impl Calculator {
    /// Applies the waiting operations that bind at least as tightly as `precedence`.
    fn reduce(&mut self, precedence: u8) -> Option<()> {
        while let Some(&operation) = self.operations.last() {
            if operation == b'(' || precedence_of(operation) < precedence {
                break;
            }
            self.operations.pop();
            let (right, left) = (self.values.pop()?, self.values.pop()?);
            self.values.push(left.apply(operation, right)?);
        }
        Some(())
    }

    /// Takes the token at the start of `text` and gives the rest. `after_value` says whether a value just ended.
    fn take<'a>(&mut self, text: &'a str, after_value: &mut bool) -> Option<&'a str> {
        let first = *text.as_bytes().first()?;
        match (first, *after_value) {
            (b'0'..=b'9', false) => {
                let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
                let number = parse_number(&text[..end])?;
                self.numbers.push(number);
                self.values.push(Fraction::whole(number));
                *after_value = true;
                return Some(&text[end..]);
            }
            (b'(', false) => self.operations.push(b'('),
            (b')', true) => {
                self.reduce(0)?;
                // `reduce` stops at the innermost open parenthesis; without one the text is not balanced.
                self.operations.pop()?;
            }
            (b'+' | b'-' | b'*' | b'/', true) => {
                self.reduce(precedence_of(first))?;
                self.operations.push(first);
                *after_value = false;
            }
            _ => return None,
        }
        text.get(1..)
    }
}

fn precedence_of(operation: u8) -> u8 {
    if matches!(operation, b'*' | b'/') { 2 } else { 1 }
}

/// Calculates an expression of numbers, `+ - * /` and parentheses; `None` if it is anything else.
fn evaluate(text: &str) -> Option<Evaluated> {
    if text.len() > ANSWER_BYTES_MAX {
        return None;
    }
    let mut calculator = Calculator::default();
    let mut after_value = false;
    let mut rest = text;
    while !rest.is_empty() {
        rest = calculator.take(rest, &mut after_value)?;
    }
    calculator.reduce(0)?;
    let complete = after_value && calculator.operations.is_empty() && calculator.values.len() == 1;
    let value = complete.then(|| calculator.values.pop())??;
    Some(Evaluated { value, numbers: calculator.numbers })
}

impl Rules for Countdown {
    fn difficulties(&self) -> RangeInclusive<usize> {
        3..=NUMBERS_MAX
    }

    fn draw(&self, difficulty: usize, random: &mut Random) -> String {
        let numbers: Vec<i128> = (0..difficulty).map(|_| 1 + random.below(9) as i128).collect();
        let mut puzzle = Puzzle { target: numbers.iter().sum(), numbers };
        for _ in 0..DRAWS_MAX {
            let line = puzzle.line(random.below(puzzle.lines()));
            let value = evaluate(&line).map(|evaluated| evaluated.value.top);
            if let Some(target) = value.filter(|target| (0..=TARGET_MAX).contains(target)) {
                puzzle.target = target;
                break;
            }
        }
        let numbers: Vec<String> = puzzle.numbers.iter().map(i128::to_string).collect();
        format!("{}={}:", numbers.join(","), puzzle.target)
    }

    fn work(&self, prompt: &str) -> Option<Working> {
        let puzzle = Puzzle::parse(prompt)?;
        let mut steps = Vec::new();
        for line in (0..puzzle.lines()).map(|index| puzzle.line(index)) {
            let value = evaluate(&line)?.value;
            steps.push(format!("{line}={}", value.top));
            if value == Fraction::whole(puzzle.target) {
                return Some(Working { steps, answer: line });
            }
        }
        None
    }

    /// Gives a random line unseen.
    fn hurry(&self, prompt: &str, _right: Working, random: &mut Random) -> Working {
        let puzzle = Puzzle::parse(prompt).expect("a prompt that was worked is a puzzle");
        Working { steps: Vec::new(), answer: puzzle.line(random.below(puzzle.lines())) }
    }

    fn is_answer_form(&self, answer: &str) -> bool {
        evaluate(answer).is_some()
    }

    fn is_right(&self, prompt: &str, answer: &str) -> Option<bool> {
        let mut puzzle = Puzzle::parse(prompt)?;
        let Some(Evaluated { value, mut numbers }) = evaluate(answer) else { return Some(false) };
        numbers.sort_unstable();
        puzzle.numbers.sort_unstable();
        Some(numbers == puzzle.numbers && value == Fraction::whole(puzzle.target))
    }

    fn extent(&self, difficulty: usize) -> Extent {
        let steps = OPERATIONS.len().pow(difficulty as u32 - 1);
        let answer_characters = 2 * difficulty - 1;
        // A value is at most 9^difficulty, which has at most `difficulty` digits, and may carry a sign.
        let step_characters = steps * (answer_characters + 1 + difficulty + 1);
        Extent { steps, step_characters, answer_characters }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_the_hand_example() {
        let working = Countdown.work("3,7,2=19:").unwrap();
        let expected =
            ["3+7+2=12", "3+7-2=8", "3+7*2=17", "3-7+2=-2", "3-7-2=-6", "3-7*2=-11", "3*7+2=23", "3*7-2=19"];
        assert_eq!(working.steps, expected);
        assert_eq!(working.answer, "3*7-2");
    }

    #[test]
    fn calculates_with_precedence_parentheses_and_exact_fractions() {
        let value =
            |text: &str| evaluate(text).map(|evaluated| (evaluated.value.top, evaluated.value.bottom));
        assert_eq!(value("2+3*4"), Some((14, 1)));
        assert_eq!(value("(2+3)*4"), Some((20, 1)));
        assert_eq!(value("8-3-2"), Some((3, 1)));
        assert_eq!(value("1/3+1/6"), Some((1, 2)));
        assert_eq!(value("8/(3-8/3)"), Some((24, 1)));
        assert_eq!(value("1/(2-5)"), Some((-1, 3)));
        assert_eq!(value("((7))"), Some((7, 1)));
        for wrong in
            ["", "(", ")", "()", "1+", "+1", "-1", "1//2", "(1", "1)", "1 + 2", "2(3)", "1/0", "1/(2-2)"]
        {
            assert_eq!(value(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn accepts_any_expression_over_exactly_the_numbers() {
        for right in ["3*7-2", "7*3-2", "(7*3)-2", "(3*7-2)"] {
            assert_eq!(Countdown.is_right("3,7,2=19:", right), Some(true), "{right}");
        }
        for wrong in ["19", "3*7", "3*7-2+0", "3*7-1-1", "3+7+2", "", "3*7-2)", "37-2*9"] {
            assert_eq!(Countdown.is_right("3,7,2=19:", wrong), Some(false), "{wrong}");
        }
        assert_eq!(Countdown.is_right("3,7,2:", "3"), None);
    }

    #[test]
    fn numbers_beyond_128_bits_are_wrong_and_do_not_panic() {
        let nines = vec!["999999"; 30].join("*");
        assert!(evaluate(&nines).is_none());
        let quotients = vec!["1/999999"; 28].join("+");
        // 28/999999 in lowest terms: without them the 28th denominator would need 560 bits.
        assert_eq!(evaluate(&quotients).unwrap().value, Fraction { top: 4, bottom: 142_857 });
    }
}
