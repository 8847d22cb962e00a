//! Errors as a person reads them: what went wrong, then why, on one line; and what the run's request would have to say
//! for it to go right, by the names of its fields. The command line says that by its flags.

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

/// A run that begins nowhere or would destroy something, as its request stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}{}", .remedy.in_fields())]
pub struct Refused {
    /// What is wrong.
    pub problem: String,
    /// What of the request would have to be otherwise.
    pub remedy: Remedy,
}

/// What of a request would have to be otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Another folder.
    OtherFolder,
    /// Another folder, or what is in it is replaced.
    OtherFolderOrOverwrite,
    /// What is behind the step that is resumed at is removed.
    OverwriteLater,
    /// The folder of the run that is resumed.
    ResumedFolder,
    /// One folder and not two.
    OneFolder,
    /// The config may have changed.
    AllowConfigChange,
    /// Another run begins with the weights.
    Fork,
}

impl Remedy {
    /// By the fields of `RunRequest`.
    #[must_use]
    pub fn in_fields(self) -> &'static str {
        match self {
            Self::OtherFolder => "; name another `folder`",
            Self::OtherFolderOrOverwrite => "; name another `folder`, or set `overwrite`",
            Self::OverwriteLater => "; `overwrite` removes them",
            Self::ResumedFolder => "; name its folder in `from` of the start",
            Self::OneFolder => "; set `folder`, or `from` of the start",
            Self::AllowConfigChange => ", or set `allow_config_change`",
            Self::Fork => " (`start: StartFrom::Fork`)",
        }
    }
}

/// [`Refused`] as an error.
#[must_use]
pub fn refused(remedy: Remedy, problem: String) -> anyhow::Error {
    Refused { problem, remedy }.into()
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
