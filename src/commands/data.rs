//! `longhaul data`: a look at what the model will see, without the model's weights: rendered prompts with their tokens and
//! answers, and what becomes of the rows of the data.

use std::fmt::Write;
use std::sync::Arc;

use anyhow::{Result, bail};
use rewards::Split;
use rollout::{DemonstrationNeeds, Needs, Prompt, PromptSource, Survey, Text};
use serde::Serialize;

use crate::cli::{DataArgs, DataSplit};
use crate::config::{Config, OUTPUT_TOKENS_KEY, SftRunConfig, stand_ins};
use crate::model::ModelFiles;
use crate::run::prompts::{JudgedPrompts, prompt_tokens_max};

/// Prints what the model will see.
///
/// # Errors
/// As the run would end before its first step.
pub fn data(args: &DataArgs) -> Result<()> {
    let config = Config::load(&args.config, &args.overrides.set)?;
    let look = look(args, &config)?;
    if args.json {
        println!("{}", serde_json::to_string(&look)?);
    } else {
        print!("{}", look.text()?);
    }
    Ok(())
}

/// What was found.
#[derive(Debug, Serialize)]
struct Look {
    /// The file or files, or the task.
    source: String,
    split: DataSplit,
    /// Rows of the data, used or not; absent for a task.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<usize>,
    /// Those that are used.
    prompts: usize,
    /// Prompts of each file, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<FilePrompts>,
    /// Rows that are not used, by reason.
    left_out: Vec<LeftOutRows>,
    /// Rows that cannot be used, one by one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bad_rows: Vec<String>,
    prompt_tokens: Tokens,
    /// The most tokens of a prompt that leave room for the longest output.
    prompt_tokens_room: usize,
    /// The most tokens of an output.
    output_tokens_max: usize,
    /// The share of prompts with a reference answer.
    answered: f64,
    notes: Vec<String>,
    shown: Vec<Shown>,
}

#[derive(Debug, Serialize)]
struct FilePrompts {
    path: String,
    prompts: usize,
}

#[derive(Debug, Serialize)]
struct LeftOutRows {
    reason: String,
    rows: usize,
}

/// Lengths of prompts.
#[derive(Debug, Serialize)]
struct Tokens {
    min: usize,
    median: usize,
    p95: usize,
    max: usize,
}

/// A prompt as the model gets it.
#[derive(Debug, Serialize)]
struct Shown {
    id: String,
    /// The prompt as text, with its special tokens.
    text: String,
    tokens: Vec<u32>,
    /// What a verifier compares with.
    answers: Vec<String>,
    /// What is learned from a demonstration, with its special tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

fn look(args: &DataArgs, config: &Config) -> Result<Look> {
    match config {
        Config::Train(config) => {
            let model = ModelFiles::read(&config.model.path, config.model.base.as_deref())?
                .with_positions(config.model.positions_max);
            let evaluation = config.evaluations().into_iter().next();
            let (prompts, tokens_max) = match (args.split, &evaluation) {
                (DataSplit::Train, _) => {
                    let custom = || stand_ins(&config.rewards);
                    (JudgedPrompts::of_training(config, &model, &custom)?, config.rollout.output_tokens_max)
                }
                (DataSplit::HeldOut, Some(evaluation)) => {
                    let custom = || stand_ins(&evaluation.rewards);
                    let tokens_max = evaluation.output_tokens_max;
                    (JudgedPrompts::held_out(evaluation, &model.text, &model.decoder, &custom)?, tokens_max)
                }
                (DataSplit::HeldOut, None) => bail!(nothing_held_out(args)),
            };
            let room = prompt_tokens_max(&model.decoder, tokens_max, OUTPUT_TOKENS_KEY)?;
            let shown = shown(&prompts.source, args.show, &model.text)?;
            Ok(Look::of(args.split, &prompts.survey, room, tokens_max, shown))
        }
        Config::Sft(config) => look_at_demonstrations(args, config),
    }
}

fn nothing_held_out(args: &DataArgs) -> String {
    format!("{}: nothing is held out; name a file with eval.data, or set data.split", args.config.display())
}

fn look_at_demonstrations(args: &DataArgs, config: &SftRunConfig) -> Result<Look> {
    let Some(path) = &config.model.path else {
        bail!("{}: [model.create] makes a new model, which has no tokenizer yet", args.config.display());
    };
    let model =
        ModelFiles::read(path, config.model.base.as_deref())?.with_positions(config.model.positions_max);
    let positions = model.decoder.max_positions;
    let tokens_max = config.sft.output_tokens_max;
    if args.split == DataSplit::HeldOut {
        let Some(evaluation) = config.evaluations().into_iter().next() else { bail!(nothing_held_out(args)) };
        let custom = || stand_ins(&evaluation.rewards);
        let prompts = JudgedPrompts::held_out(&evaluation, &model.text, &model.decoder, &custom)?;
        let shown = shown(&prompts.source, args.show, &model.text)?;
        let room = positions.saturating_sub(tokens_max);
        return Ok(Look::of(args.split, &prompts.survey, room, tokens_max, shown));
    }
    let learn = config.sft.learn;
    let demonstrations = Some(DemonstrationNeeds { learn, tokens_max: positions });
    let needs = Needs { demonstrations, ..Needs::default() };
    let (source, survey) =
        PromptSource::open(&config.data, Split::Train, config.run.seed, Arc::clone(&model.text), &needs)?;
    let count = source.epoch_prompts().unwrap_or(u64::MAX).min(args.show as u64);
    let shown = (0..count).map(|index| {
        let prompt = source.prompt_id(index);
        let learned = source.demonstration(index, config.sft.demonstrations.as_ref(), learn)?;
        Ok(Shown {
            id: prompt,
            text: model.text.show(&learned.prompt_tokens)?,
            tokens: learned.prompt_tokens,
            answers: Vec::new(),
            target: Some(model.text.show(&learned.target_tokens)?),
        })
    });
    let shown = shown.collect::<Result<_>>()?;
    Ok(Look::of(args.split, &survey, positions, 0, shown))
}

/// The first prompts of the order.
fn shown(source: &PromptSource, count: usize, text: &Text) -> Result<Vec<Shown>> {
    let count = source.epoch_prompts().unwrap_or(u64::MAX).min(count as u64);
    let one = |index| {
        let Prompt { id, tokens, references, .. } = source.prompt(index)?;
        Ok(Shown { id, text: text.show(&tokens)?, tokens, answers: references, target: None })
    };
    (0..count).map(one).collect()
}

impl Look {
    fn of(
        split: DataSplit,
        survey: &Survey,
        room: usize,
        output_tokens_max: usize,
        shown: Vec<Shown>,
    ) -> Self {
        let left_out = survey.left_out.counts().into_iter();
        let mut left_out: Vec<LeftOutRows> =
            left_out.map(|(rows, reason)| LeftOutRows { reason: reason.to_owned(), rows }).collect();
        if let Some(skipped) = &survey.skipped {
            left_out.push(LeftOutRows {
                reason: format!("bad rows ({})", skipped.counts()),
                rows: skipped.bad.len(),
            });
        }
        let unused: usize = left_out.iter().map(|reason| reason.rows).sum();
        let lengths = &survey.lengths;
        Self {
            source: survey.source.clone(),
            split,
            rows: survey.is_whole.then_some(survey.prompts + unused),
            prompts: survey.prompts,
            files: survey
                .files
                .iter()
                .map(|(path, prompts)| FilePrompts { path: path.clone(), prompts: *prompts })
                .collect(),
            left_out,
            bad_rows: survey.skipped.as_ref().map(|skipped| skipped.named()).unwrap_or_default(),
            prompt_tokens: Tokens {
                min: lengths.min,
                median: lengths.median,
                p95: lengths.p95,
                max: lengths.max,
            },
            prompt_tokens_room: room,
            output_tokens_max,
            answered: survey.answered as f64 / survey.prompts as f64,
            notes: survey.notes.clone(),
            shown,
        }
    }

