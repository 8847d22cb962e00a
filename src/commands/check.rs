//! `longhaul check`: what a run needs from outside, looked at as `train` and `sft` do before their first step: the
//! model's small files, all rows of the data, the rewards, the programs of plugins. So `check` fails where they would.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::sync::Arc;

use anyhow::Result;
use kernels::{Decoder, DecoderConfig, ModelPlace};
use rewards::RewardKind;
use rollout::{Ends, Survey, Text};

use crate::cli::CheckArgs;
use crate::commands::sft::{self, SftPrompts};
use crate::config::{Config, Evaluation, OUTPUT_TOKENS_KEY, RunConfig, SftRunConfig, stand_ins};
use crate::model::ModelFiles;
use crate::model::adapters::LoraRequest;
use crate::model::memory::{RunMemory, RunPrompts, memory_limit};
use crate::run::prompts::{JudgedPrompts, prompt_tokens_max, same_file};

/// Prints the resolved config and what the run would begin with, or says what is wrong with either.
///
/// # Errors
/// As the run would end before its first step.
pub fn check(args: &CheckArgs) -> Result<()> {
    let config = Config::load(&args.config, &args.overrides.set)?;
    print!("{}", config.resolved());
    match config {
        Config::Train(config) => {
            let findings = of_train(&config)?;
            let memory = RunMemory::new(&config, &findings.decoder, &findings.prompts);
            print!("{findings}{}{memory}", tokens_of_a_step(&config));
            // Standard output is a config; what a person must not miss stands beside it too.
            for warning in findings.warnings.into_iter().chain(memory.too_large(memory_limit())) {
                eprintln!("warning: {warning}");
            }
        }
        Config::Sft(config) => {
            print!("{}", of_sft(&config)?);
            if let Some(warning) = same_file(&config.data, &config.eval) {
                eprintln!("warning: {warning}");
            }
        }
    }
    Ok(())
}

/// How much is drawn for a step at most, which says how long one takes: `bench decode` has the tokens a second.
fn tokens_of_a_step(config: &RunConfig) -> String {
    let (rollout, learner) = (&config.rollout, &config.learner);
    let completions = learner.groups_per_step * rollout.group_size;
    let tokens = completions * rollout.output_tokens_max;
    let more = match learner.step_groups_max() / learner.groups_per_step {
        1 => String::new(),
        factor => format!(", up to {factor} times that where dynamic_sampling refills"),
    };
    format!(
        "\n# A step generates at most {tokens} tokens: {completions} completions of {}{more}.\n\
         # `longhaul bench decode --model {}` says how many a second this machine decodes.\n",
        rollout.output_tokens_max,
        config.model.path.display()
    )
}

/// What `check` found.
struct Findings {
    /// The model as its config describes it.
    decoder: DecoderConfig,
    /// How long the prompts are.
    prompts: RunPrompts,
    summary: String,
    /// What a person must not miss.
    warnings: Vec<String>,
}

/// Comments behind the config that is printed.
impl fmt::Display for Findings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.summary)
    }
}

/// Looks at everything that `train` looks at.
///
/// # Errors
/// As `train` ends before its first step.
fn of_train(config: &RunConfig) -> Result<Findings> {
    let model = ModelFiles::read(&config.model.path, config.model.base.as_deref())?;
    let model = model.with_positions(config.model.positions_max);
    let adapters = LoraRequest::of_learner(&config.learner, config.run.seed, false);
    let custom = || stand_ins(&config.rewards);
    let prompts = JudgedPrompts::of_training(config, &model, &custom)?;
    let evaluations = config.evaluations();
    let mut held_out = Vec::new();
    for evaluation in &evaluations {
        let custom = || stand_ins(&evaluation.rewards);
        held_out.push(JudgedPrompts::held_out(evaluation, &model.text, &model.decoder, &custom)?);
    }
    Decoder::check_files(&model.place().base, &model.decoder)?;
    let trained = adapters.looked_at(&model)?;
    Ends::new(Arc::clone(&model.text), config.rollout.stops(), model.decoder.vocabulary)?;
    if let (true, Some(path)) = (config.learner.kl.enabled, &config.learner.kl.reference) {
        let place = ModelPlace::find(path, None)?;
        let reference = DecoderConfig::read(&place.base)?;
        Decoder::check_files(&place.base, &reference)?;
        config.learner.kl.check_vocabulary(reference.vocabulary, model.decoder.vocabulary)?;
    }
    let room = prompt_tokens_max(&model.decoder, config.rollout.output_tokens_max, OUTPUT_TOKENS_KEY)?;
    let mut summary: String = model.notes.iter().map(|note| format!("\n# {note}\n")).collect();
    describe_trained(&mut summary, &adapters, trained, &model.decoder);
    describe_custom(&mut summary, config);
    describe(&mut summary, "Training data", &prompts.survey, Some(room), true);
    for (evaluation, held_out) in evaluations.iter().zip(&held_out) {
        describe(&mut summary, &held_out_name(evaluation), &held_out.survey, None, true);
    }
    let first = prompts.source.prompt(0)?;
    show(&mut summary, &first.id, &first.tokens, &model.text)?;
    let measured = held_out.iter().zip(&evaluations);
    let measured = measured.map(|(held_out, evaluation)| (&held_out.source, evaluation.eval.problems));
    let run_prompts = RunPrompts::of(&prompts.source, measured, model.tokenizer_bytes())?;
    let warnings = same_file(&config.data, &config.eval).into_iter().collect();
    Ok(Findings { decoder: model.decoder, prompts: run_prompts, summary, warnings })
}

