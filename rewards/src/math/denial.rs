//! Sentences that name an answer and do not say that it is one: `the answer, 7, is wrong`, `7 is not the answer`,
//! `suppose the answer is 7`, `the answer is 7. No, it is 8`.

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::latex::qualifier::words;
use crate::math::formula::last_value;
use crate::math::sentence::sentence_of;

/// Words that deny what stands in the same clause.
static DENIALS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "not cannot never neither nor wrong incorrect false untrue impossible unknown hardly reject rejects rejected \
         deny denies denied refute refutes exclude excludes excluded except besides excluding but unlikely",
    )
});

/// Words before `the answer is` by which it is only supposed, passed on or doubted.
static SUPPOSITIONS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "suppose supposing assume assuming if unless whether doubt doubts doubtful false untrue not never maybe \
         perhaps possibly presumably supposedly allegedly probably unlikely reject rejects rejected deny denies \
         denied disagree disagrees refute refutes refuted dispute disputes nobody claims claimed says thinks \
         thought believes believed argues insists wrong wrongly incorrect incorrectly mistake mistaken tempting \
         tempted guess guesses guessed unclear unsure uncertain hardly might may could neither nor pretend \
         some others",
    )
});

/// What may stand between `is` and `the answer` where a sentence says that the number before is it.
static AFFIRMATIONS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "is are therefore thus hence then so indeed clearly also now the our my a this that final correct right \
         exact numerical required desired only actual true real best and as which equals it's",
    )
});

/// Words behind `the answer` and a comma that make another number of it.
static CHANGES: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "doubled tripled halved squared cubed inverted negated plus minus times multiplied divided increased \
         decreased reduced incremented raised twice double half",
    )
});

/// Verbs that say something of an answer, and not what it is. Most end in `s` or `ed`.
static TRAITS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "plus minus times modulo mod does doesn't must should cannot can can't could would might may will shall \
         won't has have had lies ends used isn't never not",
    )
});

/// Words that end as verbs do behind `the answer` and are none of those.
static NO_TRAITS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "choices options keys key is was as this thus yes units matches sheets is: less needed required \
         requested expected rounded expressed given asked based simplified boxed provided becomes equals reads",
    )
});

/// Words that lead from `the answer` to what is done with it.
static HANDLINGS: LazyLock<HashSet<&str>> = LazyLock::new(|| words("by to against with from into over"));

/// Words that take back what was said, where a mark stands behind them.
const CORRECTIONS: [&str; 18] = [
    "no",
    "nope",
    "wait",
    "actually",
    "sorry",
    "correction",
    "oops",
    "hmm",
    "rather",
    "scratch that",
    "alternatively",
    "on second thought",
    "on second thoughts",
    "i take that back",
    "i mean",
    "i meant",
    "make that",
    "or rather",
];

fn is_denial(word: &str) -> bool {
    DENIALS.contains(word) || word.ends_with("n't")
}

/// The words of a text in small letters, without the marks around them.
fn words_of(text: &str) -> impl DoubleEndedIterator<Item = String> {
    let bare = |word: &str| word.trim_matches(|mark: char| !mark.is_alphanumeric()).replace('’', "'");
    text.split_whitespace().map(move |word| bare(word).to_ascii_lowercase())
}

fn has_digit(text: &str) -> bool {
    text.contains(|character: char| character.is_ascii_digit())
}

/// Whether the sentence around `answer` names a number and says that it is not the answer, or does not say what the
/// answer is. It is asked only for the sentence with the last digit of the text: any later number is told by itself.
pub(super) fn denies_answer(before: &str, behind: &str, last_digit: usize) -> bool {
    let sentence = sentence_of(behind);
    let end = before.len() + "answer".len() + (behind.len() - behind.trim_start().len()) + sentence.len();
    if last_digit >= end {
        return false;
    }
    let before = &before[before.ceil_char_boundary(before.len().saturating_sub(100))..];
    let start = before.rfind(['\n', '!', '?', ';']).or_else(|| before.rfind(". ")).map_or(0, |at| at + 1);
    let before = &before[start..];
    let denies = |part: &str| words_of(part).any(|word| is_denial(&word));
    if sentence.ends_with('?') && (has_digit(sentence) || has_digit(before)) {
        return true;
    }
    if has_digit(sentence) {
        // `I reject the answer 5`.
        let is_named = behind
            .trim_start_matches([' ', ','])
            .starts_with(|next: char| next.is_ascii_digit() || "$-(".contains(next));
        return denies(sentence) || is_trait(behind, sentence) || is_named && denies(before);
    }
    has_digit(before) && (denies(before) || !affirms(before) || names_another(sentence))
}

