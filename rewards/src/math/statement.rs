//! What a sentence says the answer is: `The total is 42 apples` says `42 apples`, `2x = 84, so x = 42` says `x = 42`.
//!
//! A sentence says a value where its words are known to do no more than that. Anything else about the value (`not 5`,
//! `at least 5`, `twice 5`, `5 or more`, a second value) leaves the sentence as it is, and as a whole it is equal to
//! nothing. So an unknown word costs a right answer, and never makes a wrong one right.

mod pieces;
mod words;

use std::borrow::Cow;

use pieces::{Kind, Piece, pieces};
use words::{
    is_conclusion, is_connector, is_copula, is_count_end, is_danger, is_preposition, is_reason,
    is_short_thing, is_sign_word, leads_to_be, speaks_of_numbers,
};

use crate::latex::qualifier::qualifies;
use crate::math::number::number_length;

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
    let has_short = units.iter().any(|unit| unit.depth == 0 && is_short_thing(unit.word(text)));
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
            Kind::Mark('.') if place > start && pieces[place - 1].word(text).eq_ignore_ascii_case("ans") => {}
            _ => return None,
        }
    }
    let is_sound = copula.is_none_or(|copula| {
        may_be(pieces, copula, text)
            && is_subject(&pieces[..=copula], &pieces[at], text)
            && !is_of_another(&pieces[..=copula], &pieces[at], text)
    });
    is_sound.then_some(Found { at, is_negative })
}

/// Whether a sentence begins with one number and says another one of something else: `6, while yours is 7`.
fn is_of_another(with_copula: &[Piece], value: &Piece, text: &str) -> bool {
    let (Some(first), Some(copula)) = (with_copula.first(), with_copula.last()) else { return false };
    let concludes = with_copula.iter().any(|piece| is_conclusion(piece.word(text)));
    let is_apart = with_copula.iter().any(|piece| matches!(piece.kind, Kind::Mark(',' | ';' | '—')));
    let is_value = first.kind == Kind::Value && is_number(first, text) && copula.kind == Kind::Word;
    is_value && is_apart && !concludes && value_key(first, text) != value_key(value, text)
}

/// Whether a sentence without a known verb reports one count of something: `Tom planted 12 trees`. It has a subject, a
/// single number, and no word that speaks about numbers.
fn is_plain_report(pieces: &[Piece], text: &str) -> bool {
    let values = pieces.iter().filter(|piece| piece.kind == Kind::Value).count();
    let Some(at) = pieces.iter().position(|piece| piece.kind == Kind::Value) else { return false };
    let value = &text[pieces[at].start..pieces[at].end];
    let is_number = number_length(value) == Some(value.len());
    let has_unit = pieces.get(at + 1).is_some_and(|piece| piece.kind == Kind::Word);
    let are_plain = pieces.iter().all(|piece| match piece.kind {
        Kind::Word => {
            let word = piece.word(text);
            !is_danger(word) && !qualifies(word) && !speaks_of_numbers(word)
        }
        Kind::Mark(mark) => matches!(mark, '.' | ','),
        Kind::Value => true,
    });
    let begins = pieces[0].word(text).starts_with(char::is_uppercase);
    let leads = at > 2
        && !is_preposition(pieces[at - 1].word(text))
        && pieces[..at].iter().all(|piece| piece.kind == Kind::Word);
    values == 1 && is_number && has_unit && are_plain && begins && leads
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
        Kind::Mark(':') => pieces[..at].iter().any(|piece| piece.kind == Kind::Word),
        _ => false,
    }
}

/// `must be 5` says it, `might be 5` does not.
fn may_be(pieces: &[Piece], copula: usize, text: &str) -> bool {
    let word = pieces[copula].word(text);
    // `less or equal to 5`.
    if copula > 0 && pieces[copula - 1].word(text).eq_ignore_ascii_case("or") {
        return false;
    }
    if !word.eq_ignore_ascii_case("be") && !word.eq_ignore_ascii_case("have") {
        return true;
    }
    let before = copula.checked_sub(1).map_or("", |at| pieces[at].word(text)).to_ascii_lowercase();
    if before == "to" {
        let leads = copula.checked_sub(2).map_or("", |at| pieces[at].word(text)).to_ascii_lowercase();
        return leads_to_be(&leads);
    }
    matches!(
        before.as_str(),
        "must" | "should" | "will" | "would" | "shall" | "we" | "you" | "they" | "i" | ""
    )
}

