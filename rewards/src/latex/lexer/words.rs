//! Words: the arguments of text commands, words that mean something without a mark, and the halves of a day.

use super::{Lexer, TEXT_DEPTH_MAX, Token, Unreadable};
use crate::boxed::closing_brace;
use crate::latex::expression::{Constant, Function};
use crate::latex::unit::Unit;

impl Lexer<'_> {
    /// The argument of a text command: words, numbers and signs, but no products of letters.
    pub(super) fn text_argument(&mut self, name: &str) -> Result<(), Unreadable> {
        let rest = self.rest();
        let trimmed = rest.trim_start();
        let Some(inner) = trimmed.strip_prefix('{') else {
            if matches!(name, "bf" | "rm") {
                return Ok(());
            }
            // `\mathbf v` marks one letter.
            let is_mark = trimmed.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '\\');
            return if is_mark { Ok(()) } else { Err(Unreadable) };
        };
        let end = closing_brace(inner.as_bytes(), 0).ok_or(Unreadable)?;
        let content = inner[..end].trim();
        let start = self.text.len() - inner.len();
        if name == "mathbb" && content == "R" {
            self.tokens.push(Token::Name("Reals".to_string()));
            self.at = start + end + 1;
            return Ok(());
        }
        let is_maths =
            name.starts_with("math") && name != "mathrm" || matches!(name, "boldsymbol" | "bm" | "pmb");
        let is_letter = name.starts_with("math") && content.len() == 1 && !is_unit_letter(content);
        if is_letter && content.starts_with(|first: char| first.is_ascii_alphabetic()) {
            // Vectors are set that way, and units are not alone.
            self.tokens.push(letter(content));
            self.at = start + end + 1;
        } else if is_maths && content.contains(['{', '\\', '^', '_']) {
            // Mathematics in another type: its braces stay a group.
        } else if self.upright.len() < TEXT_DEPTH_MAX {
            self.at = start;
            self.upright.push(start + end);
        } else {
            return Err(Unreadable);
        }
        Ok(())
    }

    /// A run of letters inside a text command.
    pub(super) fn text_run(&mut self) -> Result<(), Unreadable> {
        let rest = self.rest();
        let length: usize = rest.chars().take_while(|next| next.is_alphabetic()).map(char::len_utf8).sum();
        let run = &rest[..length];
        self.at += length;
        if rest[length..].starts_with('.') {
            // The full stop of an abbreviation or of a sentence.
            self.at += 1;
        }
        if self.is_ordinal(run) {
            return if self.names_next() { Err(Unreadable) } else { Ok(()) };
        }
        let is_unit = self.follows_value() || self.goes_on_unit() || self.is_in_unit_fraction();
        let is_time = matches!(run, "min" | "sec") && is_unit;
        self.tokens.push(match plain_word(run).filter(|_| !is_time) {
            Some(token) => token,
            // `7x` is a product in text, too.
            None if length == 1
                && !(is_unit && (Unit::is_known(run) || run.starts_with(char::is_uppercase))) =>
            {
                letter(run)
            }
            None => Token::Word(run.to_string()),
        });
        Ok(())
    }

    /// Whether a fraction of units has begun behind a value: `9.8\,\frac{\text{m}}{\text{s}^2}`.
    fn is_in_unit_fraction(&self) -> bool {
        let tokens = &self.tokens[..];
        if let [.., before, Token::Command("frac"), Token::Sign('{')] = tokens {
            return matches!(before, Token::Number(_) | Token::Sign('}' | ')'));
        }
        let [earlier @ .., Token::Sign('}'), Token::Sign('{')] = tokens else { return false };
        const LOOKED_AT: usize = 24;
        let near = &earlier[earlier.len().saturating_sub(LOOKED_AT)..];
        let begins = near.iter().rposition(|token| *token == Token::Command("frac"));
        begins.is_some_and(|at| matches!(near[at..], [_, Token::Sign('{'), Token::Word(_), ..]))
    }
}

/// Single letters that are units where they are marked as upright, whatever they stand behind.
fn is_unit_letter(letter: &str) -> bool {
    matches!(letter, "m" | "s" | "g" | "h" | "l" | "L" | "N" | "J" | "W")
}

pub(super) fn letter(name: &str) -> Token {
    match name {
        "e" => Token::Constant(Constant::E),
        "i" => Token::Constant(Constant::I),
        _ => Token::Name(name.to_string()),
    }
}

/// `am` or `pm` at the start of a text behind the digits of a time, in any of their spellings, and the length.
/// Without the minutes before it, it must have full stops, capitals or a mark as text: `2pm` is a product.
pub(super) fn day_half(text: &str, before: &[Token], is_text: bool) -> Option<(&'static str, usize)> {
    let Some(Token::Number(_)) = before.last() else { return None };
    let first = text.as_bytes().first()?.to_ascii_lowercase();
    let half = match first {
        b'a' => "am",
        b'p' => "pm",
        _ => return None,
    };
    let rest = &text[1..];
    let dotted = rest.strip_prefix('.');
    let rest = dotted.map_or(rest, |rest| rest.trim_start());
    let behind = rest.strip_prefix(['m', 'M'])?;
    let end = if dotted.is_some() { behind.strip_prefix('.').unwrap_or(behind) } else { behind };
    let is_word = !end.starts_with(|next: char| next.is_alphanumeric() || next == '_' || next == '^');
    let has_minutes = matches!(before, [.., Token::Number(_), Token::Sign(':'), Token::Number(_)]);
    let is_clear = is_text || has_minutes || dotted.is_some();
    (is_word && is_clear).then(|| (half, text.len() - end.len()))
}

/// Words that mean something without any mark.
pub(super) fn plain_word(word: &str) -> Option<Token> {
    if ["yes", "no", "true", "false", "none"].iter().any(|known| word.eq_ignore_ascii_case(known)) {
        return Some(Token::Word(word.to_string()));
    }
    Some(match word {
        "and" => Token::And,
        "or" => Token::Or,
        "pi" => Token::Constant(Constant::Pi),
        "inf" | "infty" | "infinity" | "Infinity" | "oo" => Token::Constant(Constant::Infinity),
        "sqrt" => Token::Command("sqrt"),
        "mod" => Token::Modulo,
        "percent" | "pct" | "percentage" => Token::Sign('%'),
        "degrees" | "degree" | "deg" => Token::Sign('°'),
        "in" => return None,
        "cbrt" => Token::Command("cbrt"),
        _ => return function(word).map(Token::Function),
    })
}

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "sin" => Function::Sin,
        "cos" => Function::Cos,
        "tan" | "tg" => Function::Tan,
        "cot" | "ctg" => Function::Cot,
        "sec" => Function::Sec,
        "csc" | "cosec" => Function::Csc,
        "arcsin" => Function::Arcsin,
        "arccos" => Function::Arccos,
        "arctan" | "arctg" => Function::Arctan,
        "sinh" => Function::Sinh,
        "cosh" => Function::Cosh,
        "tanh" => Function::Tanh,
        "exp" => Function::Exp,
        "ln" => Function::Ln,
        "log" | "lg" => Function::Log,
        "min" => Function::Min,
        "max" => Function::Max,
        "gcd" => Function::Gcd,
        "lcm" => Function::Lcm,
        "floor" => Function::Floor,
        "ceil" => Function::Ceiling,
        "abs" => Function::Absolute,
        _ => return None,
    })
}
