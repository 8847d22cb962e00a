//! Numbers as they are written: thousands, decimals, repeating digits, exponents and bases.

use super::{Lexer, Token, Unreadable};
use crate::latex::expression::Number;
use crate::latex::label::{has_leading_zero, label_key, label_length};
use crate::latex::ratio::Ratio;

/// A decimal exponent beyond this is no answer; it bounds the digits of `1e9999`.
const EXPONENT_MAX: i64 = 9999;

/// Digits that repeat in a decimal. The period of 1/97 has 96.
const PERIOD_MAX: usize = 96;

/// Digits of a number in a base above ten.
const BASED_DIGITS_MAX: usize = 64;

impl Lexer<'_> {
    /// A decimal number with its thousands, repeating digits and exponent.
    pub(super) fn number(&mut self) -> Result<(), Unreadable> {
        if let Some(length) = self.label() {
            self.tokens.push(Token::Word(label_key(&self.rest()[..length])));
            self.at += length;
            return Ok(());
        }
        let mut digits = String::new();
        let mut end = self.at + digit_count(self.rest());
        digits.push_str(&self.text[self.at..end]);
        if (1..=3).contains(&digits.len()) && !digits.starts_with('0') {
            while let Some(gap) = thousands_gap(&self.text[end..], self.thousands) {
                digits.push_str(&self.text[end + gap..end + gap + 3]);
                end += gap + 3;
            }
        }
        let (mut places, mut point, mut repeating) = (0, false, 0);
        if let Some(part) = self.text[end..].strip_prefix('.') {
            places = digit_count(part);
            let after = &part[places..];
            let repeated = repeated_digits(after, places == 0 || digits == "0");
            if places > 0 || repeated.is_some() || !after.starts_with('.') {
                point = places > 0 || repeated.is_some();
                // The full stop of a sentence.
                self.loose |= !point;
                digits.push_str(&part[..places]);
                end += 1 + places;
            }
            if let Some((block, length)) = repeated {
                digits.push_str(&block);
                repeating = block.len();
                end += length;
            } else if let Some(length) = dots(after).filter(|_| places > 0) {
                // `0.1666...` goes on as it began; `3.14159...` is cut off, which decimals may be.
                match period(&part[..places]) {
                    Some(period) => {
                        repeating = period;
                        places -= period;
                        end += length;
                    }
                    None if places > 3 => end += length,
                    None => {}
                }
            }
        }
        let (exponent, length) = exponent(&self.text[end..]);
        self.at = end + length;
        let token = match repeating {
            0 => number(&digits, places, exponent, point)?,
            _ => repeating_number(&digits, places.min(digits.len() - repeating), repeating)?,
        };
        self.tokens.push(Token::Number(token));
        Ok(())
    }

    /// The length of a date or another label that stands here as a part of its own. One without leading zeros is a
    /// calculation inside of brackets and beside operators and relations.
    fn label(&self) -> Option<usize> {
        let length = label_length(self.rest())?;
        let behind = self.rest()[length..].trim_start_matches([' ', '~', '$']);
        let ends = behind.is_empty()
            || behind.starts_with(|next: char| next.is_alphabetic() || ",;.)]}\\".contains(next));
        let has_zero = has_leading_zero(&self.rest()[..length]);
        let begins = match self.tokens.last() {
            None | Some(Token::Word(_) | Token::And | Token::Or | Token::Sign(',' | ';' | ':' | '\n')) => {
                true
            }
            Some(Token::Relation(_) | Token::Sign('(' | '[' | '{' | '⦃')) => has_zero,
            _ => false,
        };
        let depth =
            || self.tokens.iter().filter(|token| matches!(token, Token::Sign('(' | '[' | '{' | '⦃'))).count();
        let closed =
            || self.tokens.iter().filter(|token| matches!(token, Token::Sign(')' | ']' | '}' | '⦄'))).count();
        (begins && ends && (has_zero || depth() <= closed())).then_some(length)
    }

    /// Steps over digits with letters among them whose base is written behind, `2A_{16}`, and gives their length.
    pub(super) fn based_number(&mut self) -> Option<usize> {
        let rest = self.rest();
        let is_digit = |byte: &u8| byte.is_ascii_digit() || byte.is_ascii_uppercase();
        let length = rest.bytes().take(BASED_DIGITS_MAX + 1).take_while(is_digit).count();
        let behind = rest[length..].strip_prefix('_')?;
        let has_letter = rest[..length].bytes().any(|byte| byte.is_ascii_uppercase());
        // `A_{12}` is a name.
        if !has_letter || !(2..=BASED_DIGITS_MAX).contains(&length) {
            return None;
        }
        let inner = behind.strip_prefix('{').unwrap_or(behind);
        let count = digit_count(inner);
        let base: u32 = inner[..count.min(3)].parse().ok().filter(|base| (11..=36).contains(base))?;
        let after =
            if behind.len() > inner.len() { inner[count..].strip_prefix('}')? } else { &inner[count..] };
        Ratio::in_base(&rest[..length], base)?;
        self.tokens.push(Token::Based(rest[..length].to_string(), base));
        Some(rest.len() - after.len())
    }
}

