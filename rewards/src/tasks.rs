//! Tasks that make their own problems: endless, seeded, verifiable, with a difficulty dial that scales the length
//! of the working. A task is one file that implements [`Rules`] and one line in [`TaskName`] and `rules`.
//!
//! A completion is `step;step;step;#answer`. Only what follows the last `#` is judged; the working is free. Where a template
//! puts an addition into a text, the answer is the completion's first line.

mod machine;
mod addition;
mod template;
mod sorting;
mod countdown;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{Answer, RewardError, Verdict, Verifier};
use template::Template;
use trajectory::random::{Random, key_of, key_of_text};

/// Every character that occurs in a prompt, a demonstration or a right answer of any task.
const ALPHABET: &str = "0123456789+-*/=():;,>#";

/// Stands before the answer.
const ANSWER_MARK: char = '#';

/// One prompt in this many is held out, chosen by a hash of its text.
const HELD_OUT_PERIOD: u64 = 4;

/// Draws that a prompt may need until it falls into the wanted split. A training prompt needs 1.3 on average and
/// a held-out one 4; the chance that a held-out one needs more than this is 0.75^4096.
const DRAWS_MAX: u64 = 4096;

/// Domain separators: the numbers that draw a problem and the ones that write its demonstration are unrelated.
const PROMPT_STREAM: u64 = 1;
const STYLE_STREAM: u64 = 2;
const WORKING_STREAM: u64 = 3;

/// The right working of a problem, or a hasty one.
struct Working {
    steps: Vec<String>,
    answer: String,
}

/// Bounds of the right working at one difficulty, in characters without separators.
struct Extent {
    steps: usize,
    step_characters: usize,
    answer_characters: usize,
}

/// What one task is. A prompt carries everything: a problem is judged and worked from its text alone.
trait Rules: Sync {
    /// The difficulties that exist. The least one still has hundreds of prompts, so that neither split is empty.
    fn difficulties(&self) -> RangeInclusive<usize>;
    /// Draws a prompt.
    fn draw(&self, difficulty: usize, random: &mut Random) -> String;
    /// The right working, or `None` if the text is not a prompt of this task.
    fn work(&self, prompt: &str) -> Option<Working>;
    /// A short working with a plausible answer that is mostly wrong on long problems.
    fn hurry(&self, prompt: &str, right: Working, random: &mut Random) -> Working;
    /// Whether an answer has the form of this task's answers, right or wrong.
    fn is_answer_form(&self, answer: &str) -> bool;
    /// Whether the answer is right, or `None` if the text is not a prompt of this task.
    fn is_right(&self, prompt: &str, answer: &str) -> Option<bool> {
        self.work(prompt).map(|right| right.answer == answer)
    }
    /// How long the right working can get; `step_characters` is the sum over all steps.
    fn extent(&self, difficulty: usize) -> Extent;
}

/// The tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskName {
    /// A register machine modulo 10; difficulty is the number of operations.
    Machine,
    /// Long addition with carries; difficulty is the number of digits.
    Addition,
    /// Insertion sort of digits; difficulty is the number of digits.
    Sorting,
    /// An expression over given numbers that reaches a target; difficulty is how many numbers.
    Countdown,
}

impl TaskName {
    /// All tasks.
    pub const ALL: [TaskName; 4] =
        [TaskName::Machine, TaskName::Addition, TaskName::Sorting, TaskName::Countdown];

    /// The name as it stands in a config.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskName::Machine => "machine",
            TaskName::Addition => "addition",
            TaskName::Sorting => "sorting",
            TaskName::Countdown => "countdown",
        }
    }

    /// The difficulties that this task has.
    pub fn difficulties(self) -> RangeInclusive<usize> {
        self.rules().difficulties()
    }

    fn rules(self) -> &'static dyn Rules {
        match self {
            TaskName::Machine => &machine::Machine,
            TaskName::Addition => &addition::Addition,
            TaskName::Sorting => &sorting::Sorting,
            TaskName::Countdown => &countdown::Countdown,
        }
    }
}

/// Which task, and how hard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// The task.
    pub name: TaskName,
    /// Least difficulty; each problem draws its own, uniformly between the two.
    pub difficulty_min: usize,
    /// Greatest difficulty.
    pub difficulty_max: usize,
    /// The text of a prompt of `addition`, with `{left}` and `{right}` where the numbers stand; a completion then begins with
    /// the sum on its first line. Without it prompts and answers are the task's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

impl TaskConfig {
    /// A task with prompts of its own.
    pub fn new(name: TaskName, difficulties: RangeInclusive<usize>) -> Self {
        let (difficulty_min, difficulty_max) = difficulties.into_inner();
        Self { name, difficulty_min, difficulty_max, template: None }
    }
}

/// Training problems and held-out problems never share a prompt text, whatever their seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Three quarters of all prompts.
    Train,
    /// The other quarter.
    HeldOut,
}