/// Looks at everything that `sft` looks at.
///
/// # Errors
/// As `sft` ends before its first step.
fn of_sft(config: &SftRunConfig) -> Result<String> {
    let Some(path) = &config.model.path else {
        // A new model has no files, and its data is a task.
        return Ok(String::new());
    };
    let model = ModelFiles::read(path, config.model.base.as_deref())?;
    let model = model.with_positions(config.model.positions_max);
    let SftPrompts { demonstrations, survey, held_out } =
        SftPrompts::open(config, &model.text, &model.decoder)?;
    Decoder::check_files(&model.place().base, &model.decoder)?;
    let adapters = sft::adapters_of(config);
    let trained = adapters.looked_at(&model)?;
    let mut summary: String = model.notes.iter().map(|note| format!("\n# {note}\n")).collect();
    describe_trained(&mut summary, &adapters, trained, &model.decoder);
    describe(&mut summary, "Training data", &survey, None, false);
    for (evaluation, held_out) in config.evaluations().iter().zip(&held_out) {
        describe(&mut summary, &held_out_name(evaluation), &held_out.survey, None, true);
    }
    let first = demonstrations.first()?;
    show(&mut summary, "the first prompt", &first.prompt_tokens, &model.text)?;
    show(&mut summary, "its target", &first.target_tokens, &model.text)?;
    Ok(summary)
}

/// Says how much of the model is trained, where it is not all of it.
fn describe_trained(summary: &mut String, adapters: &LoraRequest<'_>, trained: usize, model: &DecoderConfig) {
    if let Some(section) = adapters.section {
        let total = model.parameters();
        let share = 100.0 * trained as f64 / total as f64;
        let _ = writeln!(
            summary,
            "\n# Trained: {trained} numbers of adapters of rank {} beside {total} frozen parameters, {share:.2} % of them",
            section.rank
        );
    }
}

/// What the prompts of a set are called.
fn held_out_name(evaluation: &Evaluation) -> String {
    let set = evaluation.set.as_ref();
    set.map_or_else(|| "Held-out data".to_owned(), |set| format!("Held-out data of the set {set}"))
}

/// Says that rewards of a program around longhaul are there in that program only.
fn describe_custom(summary: &mut String, config: &RunConfig) {
    let custom: BTreeSet<&str> = config
        .rewards
        .iter()
        .chain(&config.eval.rewards)
        .chain(config.eval.sets.iter().flat_map(|set| &set.rewards))
        .filter(|reward| reward.kind == (RewardKind::Custom {}))
        .map(|reward| reward.name.as_str())
        .collect();
    if !custom.is_empty() {
        let names: Vec<&str> = custom.into_iter().collect();
        let _ = writeln!(
            summary,
            "\n# Rewards with kind = \"custom\": {}. `longhaul train` has no verifiers of these names and refuses this \
             config;\n# the program that brings them trains with it. Here they are looked at by name only.",
            names.join(", ")
        );
    }
}

/// Rows, lengths and problems of some data. Demonstrations are not judged, so they need no answers.
fn describe(summary: &mut String, what: &str, survey: &Survey, room: Option<usize>, is_judged: bool) {
    let lengths = &survey.lengths;
    let count = match (survey.prompts, survey.is_whole) {
        (1, true) => "1 prompt".to_owned(),
        (count, true) => format!("{count} prompts"),
        (count, false) => format!("its first {count} prompts"),
    };
    let room = room.map_or(String::new(), |room| format!(", at most {room} fit beside the output"));
    let _ = write!(
        summary,
        "\n# {what}: {}, {count}\n#   tokens of a prompt: {} to {}, median {}{room}\n",
        survey.source, lengths.min, lengths.max, lengths.median
    );
    if is_judged {
        let answered = 100.0 * survey.answered as f64 / survey.prompts as f64;
        let _ = writeln!(summary, "#   with an answer: {answered:.1} %");
    }
    for note in &survey.notes {
        let _ = writeln!(summary, "#   note: {note}");
    }
    if survey.last_assistant > 0 {
        let _ = writeln!(summary, "#   with a last turn of the assistant: {}", survey.last_assistant);
    }
    if let Some(skipped) = &survey.skipped {
        let _ = writeln!(
            summary,
            "#   left out: {} of {} rows ({})",
            skipped.bad.len(),
            skipped.rows,
            skipped.counts()
        );
        for line in skipped.named() {
            let _ = writeln!(summary, "#     {line}");
        }
    }
}

/// Characters of a prompt that are shown.
const SHOWN_CHARACTERS: usize = 2000;

/// Tokens as the model gets them, decoded again.
fn show(summary: &mut String, name: &str, tokens: &[u32], text: &Text) -> Result<()> {
    let shown = text.show(tokens)?;
    let cut: String = shown.chars().take(SHOWN_CHARACTERS).collect();
    let rest = if cut.len() < shown.len() { " ..." } else { "" };
    let _ = writeln!(summary, "#\n# {name}, {} tokens, decoded again:", tokens.len());
    for line in cut.split('\n') {
        // A control character would be obeyed by a terminal, and the line would be no comment any more.
        let line: String =
            line.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        let _ = writeln!(summary, "#   | {line}");
    }
    if !rest.is_empty() {
        let _ = writeln!(summary, "#   | {rest}");
    }
    Ok(())
}
