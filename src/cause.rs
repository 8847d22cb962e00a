//! Errors as a person reads them: what went wrong, then why, on one line.

use std::fmt::Display;

/// What went wrong, then why, on one line. Many errors repeat their cause in their own words.
#[must_use]
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(|cause| cause.to_string().replace('\n', " ")) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// The error with what came of it behind it. Each keeps its own reason, also where both have the same one.
#[must_use]
pub fn with_consequence(error: anyhow::Error, consequence: impl Display) -> anyhow::Error {
    let whole = format!("{}; {consequence}", one_line(&error));
    error.context(whole)
}

#[cfg(test)]
mod tests {
    use anyhow::{Error, anyhow};

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let cause = anyhow!("no such file");
        let told = cause.context("a.toml: no such file").context("the config\ncannot be read");
        assert_eq!(one_line(&told), "the config cannot be read: a.toml: no such file");
    }

    #[test]
    fn both_failures_have_their_reason() {
        let full = || Error::from(std::io::Error::other("no space left"));
        let (rollouts, weights) =
            (full().context("step-3.jsonl"), full().context("model.safetensors: no space left"));
        let told =
            with_consequence(rollouts, format!("the weights could not be written: {}", one_line(&weights)));
        let expected =
            "step-3.jsonl: no space left; the weights could not be written: model.safetensors: no space left";
        assert_eq!(one_line(&told), expected);
        assert!(told.is::<std::io::Error>(), "the cause can still be asked for");
    }
}