/// How a demonstration is written. Nothing in the prompt shows which one it will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// Skips most of the working and guesses: short, mostly wrong on long problems.
    Hasty,
    /// Every step once: right.
    Careful,
    /// Every step twice: right, and twice as long as needed.
    Verbose,
}

/// How often each style occurs among the demonstrations, as weights relative to each other.
///
/// Demonstrations of mixed quality leave habits in a model that reinforcement learning can sharpen or drop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemonstrationConfig {
    /// Weight of [`Style::Hasty`]; at the greatest difficulty where `hasty_easiest` is given.
    pub hasty: f64,
    /// Weight of [`Style::Hasty`] at the least difficulty, from where it goes to `hasty` in equal steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hasty_easiest: Option<f64>,
    /// Weight of [`Style::Careful`].
    pub careful: f64,
    /// Weight of [`Style::Verbose`].
    pub verbose: f64,
}

impl DemonstrationConfig {
    /// Checks that the weights can be drawn from.
    ///
    /// # Errors
    /// Names the key whose weight is negative or not finite, or says that all are 0.
    pub fn check(&self) -> Result<(), RewardError> {
        let easiest = self.hasty_easiest.unwrap_or(self.hasty);
        let weights = [
            ("hasty", self.hasty),
            ("hasty_easiest", easiest),
            ("careful", self.careful),
            ("verbose", self.verbose),
        ];
        for (key, weight) in weights {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(RewardError::config(key, format!("must be 0 or more and finite, not {weight}")));
            }
        }
        let total = self.hasty + self.careful + self.verbose;
        if !(total > 0.0 && total.is_finite()) {
            return Err(RewardError::config("hasty, careful, verbose", "one of them must be above 0"));
        }
        Ok(())
    }

    /// `hardness` is 0 at the least difficulty and 1 at the greatest.
    fn pick(&self, hardness: f64, uniform: f64) -> Style {
        let easiest = self.hasty_easiest.unwrap_or(self.hasty);
        let hasty = easiest + (self.hasty - easiest) * hardness;
        let mark = uniform * (hasty + self.careful + self.verbose);
        if mark < hasty {
            Style::Hasty
        } else if mark < hasty + self.careful {
            Style::Careful
        } else {
            Style::Verbose
        }
    }
}

/// One problem of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The text that the policy continues.
    pub prompt: String,
    /// A right answer, without its `#`. Countdown has others.
    pub answer: String,
    /// How hard this one is.
    pub difficulty: usize,
    /// Where its demonstration's random numbers come from.
    key: u64,
}

/// A checked [`TaskConfig`]: the problems, their demonstrations and their judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    config: TaskConfig,
    template: Option<Template>,
}

impl Task {
    /// Checks the config.
    ///
    /// # Errors
    /// Names the difficulty that the task does not have, or that is below the other, or what the template lacks.
    pub fn new(config: TaskConfig) -> Result<Self, RewardError> {
        let known = config.name.difficulties();
        for (key, value) in
            [("difficulty_min", config.difficulty_min), ("difficulty_max", config.difficulty_max)]
        {
            if !known.contains(&value) {
                let (least, most, name) = (known.start(), known.end(), config.name.as_str());
                let reason =
                    format!("the task `{name}` has difficulties from {least} to {most}, not {value}");
                return Err(RewardError::config(key, reason));
            }
        }
        if config.difficulty_min > config.difficulty_max {
            let reason =
                format!("{} is above difficulty_max = {}", config.difficulty_min, config.difficulty_max);
            return Err(RewardError::config("difficulty_min", reason));
        }
        let template = match &config.template {
            Some(_) if config.name != TaskName::Addition => {
                let reason = format!("is for the task `addition`, not `{}`", config.name.as_str());
                return Err(RewardError::config("template", reason));
            }
            template => template.as_deref().map(Template::new).transpose()?,
        };
        Ok(Task { config, template })
    }

    /// The config that this task was made from.
    pub fn config(&self) -> &TaskConfig {
        &self.config
    }

