//! The format verifier: does a completion end in an answer that can be read at all?
//!
//! `boxed` asks for a last balanced `\boxed{...}` that holds well-formed mathematics, right or wrong: what the reader of
//! the mathematics verifier reads as it is typeset. Nothing is calculated or run. `think_answer` and
//! `think_boxed` ask for a block of thinking before the answer. `task` asks the run's task for an answer line of its
//! form.

use crate::boxed::{BOX_BYTES_MAX, last_boxed};
use crate::latex::is_typeset;
use crate::tags::{ANSWER, only_answer, thought};
use crate::tasks::Task;
use crate::{Answer, RewardError, Verdict, Verifier};

/// What counts as the right format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FormatStyle {
    /// A last balanced `\boxed{...}` with well-formed mathematics in it.
    #[default]
    Boxed,
    /// `<think>...</think><answer>...</answer>`: each tag once and in this order, nothing but white space outside, and
    /// an answer that is not empty.
    ThinkAnswer,
    /// One `<think>...</think>` in front, and behind it a last balanced `\boxed{...}` with well-formed mathematics.
    ThinkBoxed,
    /// An answer line in the form of the run's task.
    Task,
}

/// The keys of `kind = "format"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormatConfig {
    /// What counts as the right format.
    #[serde(default)]
    pub style: FormatStyle,
    /// Whether the chat template ends with `<think>`, so that a completion begins inside the block of thinking.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub think_opened: bool,
}

/// 1 for the right format, else 0.
#[derive(Clone, Debug)]
pub struct FormatVerifier {
    form: Form,
}

/// A style with what it needs to know.
#[derive(Clone, Debug)]
enum Form {
    Boxed,
    ThinkAnswer { opened: bool },
    ThinkBoxed { opened: bool },
    Task(Task),
}

impl FormatVerifier {
    /// Judges by [`FormatStyle::Boxed`].
    pub fn boxed() -> Self {
        FormatVerifier { form: Form::Boxed }
    }

    /// Judges by [`FormatStyle::ThinkAnswer`]; `opened` says that the chat template writes the first tag.
    pub fn think_answer(opened: bool) -> Self {
        FormatVerifier { form: Form::ThinkAnswer { opened } }
    }

    /// Judges by [`FormatStyle::ThinkBoxed`]; `opened` says that the chat template writes the first tag.
    pub fn think_boxed(opened: bool) -> Self {
        FormatVerifier { form: Form::ThinkBoxed { opened } }
    }

    /// Judges by [`FormatStyle::Task`].
    pub fn of_task(task: Task) -> Self {
        FormatVerifier { form: Form::Task(task) }
    }

    /// Whether the format is right.
    pub fn is_right(&self, completion: &str) -> bool {
        let is_boxed = |text| last_boxed(text).is_some_and(is_well_formed);
        match &self.form {
            Form::Boxed => is_boxed(completion),
            Form::ThinkAnswer { opened } => thought(completion, *opened).is_some_and(|thought| {
                let hides_answer = ANSWER.is_in(thought.inside);
                !hides_answer && only_answer(thought.after).is_some_and(|inside| !inside.trim().is_empty())
            }),
            Form::ThinkBoxed { opened } => {
                thought(completion, *opened).is_some_and(|thought| is_boxed(thought.after))
            }
            Form::Task(task) => task.answer_line(completion).is_some(),
        }
    }
}

impl Verifier for FormatVerifier {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        Ok(Verdict::from(self.is_right(answer.completion)))
    }
}

/// Whether a text is well-formed mathematics in LaTeX or plain spelling. Empty text is not, and neither is text of
/// more than 64 KiB.
pub fn is_well_formed(text: &str) -> bool {
    text.len() <= BOX_BYTES_MAX && is_typeset(text)
}

#[cfg(test)]
mod tests;