/// Whether the words behind `answer` say something of it and not what it is: `exceeds 5`, `, doubled, is 5`, `by 5`.
fn is_trait(behind: &str, sentence: &str) -> bool {
    let first = words_of(sentence).next().unwrap_or_default();
    if behind.starts_with(['\'', '’']) {
        return true;
    }
    if behind.starts_with(',') {
        return words_of(sentence).any(|word| CHANGES.contains(word.as_str()));
    }
    if !behind.starts_with(' ') || !sentence.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return false;
    }
    if HANDLINGS.contains(first.as_str()) {
        let says = |word: &str| matches!(word, "is" | "are" | "was" | "equals" | "get" | "gives" | "becomes");
        return !sentence.contains(['=', ':']) && !words_of(sentence).any(|word| says(&word));
    }
    let is_verb = first.ends_with('s') || first.ends_with("ed");
    TRAITS.contains(first.as_str())
        || CHANGES.contains(first.as_str())
        || is_verb && !NO_TRAITS.contains(first.as_str())
}

/// Whether a clause that ends with `answer` says that the number in it is the answer, or says nothing about that.
fn affirms(before: &str) -> bool {
    let all: Vec<String> = words_of(before).collect();
    let number = all.iter().rposition(|word| has_digit(word)).map_or(0, |at| at + 1);
    let verb = all[number..].iter().position(|word| {
        matches!(
            word.as_str(),
            "is" | "are" | "was" | "might" | "may" | "could" | "would" | "can" | "equals" | "seems"
        )
    });
    match verb {
        Some(at) => all[number + at..].iter().all(|word| AFFIRMATIONS.contains(word.as_str())),
        None => true,
    }
}

/// Whether the words behind `the answer` make it the answer to something else.
fn names_another(sentence: &str) -> bool {
    words_of(sentence).any(|word| matches!(word.as_str(), "another" | "different" | "other" | "wrong"))
}

/// Whether `the answer is` stands behind a word that only supposes it. What stands before a comma is over.
pub(super) fn is_supposed(before: &str) -> bool {
    let clause = before.rsplit([',', ';', ':', '.', '\n', '?', '!']).next().unwrap_or("");
    let clause = clause.rsplit(" then ").next().unwrap_or("");
    let all: Vec<String> = words_of(clause).collect();
    let near = &all[all.len().saturating_sub(7)..];
    // `we can say` and `no doubt` say it.
    let says =
        |at: usize| near[at] == "say" && !near[..at].iter().any(|word| matches!(word.as_str(), "we" | "can"));
    let is_certain = near.windows(2).any(|pair| pair[0] == "no" && pair[1] == "doubt");
    near.iter().enumerate().any(|(at, word)| {
        (SUPPOSITIONS.contains(word.as_str()) && !(is_certain && word == "doubt"))
            || word.ends_with("n't")
            || says(at)
    })
}

/// Whether the words directly before a number deny it: `not 5`, `it cannot be 5`, `I reject 5`.
pub(super) fn denies_number(before: &str) -> bool {
    let before = &before[before.ceil_char_boundary(before.len().saturating_sub(40))..];
    let clause = before.rsplit([',', ';', ':', '\n', '?', '!']).next().unwrap_or("");
    let clause = clause.rsplit(". ").next().unwrap_or("");
    let is_denying = |word: &str| {
        matches!(word, "not" | "cannot" | "never" | "neither" | "nor" | "reject" | "rejects")
            || word.ends_with("n't")
    };
    // What is denied is the number behind it.
    words_of(clause)
        .rev()
        .filter(|word| !word.is_empty())
        .take(3)
        .take_while(|word| !has_digit(word))
        .any(|word| is_denying(&word))
}

/// Whether the text behind a sentence takes its number back and ends with another one.
pub(super) fn is_corrected(sentence: &str, later: &str) -> bool {
    let later = later.trim_start_matches(|mark: char| !mark.is_alphanumeric());
    let takes_back = CORRECTIONS.iter().any(|word| {
        later.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
            && later[word.len()..].starts_with([',', '.', '!', ';', ':', '-', '—', '–', '…'])
    });
    let goes_on = ["or ", "but ", "or maybe ", "or perhaps "].iter().any(|word| {
        later.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
            && later[word.len()..]
                .trim_start_matches(['$', '*', '('])
                .starts_with(|next: char| next.is_ascii_digit() || next == '-')
    });
    (takes_back || goes_on)
        && last_value(later).is_some_and(|other| has_digit(other) && !sentence.contains(other))
}
