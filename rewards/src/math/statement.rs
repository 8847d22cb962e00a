//! What a sentence says the answer is: `The total is 42 apples` says `42 apples`, `2x = 84, so x = 42` says `x = 42`.
//!
//! A sentence says a value where its words are known to do no more than that. Anything else about the value (`not 5`,
//! `at least 5`, `twice 5`, `5 or more`, a second value) leaves the sentence as it is, and as a whole it is equal to
//! nothing. So an unknown word costs a right answer, and never makes a wrong one right.

mod pieces;
mod words;
mod places;
mod reports;
mod subject;
mod tail;

use std::borrow::Cow;

use pieces::{Kind, Piece, pieces};
use reports::is_plain_report;
use subject::is_sound;
use tail::{is_reason_at, tail_end};
use words::{is_conclusion, is_connector, is_copula, is_short_thing, is_sign_word};

use crate::latex::unit::Unit;

/// A longer text is no sentence.
const BYTES_MAX: usize = 600;

/// The value that a sentence says, or `None` if it is no sentence, or says something else about a value.
pub(super) fn value_said(text: &str) -> Option<Cow<'_, str>> {
    if text.len() > BYTES_MAX || !has_words(text) {
        return None;
    }
    let pieces = pieces(text)?;
    let has_question = pieces.iter().any(|piece| piece.kind == Kind::Mark('?'));
    if has_question || pieces.iter().all(|piece| piece.kind != Kind::Value) {
        return None;
    }
    let found = value_at(&pieces, text)?;
    let (value, end) = (&pieces[found.at], tail_end(&pieces, found.at, text)?);
    let units = &pieces[found.at + 1..end];
    let is_whole = found.at == 0 && end == pieces.len() && value.start == 0;
    // Short names of things would be read as products of letters.
    let has_several = units.len() > 1;
    let has_short = units.iter().any(|unit| {
        unit.depth == 0 && (is_short_thing(unit.word(text)) || has_several && is_short_word(unit.word(text)))
    });
    if is_whole && !has_short {
        return None;
    }
    if has_short && value.depth == 0 && units.iter().all(|unit| unit.depth == 0) {
        let sign = if found.is_negative { "-" } else { "" };
        let counted = text[value.end..units.last()?.end].trim();
        return Some(Cow::Owned(format!(
            "{sign}{}\\text{{ {counted}}}",
            text[value.start..value.end].trim()
        )));
    }
    Some(written(text, value, units.last().unwrap_or(value), found.is_negative))
}

/// Whether a word among others of what is counted would be read as letters: the `red` of `12 red apples`.
fn is_short_word(word: &str) -> bool {
    matches!(word.len(), 2 | 3)
        && word.bytes().all(|letter| letter.is_ascii_lowercase())
        && !matches!(word, "per" | "sq" | "cu" | "of")
        && !Unit::is_known(word)
}

/// Whether there is a word, or a mark that speech is written with.
fn has_words(text: &str) -> bool {
    if text.contains("<<") {
        return true;
    }
    // The letters of a command are no word; those in its braces may be.
    let (mut run, mut is_command) = (0, false);
    for byte in text.bytes() {
        is_command = byte == b'\\' || is_command && byte.is_ascii_alphabetic();
        run = if byte.is_ascii_alphabetic() && !is_command { run + 1 } else { 0 };
        if run > 1 {
            return true;
        }
    }
    false
}

/// The value from its first piece to its last, with the commands for text that it begins or ends inside of.
fn written<'a>(text: &'a str, first: &Piece, last: &Piece, is_negative: bool) -> Cow<'a, str> {
    let slice = text[first.start..last.end].trim();
    if first.depth == 0 && last.depth == 0 && !is_negative {
        return Cow::Borrowed(slice);
    }
    let sign = if is_negative { "-" } else { "" };
    let (open, close) = (r"\text{".repeat(first.depth), "}".repeat(last.depth));
    Cow::Owned(format!("{sign}{open}{slice}{close}"))
}

/// Where the value stands, and whether a word makes it negative.
struct Found {
    at: usize,
    is_negative: bool,
}

/// The value behind the last word that says what something is, or at the start.
fn value_at(pieces: &[Piece], text: &str) -> Option<Found> {
    let is_value = |at: usize| pieces[at].kind == Kind::Value;
    let last_value = (0..pieces.len()).rev().find(|&at| is_value(at))?;
    let says = |at: usize| says_what(pieces, at, text);
    // Behind `because` nothing is said about what the answer is.
    let end = (0..pieces.len()).find(|&at| at > 0 && is_reason_at(pieces, at, text)).unwrap_or(pieces.len());
    let copula = (0..last_value.min(end)).rev().find(|&at| says(at) && (at + 1..end).any(is_value));
    if copula.is_none() && is_plain_report(&pieces[..end], text) {
        return Some(Found { at: last_value, is_negative: false });
    }
    let start = copula.map_or(0, |at| at + 1);
    let at = (start..end).find(|&at| is_value(at))?;
    // `number of apples = 5`.
    if copula.is_none() && at > 0 && text[pieces[at].start..].starts_with('=') {
        let are_words = pieces[..at].iter().all(|piece| piece.kind == Kind::Word);
        return (are_words && is_sound(pieces, at, at, text)).then_some(Found { at, is_negative: false });
    }
    let mut is_negative = false;
    for (place, piece) in pieces.iter().enumerate().take(at).skip(start) {
        let is_last = place + 1 == at;
        match piece.kind {
            Kind::Word
                if is_last && is_sign_word(piece.word(text)) && starts_with_digit(&pieces[at], text) =>
            {
                is_negative = true;
            }
            Kind::Word if is_connector(piece.word(text)) => {}
            Kind::Word if is_last && piece.word(text) == "point" && is_pair(&pieces[at], text) => {}
            Kind::Mark(':' | ',') => {}
            Kind::Mark('.') if place > start && is_abbreviation(pieces[place - 1].word(text)) => {}
            _ => return None,
        }
    }
    let is_sound = copula.is_none_or(|copula| is_sound(pieces, copula, at, text));
    is_sound.then_some(Found { at, is_negative })
}

fn is_abbreviation(word: &str) -> bool {
    ["ans", "approx"].iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// Whether a value is in brackets, as the coordinates of a point are.
fn is_pair(piece: &Piece, text: &str) -> bool {
    let value = text[piece.start..piece.end].trim_start_matches(['$', ' ']);
    value.starts_with(['(', '\\']) && value.contains(',')
}

fn starts_with_digit(piece: &Piece, text: &str) -> bool {
    text[piece.start..].trim_start_matches(['$', '\\', '(']).starts_with(|first: char| first.is_ascii_digit())
}

/// Whether this piece says what something is: `is`, `has`, a colon, `so`.
fn says_what(pieces: &[Piece], at: usize, text: &str) -> bool {
    match pieces[at].kind {
        Kind::Word => is_copula(pieces[at].word(text)) || is_conclusion(pieces[at].word(text)),
        Kind::Mark(':') => pieces[..at]
            .iter()
            .any(|piece| piece.kind == Kind::Word || piece.kind == Kind::Value && !is_number(piece, text)),
        _ => false,
    }
}

/// What a value comes to: the right side of its last equation.
fn value_key<'a>(piece: &Piece, text: &'a str) -> &'a str {
    let value = &text[piece.start..piece.end];
    value.rsplit('=').next().unwrap_or(value).trim_matches([' ', '$', '\\', '.', '(', ')'])
}

fn is_number(piece: &Piece, text: &str) -> bool {
    text[piece.start..piece.end].contains(|character: char| character.is_ascii_digit())
}
