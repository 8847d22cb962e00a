//! What stands before the word that says what something is. It must only name what is spoken of: whoever denies or
//! doubts, works on the answer (`the square of it is 5`) or speaks of another one (`your answer is 5`), says no answer.

use std::collections::HashSet;
use std::sync::LazyLock;

use super::pieces::{Kind, Piece};
use super::words::{is_conclusion, is_copula, is_danger, is_possession, is_reason, leads_to_be};
use super::{is_number, value_key};
use crate::latex::qualifier::words;

/// Whether the words before a value, up to the copula, leave it as the answer.
pub(super) fn is_sound(pieces: &[Piece], copula: usize, value: usize, text: &str) -> bool {
    let with_copula = &pieces[..=copula];
    may_be(pieces, copula, text)
        && is_subject(with_copula, &pieces[value], text)
        && !is_of_another(with_copula, &pieces[value], text)
        && !works_on_answer(with_copula, text)
        && !is_other_answer(with_copula, text)
        && !is_part_only(pieces, copula, value, text)
        && !is_other_value(with_copula, text)
        && !is_unreal(with_copula, text)
}

/// Words behind a name that make another number of it: `x squared is 5`.
static CHANGED: LazyLock<HashSet<&str>> =
    LazyLock::new(|| words("squared cubed doubled tripled halved inverted negated plus minus times"));

/// `2x is 5`, `x + 1 is 5`, `x squared is 5`: what is said is an equation, and not the answer. A sum of names is what was
/// asked for.
fn is_other_value(with_copula: &[Piece], text: &str) -> bool {
    let [before @ .., last, _] = with_copula else { return false };
    if last.kind == Kind::Word {
        return CHANGED.contains(last.word(text));
    }
    let value = text[last.start..last.end].trim_matches(['$', ' ']);
    let is_negative = before.last().is_some_and(|piece| matches!(piece.word(text), "minus" | "negative"));
    let has_letter = value.split(' ').any(|part| {
        !matches!(part, "and" | "or") && part.contains(|character: char| character.is_ascii_alphabetic())
    });
    let is_call = value.ends_with([')', '}']) || value.contains(['=', '(', '_', '\\']);
    let has_arithmetic = value.contains(['/', '^']) || is_number(last, text);
    last.kind == Kind::Value && has_letter && (is_negative || !is_call && has_arithmetic)
}

/// Words by which something only might be, or nearly was.
static UNREAL: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "might may could almost nearly pretended pretends wanted wants hoped hopes tried tries planned wished failed",
    )
});

/// `Tom almost bought 5 trees`.
fn is_unreal(with_copula: &[Piece], text: &str) -> bool {
    let start = with_copula.iter().rposition(|piece| is_conclusion(piece.word(text))).map_or(0, |at| at + 1);
    // `the number of points that could be in it` is a number.
    with_copula[start..]
        .iter()
        .take_while(|piece| !matches!(piece.word(text), "that" | "which" | "who"))
        .any(|piece| UNREAL.contains(piece.word(text)))
}

/// What is done with a number to make another one.
static WORKS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "square cube root double half triple third quarter reciprocal inverse negative opposite logarithm log digit \
         digits negation successor predecessor complement factorial multiple sign",
    )
});

/// Names of the answer itself.
static ANSWERS: LazyLock<HashSet<&str>> = LazyLock::new(|| words("answer result solution guess response"));

/// Words before such a name by which it is not the answer of this text.
static OTHERS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "your his her their old previous first earlier initial original former naive common usual typical second \
         next another other different any no every neither either alternative candidate tentative tempting proposed \
         claimed alleged supposed apparent intermediate partial bad opposite",
    )
});

