//! What stands behind a value: its unit or what is counted, circumstances, a reason, what the answer is not. Anything else
//! makes it another answer.

use super::pieces::{Kind, Piece};
use super::places::{
    is_clause_opener, is_measure_end, is_number_word, is_place, is_remark, is_time, limits_claim,
};
use super::words::{is_conclusion, is_count_end, is_danger, is_preposition, is_reason};
use super::{is_number, value_key};
use crate::latex::qualifier::{is_no_thing, qualifies};
use crate::latex::unit::{Unit, is_counted};
use crate::math::choice::choice;
use crate::math::number::number_length;

/// Words of what is counted: `large red wooden boxes`.
const COUNTED_WORDS_MAX: usize = 5;

/// The end of what belongs to the value, in pieces: its unit, but nothing that is only said beside it. `None` if what
/// stands behind makes it another answer.
pub(super) fn tail_end(pieces: &[Piece], value: usize, text: &str) -> Option<usize> {
    let end = end_of_unit(pieces, value, text)?;
    let words: Vec<&str> = pieces[value + 1..end].iter().map(|piece| piece.word(text)).collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let Some(last) = words.last() else { return Some(end) };
    let said = &text[pieces[value].start..pieces[value].end];
    let names_things = is_counted(last) || is_singular(said);
    (names_things && words.len() <= COUNTED_WORDS_MAX && choice(said).is_none()).then_some(end)
}

/// Whether a value is one or a part of one, of which things have no plural: `3/4 cake`.
fn is_singular(value: &str) -> bool {
    let value = value.trim_matches(['$', ' ']);
    let is_number = number_length(value) == Some(value.len());
    is_number
        && (matches!(value, "1" | "-1")
            || value.contains('/')
            || value.contains("frac")
            || value.starts_with("0."))
}

