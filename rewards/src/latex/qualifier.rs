//! Words behind a number that make it another answer than the number alone: `5 not`, `5 or more`, `5 hundred`,
//! `5 less than x`, `5 squared`.

/// Whether a word says more about the number before it than what is counted or measured.
pub(crate) fn qualifies(word: &str) -> bool {
    let word = word.to_ascii_lowercase().replace('’', "'");
    QUALIFIERS.contains(&word.as_str()) || word.ends_with("n't") || word == "cannot" || is_fraction(&word)
}

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
