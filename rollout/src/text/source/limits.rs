//! How much a template and one tag of it may say. minijinja compiles what operators make of each other, and the branches of
//! a condition, one inside the other, and has a limit for brackets and blocks alone: a megabyte of `not` would take more
//! stack than a thread has.

use super::{is_name, literal_end, word_of};

/// The longest template. Published ones have some tens of kilobytes.
const BYTES_MAX: usize = 1 << 20;

/// Operators, brackets and points of one tag. Those of published templates have some thirty at most.
const OPERATORS_MAX: usize = 400;

/// Branches `elif` of a template. Published ones have some twenty at most.
const BRANCHES_MAX: usize = 200;

/// Words that stand between operands or before them.
const WORDS: [&str; 7] = ["and", "or", "not", "in", "is", "if", "else"];

/// What has been counted of a template.
pub(super) struct Limits {
    branches: usize,
}

impl Limits {
    /// Begins with the template as a whole.
    pub(super) fn new(source: &str) -> Result<Self, String> {
        match source.len() {
            ..=BYTES_MAX => Ok(Self { branches: 0 }),
            bytes => Err(format!("has {bytes} bytes, and at most {BYTES_MAX} are read")),
        }
    }

    /// Looks at a tag, or at all from one on that does not end.
    pub(super) fn check(&mut self, tag: &str) -> Result<(), String> {
        self.branches += usize::from(tag.starts_with("{%") && word_of(tag) == "elif");
        if self.branches > BRANCHES_MAX {
            return Err(format!("the template has more than {BRANCHES_MAX} branches `elif`"));
        }
        match operators(tag) > OPERATORS_MAX {
            true => Err(format!("a tag has more than {OPERATORS_MAX} operators, brackets and points")),
            false => Ok(()),
        }
    }
}

/// Counts operators outside of texts.
fn operators(tag: &str) -> usize {
    let bytes = tag.as_bytes();
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() {
        let start = at;
        at += 1;
        match bytes[start] {
            quote @ (b'\'' | b'"') => at = literal_end(tag, start, quote).unwrap_or(bytes.len()),
            byte if byte >= 0x80 || is_name(char::from(byte)) => {
                while at < bytes.len() && (bytes[at] >= 0x80 || is_name(char::from(bytes[at]))) {
                    at += 1;
                }
                count += usize::from(WORDS.iter().any(|word| word.as_bytes() == &bytes[start..at]));
            }
            byte => count += usize::from(b"|.~+-*/%<>=!([{".contains(&byte)),
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_counted_outside_of_texts() {
        for (tag, count) in
            [("{{ a.b['.+'] | c }}", 5), ("{% if not a and 'or' in b -%}", 8), ("{{ 'a + b', notable }}", 2)]
        {
            assert_eq!(operators(tag), count, "{tag}");
        }
    }

    #[test]
    fn what_would_not_be_compiled_is_refused() {
        let mut limits = Limits::new("").unwrap();
        assert!(limits.check(&format!("{{{{ {}1 }}}}", "not ".repeat(OPERATORS_MAX))).is_err());
        (0..BRANCHES_MAX).for_each(|_| limits.check("{% elif x %}").unwrap());
        assert!(limits.check("{%- elif x %}").is_err());
        assert!(Limits::new(&"x".repeat(BYTES_MAX + 1)).is_err());
    }
}
