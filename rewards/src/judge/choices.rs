//! Words that only name the choice: `verdict: yes or no` repeats the question, and `verdict: yes?` doubts. Neither is a
//! verdict. In `Verdict (yes/no): no` the word behind the choice is the verdict.

use std::ops::Range;

use regex::Regex;

/// The other word of the choice, straight behind the first one.
const ALTERNATIVE: &str =
    r#"(?i)^[\s"'`*_)\]-]*(?:/|\||\\|,?\s*\b(?:or|and|and/or|vs\.?|versus)\b)[\s"'`*_(\[-]*(?:yes|no)\b"#;
/// The verdict behind a choice.
const BEHIND: &str = r#"(?i)^[\s"'`*_)\]]*[:=：]\W{0,9}(yes|no)\b"#;
/// A question mark straight behind a word.
const QUESTION: &str = r#"^["'`*_)\]”’]*\s?[?？]"#;

#[derive(Debug)]
pub(super) struct Choices {
    alternative: Regex,
    behind: Regex,
    question: Regex,
}

impl Choices {
    pub(super) fn new() -> Self {
        let compiled = |pattern| Regex::new(pattern).expect("a constant that is tested");
        Choices { alternative: compiled(ALTERNATIVE), behind: compiled(BEHIND), question: compiled(QUESTION) }
    }

    /// Whether a verdict is one of the two words; numbers know no alternative.
    pub(super) fn of(&self, verdict: &str) -> bool {
        ["yes", "no"].iter().any(|word| verdict.trim().eq_ignore_ascii_case(word))
    }

    /// The verdict that the word at `found` is, or that stands behind the choice which it begins.
    pub(super) fn chosen<'a>(&self, said: &'a str, found: Range<usize>) -> Option<&'a str> {
        let (mut verdict, mut rest) = (&said[found.clone()], &said[found.end..]);
        if let Some(alternative) = self.alternative.find(rest) {
            rest = &rest[alternative.end()..];
            let chosen = self.behind.captures(rest)?.get(1)?;
            (verdict, rest) = (chosen.as_str(), &rest[chosen.end()..]);
        }
        let is_open = self.alternative.is_match(rest) || self.question.is_match(rest);
        (!is_open).then_some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_no_verdict() {
        let choices = Choices::new();
        for (said, verdict) in [
            ("yes", Some("yes")),
            ("yes.\nNo doubt.", Some("yes")),
            ("yes, no doubt", Some("yes")),
            ("no or", Some("no")),
            ("YES or NO", None),
            ("yes/no", None),
            ("yes / **no**", None),
            ("yes | no", None),
            ("\"yes\" or \"no\"", None),
            ("yes, or no", None),
            ("yes and no", None),
            ("yes-or-no", None),
            ("yes?", None),
            ("yes** ?", None),
            ("yes/no): no", Some("no")),
            ("yes/no)** = **YES**", Some("YES")),
            ("yes or no: yes or no", None),
            ("yes/no): no?", None),
            ("no, yes/no was asked", Some("no")),
        ] {
            let at = said.find(|next: char| next.is_ascii_alphabetic()).unwrap();
            let end =
                at + said[at..].find(|next: char| !next.is_ascii_alphabetic()).unwrap_or(said.len() - at);
            assert_eq!(choices.chosen(said, at..end), verdict, "{said}");
        }
        assert!(choices.of(" Yes") && !choices.of("7") && !choices.of("yesterday"));
    }
}