    /// The same for a person.
    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let split = match self.split {
            DataSplit::Train => "training",
            DataSplit::HeldOut => "held out",
        };
        let of =
            self.rows.map_or("the first problems of a task".to_owned(), |rows| format!("of {rows} rows"));
        writeln!(text, "{} ({split})", self.source)?;
        writeln!(text, "  prompts         {} {of}", self.prompts)?;
        for FilePrompts { path, prompts } in &self.files {
            writeln!(text, "    {path}: {prompts}")?;
        }
        for LeftOutRows { reason, rows } in &self.left_out {
            writeln!(text, "  left out        {rows}: {reason}")?;
        }
        for row in &self.bad_rows {
            writeln!(text, "    {row}")?;
        }
        let Tokens { min, median, p95, max } = &self.prompt_tokens;
        writeln!(text, "  prompt tokens   min {min}, median {median}, p95 {p95}, max {max}")?;
        let (room, output) = (self.prompt_tokens_room, self.output_tokens_max);
        match output {
            0 => writeln!(text, "  positions       {room} for a prompt and its completion")?,
            _ => writeln!(
                text,
                "  truncation      none: up to {room} prompt tokens fit beside an output of {output}"
            )?,
        }
        writeln!(text, "  with an answer  {:.1} %", 100.0 * self.answered)?;
        for note in &self.notes {
            writeln!(text, "  note: {note}")?;
        }
        for Shown { id, text: prompt, tokens, answers, target } in &self.shown {
            writeln!(text, "\n{id}: {} tokens", tokens.len())?;
            bordered(&mut text, prompt)?;
            if let Some(target) = target {
                writeln!(text, "  learned:")?;
                bordered(&mut text, target)?;
            }
            for answer in answers {
                writeln!(text, "  answer: {answer:?}")?;
            }
        }
        Ok(text)
    }
}

/// Lines behind a border; control characters, which a terminal would obey, are escaped.
fn bordered(text: &mut String, shown: &str) -> std::fmt::Result {
    for line in shown.split('\n') {
        let line: String = line
            .chars()
            .flat_map(|letter| match letter.is_control() {
                true => letter.escape_default().collect::<Vec<_>>(),
                false => vec![letter],
            })
            .collect();
        writeln!(text, "  | {line}")?;
    }
    Ok(())
}