/// Whether what stands before the copula only says what is spoken of: nothing is denied or doubted in it, and it says
/// no other value of its own.
fn is_subject(with_copula: &[Piece], value: &Piece, text: &str) -> bool {
    let subject = &with_copula[..with_copula.len() - 1];
    let has_danger = subject.iter().any(|piece| match piece.kind {
        Kind::Word => is_danger(piece.word(text)),
        Kind::Mark(mark) => mark == '?',
        Kind::Value => false,
    });
    // An argument before `so` may hold values.
    let start = with_copula
        .iter()
        .rposition(|piece| piece.kind == Kind::Word && is_conclusion(piece.word(text)))
        .map_or(0, |at| at + 1);
    let rest = subject.get(start..).unwrap_or(&[]);
    let same = |piece: &Piece| value_key(piece, text) == value_key(value, text);
    let said = rest.iter().position(|piece| match piece.kind {
        Kind::Word => is_copula(piece.word(text)),
        Kind::Mark(mark) => mark == ':',
        Kind::Value => false,
    });
    let says_other = said.is_some_and(|at| {
        rest[at..].iter().any(|piece| piece.kind == Kind::Value && is_number(piece, text) && !same(piece))
    });
    let is_equation = |piece: &Piece| piece.kind == Kind::Value && text[piece.start..piece.end].contains('=');
    let other_equation = rest.iter().any(|piece| is_equation(piece) && !same(piece));
    !has_danger && !says_other && !other_equation
}

/// What a value comes to: the right side of its last equation.
fn value_key<'a>(piece: &Piece, text: &'a str) -> &'a str {
    let value = &text[piece.start..piece.end];
    value.rsplit('=').next().unwrap_or(value).trim_matches([' ', '$', '\\', '.', '(', ')'])
}

fn is_number(piece: &Piece, text: &str) -> bool {
    text[piece.start..piece.end].contains(|character: char| character.is_ascii_digit())
}

/// The end of what belongs to the value, in pieces: its unit, but nothing that is only said beside it. `None` if what
/// stands behind makes it another answer.
fn tail_end(pieces: &[Piece], value: usize, text: &str) -> Option<usize> {
    let mut end = value + 1;
    let mut at = end;
    while at < pieces.len() {
        let piece = &pieces[at];
        match piece.kind {
            Kind::Word => {
                let word = piece.word(text);
                if is_reason_at(pieces, at, text) || is_said_of_it(&pieces[at..], text) {
                    return Some(end);
                }
                // `7 and not 8` is 7, but of two choices one is said to be in question.
                let contrasts = is_number(&pieces[value], text) && is_contrast(&pieces[at..], text);
                if contrasts
                    || word == "to"
                        && !is_power(&pieces[at + 1..], text)
                        && is_harmless(pieces.get(at + 1..).unwrap_or(&[]), text)
                        && at + 1 < pieces.len()
                {
                    return Some(end);
                }
                let is_product = word.eq_ignore_ascii_case("times") && at + 1 < pieces.len();
                if qualifies(word) || is_danger(word) || is_product || word.eq_ignore_ascii_case("or") {
                    return None;
                }
                if word == "for" && is_for_all(&pieces[at + 1..], text) {
                    return Some(end);
                }
                if is_count_end(word) || is_preposition(word) {
                    return is_harmless(&pieces[at + 1..], text).then_some(end);
                }
                at += 1;
                end = at;
            }
            // A power or a quotient of units.
            Kind::Value if at > value + 1 && pieces[at - 1].end == piece.start && is_of_unit(piece, text) => {
                at += 1;
                end = at;
            }
            Kind::Value => return None,
            Kind::Mark('(') => {
                let close = (at..pieces.len()).find(|&at| pieces[at].kind == Kind::Mark(')'))?;
                if !is_harmless(&pieces[at + 1..close], text) {
                    return None;
                }
                at = close + 1;
            }
            Kind::Mark('.' | '!') if at + 1 == pieces.len() => return Some(end),
            Kind::Mark(',' | ';' | '—') => {
                let is_clause = is_contrast(&pieces[at + 1..], text) || is_harmless(&pieces[at + 1..], text);
                return (is_clause || pieces.get(at + 1).is_some_and(|_| is_reason_at(pieces, at + 1, text)))
                    .then_some(end);
            }
            Kind::Mark('"') => at += 1,
            Kind::Mark(_) => return None,
        }
    }
    Some(end)
}

/// `to the fourth`, but not `to the nearest tenth`.
fn is_power(behind: &[Piece], text: &str) -> bool {
    let word = |at: usize| behind.get(at).map_or("", |piece| piece.word(text));
    word(0) == "the" && word(1) != "nearest"
}