fn digit_count(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// The length of what separates thousands, if exactly three digits follow it.
fn thousands_gap(text: &str, comma: bool) -> Option<usize> {
    const GAPS: [&str; 7] = ["{,}", r"{,}\!", r",\!", r"\,", r"\ ", r"\;", "~"];
    let joined = if comma { [",", " ", r",\! "] } else { [" ", " ", " "] };
    let gap = GAPS.iter().chain(&joined).filter(|gap| text.starts_with(**gap)).map(|gap| gap.len()).max()?;
    (digit_count(&text[gap..]) == 3).then_some(gap)
}

/// The digits that repeat behind a point and the length of the whole: `\overline{3}`, `\bar3`, `\dot{3}`,
/// `\dot{1}4\dot{2}`, and where brackets cannot be a product, `(3)`.
fn repeated_digits(text: &str, brackets: bool) -> Option<(String, usize)> {
    if let Some(inner) = text.strip_prefix('(').filter(|_| brackets) {
        let count = digit_count(inner);
        let closes = inner[count..].starts_with(')');
        return (count > 0 && count <= PERIOD_MAX && closes).then(|| (inner[..count].to_string(), count + 2));
    }
    let (marked, mut rest) =
        [r"\overline", r"\bar", r"\dot"].iter().find_map(|bar| braced_digits(text, bar))?;
    let mut block = marked.to_string();
    if text.starts_with(r"\dot") {
        // Dots stand over the first and the last digit of the block.
        let count = digit_count(rest);
        if let Some((last, behind)) = braced_digits(&rest[count..], r"\dot") {
            block = block + &rest[..count] + last;
            rest = behind;
        }
    }
    (block.len() <= PERIOD_MAX).then(|| (block, text.len() - rest.len()))
}

/// The digits under a mark, in braces or a single one, and the text behind them.
fn braced_digits<'a>(text: &'a str, mark: &str) -> Option<(&'a str, &'a str)> {
    let behind = text.strip_prefix(mark)?.trim_start_matches(' ');
    match behind.strip_prefix('{') {
        Some(inner) => {
            let count = digit_count(inner).min(PERIOD_MAX + 1);
            let after = inner[count..].strip_prefix('}')?;
            (count > 0).then_some((&inner[..count], after))
        }
        None => behind.starts_with(|next: char| next.is_ascii_digit()).then(|| behind.split_at(1)),
    }
}

/// The length of the dots at the start of a text.
fn dots(text: &str) -> Option<usize> {
    let rest = text.trim_start_matches(' ');
    let marks = ["...", r"\ldots", r"\dots", r"\cdots", r"\dotsc", r"\dotsb"];
    let mark = marks.iter().filter(|mark| rest.starts_with(**mark)).max_by_key(|mark| mark.len())?;
    Some(text.len() - rest.len() + mark.len())
}

/// The number of digits at the end that visibly repeat: a block three times, or twice one of several digits that
/// begins behind the point. `2.718281828...` does not repeat.
fn period(digits: &str) -> Option<usize> {
    let digits = digits.as_bytes();
    (1..=PERIOD_MAX.min(digits.len() / 2)).find(|&length| {
        let times = if length > 1 && digits.len() == 2 * length { 2 } else { 3 };
        let shown = digits.len().checked_sub(times * length).map(|start| &digits[start..]);
        shown.is_some_and(|shown| shown.iter().zip(&shown[length..]).all(|(left, right)| left == right))
    })
}

/// The exponent of `1.5e-7` and its length.
fn exponent(text: &str) -> (i64, usize) {
    let Some(after) = text.strip_prefix(['e', 'E']) else { return (0, 0) };
    let unsigned = after.strip_prefix(['-', '+']).unwrap_or(after);
    let count = digit_count(unsigned);
    let length = text.len() - unsigned.len() + count;
    let ends = !text[length..].starts_with(|next: char| next.is_ascii_alphanumeric());
    match text[1..length].parse::<i64>() {
        Ok(value) if count > 0 && ends => (value, length),
        _ if count > 0 && ends => (EXPONENT_MAX + 1, length),
        _ => (0, 0),
    }
}

fn number(digits: &str, places: usize, exponent: i64, point: bool) -> Result<Number, Unreadable> {
    if !(-EXPONENT_MAX..=EXPONENT_MAX).contains(&exponent) {
        return Err(Unreadable);
    }
    let value = Ratio::from_digits(digits.as_bytes(), places, exponent).ok_or(Unreadable)?;
    let plain = if point || exponent != 0 { String::new() } else { digits.to_string() };
    let places = point.then_some(places as i64 - exponent);
    Ok(Number { value, places, digits: digits.trim_start_matches('0').len(), plain })
}

/// `0.1\overline{6}`: the digits with the block once, less the digits before it, over nines and zeros.
fn repeating_number(digits: &str, places: usize, block: usize) -> Result<Number, Unreadable> {
    let before = &digits[..digits.len() - block];
    let (all, before) = (
        Ratio::from_digits(digits.as_bytes(), 0, 0),
        Ratio::from_digits(if before.is_empty() { b"0" } else { before.as_bytes() }, 0, 0),
    );
    let nines = Ratio::from_digits("9".repeat(block).as_bytes(), 0, places as i64);
    let value = all.zip(before).and_then(|(all, before)| all.plus(&before.negative()));
    let value = value.zip(nines).and_then(|(top, bottom)| top.over(&bottom)).ok_or(Unreadable)?;
    Ok(Number { value, places: None, digits: digits.len(), plain: String::new() })
}

#[cfg(test)]
mod tests {
    use super::period;

    #[test]
    fn digits_that_visibly_repeat() {
        for (digits, expected) in [
            ("333", Some(1)),
            ("8333", Some(1)),
            ("33", None),
            ("2727", Some(2)),
            ("142857142857", Some(6)),
            ("718281828", None),
            ("5272727", Some(2)),
            ("14159", None),
        ] {
            assert_eq!(period(digits), expected, "{digits}");
        }
    }
}
