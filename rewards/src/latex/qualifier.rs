//! Words behind a number: those that make it another answer than the number alone (`5 not`, `5 or more`, `5 hundred`,
//! `5 less than x`, `5 squared`), and those that may be what is counted. What is counted is known by its form, since
//! anything may be: a plural, or the name of a unit.

use std::collections::HashSet;
use std::sync::LazyLock;

/// A set of words, from a text with spaces between them.
pub(crate) fn words(text: &'static str) -> HashSet<&'static str> {
    text.split_whitespace().collect()
}

/// Whether a word says more about the number before it than what is counted or measured.
pub(crate) fn qualifies(word: &str) -> bool {
    let word = word.to_ascii_lowercase().replace('’', "'");
    QUALIFIERS.contains(&word.as_str())
        || HEDGES.contains(word.as_str())
        || word.ends_with("n't")
        || word == "cannot"
        || is_fraction(&word)
        || is_hedging_adverb(&word)
}

/// Whether a word directly behind a number cannot name what is counted: `12 you say`, `12 contradicts`, `12 it`.
pub(crate) fn is_no_thing(word: &str) -> bool {
    NO_THINGS.contains(word.to_ascii_lowercase().replace('’', "'").as_str())
}

/// `allegedly`, `hopefully`, `wrongly`: an adverb says something of the number, unless it is known to say nothing.
pub(crate) fn is_hedging_adverb(word: &str) -> bool {
    word.len() > 4 && word.ends_with("ly") && !PLAIN_ADVERBS.contains(word)
}

/// Words that end like adverbs and change nothing.
static PLAIN_ADVERBS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "daily weekly monthly yearly hourly nightly quarterly annually only family families early exactly \
         precisely approximately roughly respectively simply clearly obviously evenly equally separately \
         individually currently completely entirely fully finally certainly definitely surely truly correctly \
         indeed directly jelly butterfly fly lily belly ally italy july assembly supply reply rally elderly \
         friendly overly freshly newly recently randomly independently consecutively initially originally",
    )
});

/// Words by which an answer is hedged, rejected or taken for something else.
static HEDGES: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "caveat caveats reservation reservations doubt doubts starters somewhat \
         according discarded eliminated dismissed disproved disproven refuted contradicts contradict \
         contradicted violates violated misses overshoots undershoots overestimates underestimates exceeds \
         disagrees differs extraneous spurious inadmissible unacceptable sort kind kinda sorta almost nearly \
         tens thousands fold sic lol kidding joking \
         alternatively versus vs though although however yet remainder",
    )
});

/// Words that name nothing that could be counted: pronouns, auxiliary verbs, and verbs whose subject is a number.
static NO_THINGS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "i you he she it we they me him us them this that's these those my your his her its our their who whom \
         whose what which whichever anyone everyone everything anything somebody everybody \
         has had having does do did done doing can could will would shall should may might must been being \
         seems seem seemed looks look looked sounds sound appears appear appeared feels gets got get used became \
         becomes become says say said claims claim claimed thinks thought think believe believes suppose hope \
         hopes lies works fits satisfies solves divides equals gives yields makes means meant says comes came \
         goes went ends ended starts started begins began follows ruled crossed says tell told the so as at \
         best worst first random odd shy tops ones hundreds millions inverse reciprocal choose something someone \
         somewhere and then than also either neither else even here hence thus because since with some any by on for from into",
    )
});

/// `thirds`, `tenths`: parts, and no things that are counted.
fn is_fraction(word: &str) -> bool {
    word.ends_with("ths")
        && !matches!(
            word,
            "months"
                | "myths"
                | "moths"
                | "cloths"
                | "paths"
                | "baths"
                | "maths"
                | "deaths"
                | "births"
                | "booths"
                | "mouths"
                | "lengths"
                | "widths"
                | "depths"
        )
}

const QUALIFIERS: [&str; 137] = [
    // It is denied.
    "not",
    "no",
    "never",
    "neither",
    "nor",
    "none",
    "nothing",
    "wrong",
    "false",
    "incorrect",
    "invalid",
    "untrue",
    "impossible",
    "isnt",
    "unlikely",
    "rejected",
    "excluded",
    // It is said of something else, or under a condition.
    "is",
    "are",
    "was",
    "were",
    "be",
    "if",
    "when",
    "unless",
    "while",
    "until",
    "till",
    "whenever",
    "provided",
    "assuming",
    "depending",
    "otherwise",
    "whether",
    "instead",
    "rather",
    // It is compared.
    "than",
    "more",
    "less",
    "fewer",
    "greater",
    "larger",
    "bigger",
    "smaller",
    "higher",
    "lower",
    "above",
    "below",
    "over",
    "under",
    "beyond",
    "short",
    "extra",
    "additional",
    "further",
    "longer",
    "shorter",
    "older",
    "younger",
    "heavier",
    "lighter",
    "faster",
    "slower",
    "taller",
    "most",
    "least",
    "minimum",
    "maximum",
    "upwards",
    "up",
    "down",
    "onwards",
    "onward",
    "beneath",
    "past",
    "exceeding",
    // It is uncertain.
    "maybe",
    "perhaps",
    "possibly",
    "probably",
    "likely",
    "presumably",
    "supposedly",
    "guess",
    "guessing",
    "unsure",
    "uncertain",
    "unclear",
    "unknown",
    "ish",
    "ballpark",
    "either",
    "too",
    "lakh",
    "crore",
    "gross",
    "off",
    "fails",
    "fail",
    "failed",
    "etc",
    "et",
    "both",
    // Something is taken away or added.
    "except",
    "excluding",
    "without",
    "but",
    "besides",
    "minus",
    "plus",
    "point",
    "negative",
    // It is multiplied, divided, raised.
    "multiplied",
    "divided",
    "modulo",
    "mod",
    "squared",
    "cubed",
    "factorial",
    "half",
    "halves",
    "thirds",
    "double",
    "doubled",
    "twice",
    "thrice",
    "triple",
    "tripled",
    "halved",
    "hundred",
    "thousand",
    "million",
    "billion",
    "trillion",
    // It is one end of something.
    "to",
    "through",
    "thru",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_do_not_qualify() {
        for word in ["apples", "km", "months", "times", "ways", "quarters", "left", "dollars", "total", "per"]
        {
            assert!(!qualifies(word), "{word}");
        }
        for word in ["Not", "isn't", "isn’t", "sevenths", "hundredths", "Million", "squared"] {
            assert!(qualifies(word), "{word}");
        }
    }
}