fn end_of_unit(pieces: &[Piece], value: usize, text: &str) -> Option<usize> {
    let mut end = value + 1;
    let mut at = end;
    while at < pieces.len() {
        let piece = &pieces[at];
        match piece.kind {
            Kind::Word => {
                if let Some(is_sound) = ends_at_word(pieces, value, at, text) {
                    return is_sound.then_some(end);
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
                let inside = &pieces[at + 1..close];
                if !(is_side_remark(inside, text) || is_calculation(inside, &pieces[value], text)) {
                    return None;
                }
                at = close + 1;
            }
            Kind::Mark('.' | '!') if at + 1 == pieces.len() => return Some(end),
            Kind::Mark(',' | ';' | '—') => {
                let rest = &pieces[at + 1..];
                let is_clause = is_contrast(rest, text) || is_side_remark(rest, text);
                return (is_clause || !rest.is_empty() && is_reason_at(pieces, at + 1, text)).then_some(end);
            }
            Kind::Mark('"') => at += 1,
            Kind::Mark(_) => return None,
        }
    }
    Some(end)
}

/// Whether the value and its unit end before this word, and if they do, whether what follows leaves them as they are.
fn ends_at_word(pieces: &[Piece], value: usize, at: usize, text: &str) -> Option<bool> {
    let word = pieces[at].word(text);
    let rest = &pieces[at + 1..];
    if is_reason_at(pieces, at, text) || is_said_of_it(&pieces[at..], text) {
        return Some(true);
    }
    // `7 and not 8` is 7, but of two choices one is said to be in question.
    if is_number(&pieces[value], text) && is_contrast(&pieces[at..], text) {
        return Some(true);
    }
    if word == "to" && at == value + 1 {
        // `to the nearest tenth`, but not `to the fourth` or `to one`.
        let next = rest.first().map_or("", |piece| piece.word(text));
        let rounds =
            |piece: &Piece| matches!(piece.word(text), "nearest" | "decimal" | "significant" | "places");
        let is_rounding = next == "be" || rest.iter().any(rounds);
        return Some(is_rounding && is_harmless(rest, text));
    }
    let is_product = word.eq_ignore_ascii_case("times") && is_factor(rest, text);
    if qualifies(word) && !(word == "to" && at > value + 1)
        || is_danger(word)
        || is_no_thing(word) && !is_preposition(word)
        || is_product
        || word.eq_ignore_ascii_case("or")
    {
        return Some(false);
    }
    if word == "for" && is_for_all(rest, text) {
        return Some(true);
    }
    if is_preposition(word) {
        return Some(is_circumstance(word, rest, text));
    }
    if is_count_end(word) {
        let unit = pieces[at - 1].word(text);
        let is_measured = at == value + 1 || Unit::is_known(unit);
        return Some((!is_measure_end(word) || is_measured) && is_harmless(rest, text));
    }
    None
}

/// Whether `times` goes on with a factor; `times a week` and `times in total` count how often.
fn is_factor(rest: &[Piece], text: &str) -> bool {
    match rest.first() {
        None => false,
        Some(piece) => {
            let word = piece.word(text);
            let is_counting =
                matches!(word, "a" | "per" | "each" | "every" | "in" | "during" | "for" | "on" | "daily");
            piece.kind != Kind::Mark('.') && !(is_counting && is_harmless(rest, text))
        }
    }
}

/// Whether the words behind a preposition say where, when or for what: `in the basket`, `for Tom`, `on weekdays`,
/// `for lunch`, and not `at best`, `in theory` or `by mistake`.
fn is_circumstance(preposition: &str, rest: &[Piece], text: &str) -> bool {
    if let [number, unit, behind @ ..] = rest
        && matches!(preposition, "after" | "in" | "for" | "during" | "within" | "before")
        && number.kind == Kind::Value
        && is_number(number, text)
        && is_time(unit.word(text))
    {
        return is_harmless(behind, text);
    }
    let Some(first) = rest.first().map(|piece| piece.word(text)) else { return false };
    let clause = || rest.iter().take_while(|piece| piece.kind == Kind::Word).map(|piece| piece.word(text));
    let opens = is_clause_opener(first) || first.starts_with(char::is_uppercase) || is_place(first);
    let ends = clause().any(|word| is_counted(word) || is_place(word));
    // `in the worst case`, `by some accounts`.
    let limits = clause().any(limits_claim);
    let is_purpose = preposition == "to";
    let is_doing = preposition == "by" && first.ends_with("ing");
    let second = rest.get(1).map_or("", |piece| piece.word(text));
    // `from the right` counts places.
    let is_side =
        preposition == "from" && matches!(second, "right" | "left" | "end" | "top" | "bottom" | "start");
    let is_leading = matches!(preposition, "with" | "to" | "from") && is_number_word(first) || is_side;
    (opens || ends || is_purpose || is_doing) && !is_leading && !limits && is_harmless(rest, text)
}

/// Whether words beside the value, in brackets or behind a comma, leave it as it is: circumstances, a unit, and words
/// that are known to say nothing.
fn is_side_remark(pieces: &[Piece], text: &str) -> bool {
    let words: Vec<&str> =
        pieces.iter().filter(|piece| piece.kind == Kind::Word).map(|piece| piece.word(text)).collect();
    let [first, ..] = words[..] else { return is_harmless(pieces, text) };
    let is_unit = || {
        words.len() < COUNTED_WORDS_MAX
            && words.last().is_some_and(|last| is_counted(last))
            && words.iter().all(|word| !is_no_thing(word))
    };
    let is_sound =
        is_remark(first) || is_preposition(first) && is_circumstance(first, &pieces[1..], text) || is_unit();
    is_sound && !qualifies(first) && is_harmless(pieces, text)
}

/// Whether brackets hold how the value was found: `(since 6 + 6 = 12)`, `(6 + 6)`.
fn is_calculation(pieces: &[Piece], value: &Piece, text: &str) -> bool {
    let key = value_key(value, text);
    let is_reason =
        pieces.first().is_some_and(|piece| matches!(piece.word(text), "since" | "because" | "as"));
    let values: Vec<&Piece> = pieces.iter().filter(|piece| piece.kind == Kind::Value).collect();
    let are_plain = pieces.iter().all(|piece| match piece.kind {
        Kind::Word => !is_danger(piece.word(text)) && !qualifies(piece.word(text)),
        Kind::Mark(_) => false,
        Kind::Value => true,
    });
    is_reason
        && are_plain
        && matches!(values[..], [only] if text[only.start..only.end].contains('=') && value_key(only, text) == key)
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
pub(super) fn is_reason_at(pieces: &[Piece], at: usize, text: &str) -> bool {
    let word = if pieces[at].kind == Kind::Word { pieces[at].word(text) } else { "" };
    let has_doubt = || {
        pieces[at..].iter().any(|piece| match piece.kind {
            Kind::Word => is_danger(piece.word(text)) || piece.word(text) == "or",
            Kind::Value => text[piece.start..piece.end].contains(" or "),
            Kind::Mark(mark) => mark == '?',
        })
    };
    let has_value = || pieces[at..].iter().any(|piece| piece.kind == Kind::Value);
    let next = pieces.get(at + 1).map_or("", |piece| piece.word(text));
    match word {
        "which" => !has_doubt(),
        // A condition is no place.
        "where" => !has_doubt() && !has_value(),
        // `so far` and `so they say` are no reasons.
        "so" => {
            matches!(next, "we" | "the" | "it" | "this" | "that" | "our" | "x" | "")
                && !has_doubt()
                && !has_value()
        }
        "that" => !has_doubt() && !has_value(),
        // `(B) as well as (C)` names both.
        "as" => {
            let is_well = |at: usize| pieces.get(at).is_some_and(|piece| piece.word(text) == "well");
            let is_role = matches!(
                next,
                "a" | "an" | "far" | "I" | "long" | "of" | "if" | "though" | "opposed" | "soon"
            );
            let is_result = pieces.get(at + 2).is_some_and(|piece| piece.word(text) == "result");
            !is_well(at + 1) && !at.checked_sub(1).is_some_and(is_well) && (!is_role || is_result)
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
