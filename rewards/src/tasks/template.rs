//! The text around the numbers of an addition, where it is not the task's own: examples before it for a model that goes on
//! with text, or the words of a question.

use super::is_digits;
use crate::RewardError;

/// Stands for the first number.
const LEFT: &str = "{left}";
/// Stands for the second one.
const RIGHT: &str = "{right}";

/// The texts before, between and behind the two numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    before: String,
    between: String,
    after: String,
}

impl Template {
    /// Reads the two places out of a text.
    ///
    /// # Errors
    /// If the text has not each of them once and in order, or a digit beside one of them: a number could not be told from
    /// it.
    pub(super) fn new(text: &str) -> Result<Self, RewardError> {
        let refused = |reason: &str| Err(RewardError::config("template", reason));
        let parts = text.split_once(LEFT).and_then(|(before, rest)| Some((before, rest.split_once(RIGHT)?)));
        let Some((before, (between, after))) = parts else {
            return refused("must have `{left}` and then `{right}`, where the two numbers stand");
        };
        if [LEFT, RIGHT].iter().any(|place| [before, between, after].iter().any(|part| part.contains(place)))
        {
            return refused("must have each of `{left}` and `{right}` once");
        }
        let digit = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_digit());
        let (first, last) = (|part: &str| part.chars().next(), |part: &str| part.chars().next_back());
        if between.is_empty()
            || digit(last(before))
            || digit(first(between))
            || digit(last(between))
            || digit(first(after))
        {
            return refused("must have something between the two numbers, and no digit beside one of them");
        }
        Ok(Self { before: before.to_string(), between: between.to_string(), after: after.to_string() })
    }

    /// The text of a prompt `48+97:` of the task.
    pub(super) fn text(&self, own: &str) -> String {
        let numbers = own.strip_suffix(':').and_then(|sum| sum.split_once('+'));
        let (left, right) = numbers.expect("a prompt of addition has two numbers");
        format!("{}{left}{}{right}{}", self.before, self.between, self.after)
    }

    /// The task's own prompt behind a text, or `None` if the text was not made by this template.
    pub(super) fn own(&self, text: &str) -> Option<String> {
        let numbers = text.strip_prefix(self.before.as_str())?.strip_suffix(self.after.as_str())?;
        let (left, right) = numbers.split_once(self.between.as_str())?;
        (is_digits(left) && is_digits(right)).then(|| format!("{left}+{right}:"))
    }
}

/// The answer of a completion: its first line, without the white space around it.
pub(super) fn first_line(completion: &str) -> &str {
    completion.split('\n').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_found_behind_its_text() {
        let template = Template::new("12 + 34 = 46\n{left} + {right} =").unwrap();
        let text = template.text("48+97:");
        assert_eq!(text, "12 + 34 = 46\n48 + 97 =");
        assert_eq!(template.own(&text).as_deref(), Some("48+97:"));
        for other in
            ["48 + 97 =", "12 + 34 = 46\n48 + 97", "12 + 34 = 46\n48 + a =", "12 + 34 = 46\n48 + 9 + 7 ="]
        {
            assert_eq!(template.own(other), None, "{other}");
        }
    }

    #[test]
    fn a_template_that_cannot_be_read_back_is_refused() {
        for text in
            ["", "{left}", "{right} + {left}", "{left}{right}", "1{left} + {right}", "{left} + {right}0"]
        {
            let error = Template::new(text).unwrap_err().to_string();
            assert!(error.starts_with("template: must have "), "{text}: {error}");
        }
        assert!(Template::new("{left} + {left} + {right}").unwrap_err().to_string().contains("once"));
    }

    #[test]
    fn the_answer_is_the_first_line() {
        assert_eq!([" 145\n25 + 1 =", "145", " \n145", ""].map(first_line), ["145", "145", "", ""]);
    }
}