    /// Every character that a prompt, a demonstration or a right answer of any task can contain, each once:
    /// what a character tokenizer must cover.
    pub fn alphabet() -> &'static str {
        ALPHABET
    }

    /// Problem `index` of a seed. It depends on nothing but its arguments and the config.
    pub fn problem(&self, split: Split, seed: u64, index: u64) -> Problem {
        let rules = self.config.name.rules();
        let key = key_of(&[seed, index, split as u64]);
        let mut random = Random::new(key_of(&[key, PROMPT_STREAM]));
        let choices = self.config.difficulty_max - self.config.difficulty_min + 1;
        let difficulty = self.config.difficulty_min + random.below(choices);
        let prompt = (0..DRAWS_MAX)
            .map(|_| rules.draw(difficulty, &mut random))
            .find(|prompt| split_of(prompt) == split)
            .expect("both splits hold prompts at every difficulty, as a test of each task shows");
        let answer = rules.work(&prompt).expect("a task can work its own prompts").answer;
        let prompt = self.template.as_ref().map_or_else(|| prompt.clone(), |template| template.text(&prompt));
        Problem { prompt, answer, difficulty, key }
    }

    /// The problem's demonstration, in the style that the problem's own random numbers pick.
    pub fn demonstration(&self, problem: &Problem, config: &DemonstrationConfig) -> String {
        let (least, greatest) = (self.config.difficulty_min, self.config.difficulty_max);
        let span = greatest.saturating_sub(least).max(1);
        let hardness = problem.difficulty.saturating_sub(least) as f64 / span as f64;
        let style = config.pick(hardness, Random::new(key_of(&[problem.key, STYLE_STREAM])).uniform());
        self.demonstration_in(problem, style)
    }

    /// The problem's demonstration in a given style, without the prompt.
    pub fn demonstration_in(&self, problem: &Problem, style: Style) -> String {
        let rules = self.config.name.rules();
        let prompt = self.own_prompt(&problem.prompt).expect("a problem's prompt is one of its task's");
        let right = rules.work(&prompt).expect("a problem's prompt is one of its task's");
        let working = match style {
            Style::Careful | Style::Verbose => right,
            Style::Hasty => {
                let mut random = Random::new(key_of(&[problem.key, WORKING_STREAM]));
                rules.hurry(&prompt, right, &mut random)
            }
        };
        if self.template.is_some() {
            return format!(" {}", working.answer);
        }
        let mut text = String::new();
        for step in &working.steps {
            text.push_str(step);
            if style == Style::Verbose {
                text.push(',');
                text.push_str(step);
            }
            text.push(';');
        }
        text.push(ANSWER_MARK);
        text.push_str(&working.answer);
        text
    }

    /// An upper bound of a demonstration's length in characters, to be compared with the output limit.
    pub fn longest_working(&self, style: Style, difficulty: usize) -> usize {
        let extent = self.config.name.rules().extent(difficulty);
        if self.template.is_some() {
            return 1 + extent.answer_characters;
        }
        let answer = ANSWER_MARK.len_utf8() + extent.answer_characters;
        match style {
            // A hasty working is at most the start of the careful one.
            Style::Hasty | Style::Careful => extent.step_characters + extent.steps + answer,
            Style::Verbose => 2 * extent.step_characters + 2 * extent.steps + answer,
        }
    }

    /// The answer of a completion, if the completion ends with an answer in the form of this task.
    ///
    /// The answer is what follows the last `#`, without white space at the end of the text; with a template it is the first
    /// line.
    pub fn answer_line<'a>(&self, completion: &'a str) -> Option<&'a str> {
        let answer = match self.template {
            Some(_) => template::first_line(completion),
            None => completion.trim_end().rsplit_once(ANSWER_MARK)?.1,
        };
        self.config.name.rules().is_answer_form(answer).then_some(answer)
    }

    /// Whether a completion ends with a right answer to the prompt.
    ///
    /// # Errors
    /// If the prompt is not one of this task's.
    pub fn is_right(&self, prompt: &str, completion: &str) -> Result<bool, RewardError> {
        let rules = self.config.name.rules();
        // An empty answer has no task's form, so it is wrong; it is still asked, to notice a foreign prompt.
        let answer = self.answer_line(completion).unwrap_or_default();
        let prompt = self.own_prompt(prompt);
        let right = prompt.and_then(|prompt| rules.is_right(&prompt, answer));
        right.ok_or(RewardError::ForeignPrompt { task: self.config.name.as_str() })
    }

    /// The prompt as the task itself writes it, or `None` if the template did not make it.
    fn own_prompt<'a>(&self, prompt: &'a str) -> Option<Cow<'a, str>> {
        match &self.template {
            Some(template) => template.own(prompt).map(Cow::Owned),
            None => Some(Cow::Borrowed(prompt)),
        }
    }
}

fn split_of(prompt: &str) -> Split {
    if key_of_text(prompt).is_multiple_of(HELD_OUT_PERIOD) { Split::HeldOut } else { Split::Train }
}

/// A text of one digit or more, and of nothing else.
fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// 1 for a completion that ends with a right answer to its task's prompt, else 0.
#[derive(Clone, Debug)]
pub struct TaskVerifier {
    task: Task,
}

impl TaskVerifier {
    /// The judge of one task.
    pub fn new(task: Task) -> Self {
        TaskVerifier { task }
    }
}

impl Verifier for TaskVerifier {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        self.task.is_right(answer.prompt, answer.completion).map(Verdict::from)
    }

    fn final_answer(&self, answer: &Answer<'_>) -> Option<String> {
        self.task.answer_line(answer.completion).map(str::to_string)
    }
}