/// `for all x`, `for every real x`: what a formula holds for, without a number that would bound it.
fn is_for_all(rest: &[Piece], text: &str) -> bool {
    let quantifies =
        rest.first().is_some_and(|piece| matches!(piece.word(text), "all" | "every" | "any" | "each"));
    quantifies
        && rest[1..].iter().all(|piece| match piece.kind {
            Kind::Word => !is_danger(piece.word(text)) && !qualifies(piece.word(text)),
            Kind::Value => !is_number(piece, text) && !text[piece.start..piece.end].contains(['<', '>', '=']),
            Kind::Mark(mark) => mark == '.',
        })
}

fn is_of_unit(piece: &Piece, text: &str) -> bool {
    ["^", "/", "*", "·", r"\cdot"].iter().any(|sign| text[piece.start..].starts_with(sign))
}

/// Whether a reason begins here, which may say anything: `because`, `since`, `so`.
fn is_reason_at(pieces: &[Piece], at: usize, text: &str) -> bool {
    let word = if pieces[at].kind == Kind::Word { pieces[at].word(text) } else { "" };
    let has_doubt = || {
        pieces[at..].iter().any(|piece| match piece.kind {
            Kind::Word => is_danger(piece.word(text)) || piece.word(text) == "or",
            Kind::Value => text[piece.start..piece.end].contains(" or "),
            Kind::Mark(mark) => mark == '?',
        })
    };
    let has_value = || pieces[at..].iter().any(|piece| piece.kind == Kind::Value);
    match word {
        "which" | "where" => !has_doubt(),
        "that" => !has_doubt() && !has_value(),
        // `(B) as well as (C)` names both.
        "as" => {
            let is_well = |at: usize| pieces.get(at).is_some_and(|piece| piece.word(text) == "well");
            !is_well(at + 1) && !at.checked_sub(1).is_some_and(is_well)
        }
        word => is_reason(word) || is_conclusion(word) && !has_doubt() && !has_value(),
    }
}

/// Whether these words say that the value before them is the answer: `is correct`, `is the answer`.
fn is_said_of_it(pieces: &[Piece], text: &str) -> bool {
    let mut words =
        pieces.iter().filter(|piece| piece.kind != Kind::Mark('.')).map(|piece| match piece.kind {
            Kind::Word => piece.word(text),
            _ => "",
        });
    let begins = words.next().is_some_and(|word| word == "is");
    let mut count = 0;
    begins
        && words.all(|word| {
            count += 1;
            matches!(
                word.to_ascii_lowercase().as_str(),
                "the"
                    | "my"
                    | "our"
                    | "correct"
                    | "right"
                    | "final"
                    | "answer"
                    | "option"
                    | "choice"
                    | "result"
                    | "solution"
                    | "one"
                    | "best"
                    | "true"
            )
        })
        && count > 0
}

/// Whether a clause says what the answer is not: `not 5`, `and not 5`, `instead of 5`, `rather than 5`.
fn is_contrast(clause: &[Piece], text: &str) -> bool {
    let words: Vec<&str> =
        clause.iter().take_while(|piece| piece.kind == Kind::Word).map(|piece| piece.word(text)).collect();
    let opens = matches!(
        words[..],
        ["not"] | ["and", "not"] | ["but", "not"] | ["rather", "than"] | ["instead", "of"]
    );
    let rest = &clause[words.len()..];
    opens
        && rest.first().is_some_and(|piece| piece.kind == Kind::Value)
        && rest[1..].iter().all(|piece| match piece.kind {
            Kind::Word => !qualifies(piece.word(text)) && !is_danger(piece.word(text)),
            Kind::Mark(mark) => mark == '.' || mark == '!',
            Kind::Value => false,
        })
}

/// Whether some words neither name a value nor take anything back.
fn is_harmless(pieces: &[Piece], text: &str) -> bool {
    pieces.iter().all(|piece| match piece.kind {
        Kind::Word => !is_danger(piece.word(text)) && !qualifies_clause(piece.word(text)),
        Kind::Mark(mark) => mark != '?',
        Kind::Value => false,
    })
}

/// Words that are no harm to a value once something else stands between.
fn qualifies_clause(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    qualifies(&word)
        && !matches!(
            word.as_str(),
            "to" | "over"
                | "up"
                | "down"
                | "is"
                | "are"
                | "was"
                | "were"
                | "be"
                | "both"
                | "point"
                | "while"
                | "when"
                | "past"
        )
        || matches!(word.as_str(), "or" | "and")
}