/// `The square of it is 5`, `the square of x is 5`, `its square is 5`: the number is not the answer.
fn works_on_answer(with_copula: &[Piece], text: &str) -> bool {
    let lower =
        |at: usize| with_copula.get(at).map_or(String::new(), |piece| piece.word(text).to_ascii_lowercase());
    let last = with_copula.len() - 1;
    (0..last).any(|at| {
        let work = lower(at);
        if !WORKS.contains(work.as_str()) {
            return false;
        }
        let is_possessed =
            at > 0 && matches!(lower(at - 1).as_str(), "its" | "answer's" | "result's" | "number's");
        // Behind an article the name of the answer stands; a name of a number is a value.
        let skip = usize::from(matches!(lower(at + 2).as_str(), "the" | "this" | "that" | "our" | "my"));
        let of = lower(at + 1) == "of";
        let named = lower(at + 2 + skip);
        let is_pronoun = matches!(lower(at + 2).as_str(), "it" | "this" | "that" | "them") && at + 3 == last;
        let is_name = ANSWERS.contains(named.as_str())
            || matches!(named.as_str(), "number" | "total" | "value" | "final");
        let is_variable = with_copula
            .get(at + 2)
            .is_some_and(|piece| piece.kind == Kind::Value && !is_number(piece, text) && at + 3 == last);
        is_possessed && at + 1 == last || of && (is_pronoun || is_name || is_variable)
    })
}

/// `Your answer is 5`, `Bob's answer is 5`, `the old answer was 5`.
fn is_other_answer(with_copula: &[Piece], text: &str) -> bool {
    let before: Vec<String> = with_copula[..with_copula.len() - 1]
        .iter()
        .map(|piece| piece.word(text).to_ascii_lowercase().replace('’', "'"))
        .collect();
    let mut names =
        before.iter().enumerate().filter(|(_, word)| ANSWERS.contains(word.as_str()) || *word == "error");
    names.any(|(at, name)| {
        // `the product of the answer and 2`.
        let is_owned =
            at > 1 && before[at - 2] == "of" && !before[..at - 2].iter().any(|word| word == "value");
        if is_owned && name == "answer" {
            return true;
        }
        let modifier = at.checked_sub(1).map_or("", |at| before[at].as_str());
        modifier.ends_with("'s") || OTHERS.contains(modifier) || name == "error" && modifier == "common"
    }) || before.iter().any(|word| matches!(word.as_str(), "else" | "others"))
}

/// `The answer has 5 in it`, `it contains 5`: a part of the answer, unless it is said what there are so many of.
fn is_part_only(pieces: &[Piece], copula: usize, value: usize, text: &str) -> bool {
    let Some(before) = copula.checked_sub(1).filter(|_| is_possession(pieces[copula].word(text))) else {
        return false;
    };
    let subject = pieces[before].word(text).to_ascii_lowercase();
    let counts = pieces.get(value + 1).is_some_and(|piece| piece.kind == Kind::Word);
    let is_answer =
        ANSWERS.contains(subject.as_str()) || matches!(subject.as_str(), "number" | "value" | "total");
    is_answer || !counts && matches!(subject.as_str(), "it" | "this" | "that" | "which")
}

/// Whether a sentence begins with one number and says another one of something else: `6, while yours is 7`.
fn is_of_another(with_copula: &[Piece], value: &Piece, text: &str) -> bool {
    let (Some(first), Some(copula)) = (with_copula.first(), with_copula.last()) else { return false };
    let concludes = with_copula.iter().any(|piece| is_conclusion(piece.word(text)));
    let is_apart = with_copula.iter().any(|piece| matches!(piece.kind, Kind::Mark(',' | ';' | '—')));
    let is_value = first.kind == Kind::Value && is_number(first, text) && copula.kind == Kind::Word;
    is_value && is_apart && !concludes && value_key(first, text) != value_key(value, text)
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
    // An argument before `so` may hold values, and so may one behind `since`, up to its comma.
    let concludes = |piece: &Piece| piece.kind == Kind::Word && is_conclusion(piece.word(text));
    let has_reason = subject.first().is_some_and(|piece| is_reason(piece.word(text)));
    let start = with_copula
        .iter()
        .rposition(|piece| concludes(piece) || has_reason && piece.kind == Kind::Mark(','))
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
