//! `longhaul score`: answers in a file are judged by the rewards of a config, without a model and without a run.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use rewards::{Answer, Judged, RewardError, WeightedSum};
use rollout::RowFile;
use serde_json::{Map, Value, json};

use crate::cli::ScoreArgs;
use crate::config::ScoreConfig;
use crate::records::output::{Inputs, Output};
use crate::run::prompts::{no_custom_verifiers, weighted_sum};
use crate::watch::log::start_log;

/// Rows that are judged together. Verifiers that wait for a process or a service have a batch's requests in flight at
/// once; after each batch what is known is written.
const BATCH_ROWS: usize = 256;

/// One line of the input.
struct Row {
    /// The file and the line.
    place: String,
    /// The line as it was given; the verdict is added to it.
    line: Map<String, Value>,
    /// Its text, which is written again to the byte where that can be: no number is put otherwise.
    text: String,
    prompt: String,
    completion: String,
    references: Vec<String>,
    fields: Map<String, Value>,
    tokens: usize,
    truncated: bool,
}

/// What came of all rows.
#[derive(Default)]
struct Counts {
    rows: usize,
    reward: f64,
    judged: usize,
    correct: usize,
    /// Rows in which a verifier failed and a 0 stands in for its verdict.
    failed: usize,
    skipped: usize,
}

/// Judges every line of a file and writes the lines back in order, each with `reward`, `correctness` and
/// `parts`. A row whose verifier failed has `error` where a 0 stands in for its verdict, and `skipped` with a `reward` of
/// null where the config says to skip. Lines that a run has recorded in `rollouts/` are read as well.
///
/// # Errors
/// Names the file and the line that cannot be judged, and the file with what was judged before it.
pub fn score(args: &ScoreArgs) -> Result<()> {
    let _log = start_log(None, true)?;
    let config = ScoreConfig::load(&args.rewards, &args.overrides.set)?;
    let truncated = config.truncated_reward();
    let rewards = weighted_sum(&config.rewards, config.data.as_ref(), truncated, &no_custom_verifiers)?;
    let mut inputs = Inputs::default();
    inputs.note(&args.rewards);
    let input = inputs.open(&args.input)?;
    let bar = progress_bar(input.metadata().map_or(0, |file| file.len()));
    let mut output = Output::create(&args.output, &inputs)?;
    let (start, mut counts) = (Instant::now(), Counts::default());
    let judged = RowFile::of(&args.input, bar.wrap_read(input))
        .map_err(anyhow::Error::from)
        .and_then(|mut file| judge(args, &config, &rewards, &mut file, &mut output, &mut counts));
    let is_stdout = output.is_stdout();
    match judged {
        Ok(()) => output.finish()?,
        Err(error) => return Err(output.fail(error)),
    }
    bar.finish_and_clear();
    let counters = rewards.counters();
    let counters =
        counters.iter().filter(|(_, value)| **value > 0).map(|(name, value)| format!("{name}: {value}"));
    for line in std::iter::once(counts.line(start.elapsed())).chain(counters) {
        // What reads the judged lines there should find nothing else among them.
        if is_stdout { eprintln!("{line}") } else { println!("{line}") }
    }
    Ok(())
}

/// Judges batch after batch; what is known is written after each.
fn judge(
    args: &ScoreArgs,
    config: &ScoreConfig,
    rewards: &WeightedSum,
    file: &mut RowFile,
    output: &mut Output,
    counts: &mut Counts,
) -> Result<()> {
    loop {
        let batch = read_batch(file, &args.input, config)?;
        if batch.is_empty() {
            return Ok(());
        }
        let written = write_batch(rewards, batch, output, counts);
        output.flush().with_context(|| args.output.display().to_string())?;
        written?;
    }
}

fn progress_bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:32} {percent:>3} % of the input, {eta} left");
    ProgressBar::new(bytes).with_style(style.expect("a fixed template"))
}

fn read_batch(file: &mut RowFile, path: &Path, config: &ScoreConfig) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    while rows.len() < BATCH_ROWS {
        let Some(line) = file.next_row()? else { break };
        let place = line.place(path);
        let row = line.text.map_err(anyhow::Error::from).and_then(|text| row(&text, &place, config));
        rows.push(row.context(place)?);
    }
    Ok(rows)
}

fn row(written: &str, place: &str, config: &ScoreConfig) -> Result<Row> {
    let line = rollout::json_object(written).map_err(anyhow::Error::msg)?;
    let text = |key: &str| match line.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        // Data sets write numeric answers as numbers.
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other) => Err(anyhow!("`{key}` must be a text, not {other}")),
    };
    let tokens = match line.get("tokens").filter(|tokens| !tokens.is_null()) {
        Some(tokens) => {
            let count = tokens.as_u64().and_then(|count| usize::try_from(count).ok());
            count.with_context(|| format!("`tokens` must be a whole number of at least 0, not {tokens}"))?
        }
        None => match (recorded_tokens(&line), config.rewards.iter().find(|it| it.kind.counts_tokens())) {
            (Some(count), _) => count,
            (None, Some(reward)) => {
                bail!("`tokens` is missing, and the reward `{}` counts them", reward.name)
            }
            (None, None) => 0,
        },
    };
    let fields = match line.get("fields") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(fields)) => fields.clone(),
        Some(other) => bail!("`fields` must be an object, not {other}"),
    };
    let truncated = match line.get("truncated") {
        None | Some(Value::Null) => line.get("finish").is_some_and(|finish| finish == "length"),
        Some(Value::Bool(truncated)) => *truncated,
        Some(other) => bail!("`truncated` must be true or false, not {other}"),
    };
    let completion = text("completion")?.context("`completion` is missing")?;
    let prompt = text("prompt")?.unwrap_or_default();
    let references = match line.get("answer") {
        None | Some(Value::Null) => Vec::new(),
        Some(answer) => rollout::references("answer", answer.clone())?,
    };
    Ok(Row {
        place: place.to_owned(),
        prompt,
        completion,
        references,
        fields,
        tokens,
        truncated,
        line,
        text: written.trim().to_owned(),
    })
}

/// The tokens of a completion that a run has recorded in `rollouts/`.
fn recorded_tokens(line: &Map<String, Value>) -> Option<usize> {
    line.get("completion_tokens")?.as_array().map(Vec::len)
}

fn write_batch(
    rewards: &WeightedSum,
    rows: Vec<Row>,
    output: &mut Output,
    counts: &mut Counts,
) -> Result<()> {
    let answers: Vec<Answer<'_>> = rows.iter().map(Row::answer).collect();
    let scored = rewards.judge_all(&answers);
    for (row, reward) in rows.into_iter().zip(scored) {
        let verdict = counts.add(reward).context(row.place)?;
        output.write_line(&with_verdict(row.line, &row.text, verdict)?)?;
    }
    Ok(())
}

/// The line with the verdict behind it, or in the place of one that it had.
fn with_verdict(
    mut line: Map<String, Value>,
    text: &str,
    verdict: Map<String, Value>,
) -> serde_json::Result<String> {
    let begun = text.strip_suffix('}').map(str::trim_end).filter(|begun| !begun.contains('\n'));
    let added = serde_json::to_string(&verdict)?;
    match (begun, added.strip_prefix('{')) {
        (Some(begun), Some(added)) if !verdict.keys().any(|key| line.contains_key(key)) => {
            let comma = if line.is_empty() { "" } else { "," };
            Ok(format!("{begun}{comma}{added}"))
        }
        _ => {
            line.extend(verdict);
            serde_json::to_string(&line)
        }
    }
}

impl Row {
    fn answer(&self) -> Answer<'_> {
        Answer {
            prompt: &self.prompt,
            completion: &self.completion,
            references: &self.references,
            fields: &self.fields,
            tokens: self.tokens,
            truncated: self.truncated,
        }
    }
}

impl Counts {
    /// Counts a verdict and gives what is added to its line.
    fn add(&mut self, judged: Result<Judged, RewardError>) -> Result<Map<String, Value>> {
        self.rows += 1;
        let mut line = Map::new();
        match judged {
            Ok(Judged { reward, failures }) => {
                self.reward += reward.total;
                self.judged += usize::from(reward.correctness.is_some());
                self.correct += usize::from(reward.correctness == Some(1));
                line.insert("reward".to_owned(), json!(reward.total));
                line.insert("correctness".to_owned(), json!(reward.correctness));
                line.insert("parts".to_owned(), json!(reward.parts));
                if !failures.is_empty() {
                    self.failed += 1;
                    line.insert("error".to_owned(), json!(failures.join("; ")));
                }
            }
            Err(error) if error.skips_group() => {
                self.skipped += 1;
                line.insert("reward".to_owned(), Value::Null);
                line.insert("correctness".to_owned(), Value::Null);
                line.insert("parts".to_owned(), json!({}));
                line.insert("skipped".to_owned(), json!(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(line)
    }

    fn line(&self, took: Duration) -> String {
        let scored = self.rows - self.skipped;
        let mut parts = vec![format!("{} answers", self.rows)];
        if scored > 0 {
            parts.push(format!("mean reward {:.4}", self.reward / scored as f64));
        }
        if self.judged > 0 {
            let share = self.correct as f64 / self.judged as f64;
            parts.push(format!("correct {} of {} ({:.1} %)", self.correct, self.judged, share * 100.0));
        }
        if self.failed > 0 {
            parts.push(format!("with an error that counts as 0 {}", self.failed));
        }
        if self.skipped > 0 {
            parts.push(format!("without a verdict {}", self.skipped));
        }
        let seconds = took.as_secs_f64();
        parts.push(format!("{seconds:.1} s, {:.0} a second", self.rows as f64 / seconds.max(1e-9)));
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(toml: &str) -> ScoreConfig {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rewards.toml");
        std::fs::write(&file, toml).unwrap();
        ScoreConfig::load(&file, &[]).unwrap()
    }

    #[test]
    fn a_row_may_leave_out_what_no_reward_asks_for() {
        let math = config("[[rewards]]\nkind = \"math\"\n");
        let found = row(r#"{"completion": "4", "answer": 4}"#, "a:1", &math).unwrap();
        assert_eq!((found.references, found.tokens, found.prompt.as_str()), (vec!["4".to_owned()], 0, ""));
        let length = config("[[rewards]]\nkind = \"length\"\nlength_max = 10\n");
        let error = row(r#"{"completion": "4"}"#, "a:1", &length).err().unwrap().to_string();
        assert!(error.contains("`tokens` is missing") && error.contains("`length`"), "{error}");
    }

    #[test]
    fn an_invalid_row_names_its_key() {
        let math = config("[[rewards]]\nkind = \"math\"\n");
        let cases = [
            ("[1]", "not a JSON object"),
            (r#"{"completion": ""#, "not JSON: EOF"),
            (r#"{"completion": "4", "completion": "5"}"#, "the key `completion` stands twice"),
            (r#"{"completion": "4", "fields": {"a": 1, "a": 2}}"#, "the key `fields.a` stands twice"),
            (r#"{"answer": "4"}"#, "`completion` is missing"),
            (r#"{"completion": {}}"#, "`completion` must be a text"),
            (r#"{"completion": "", "tokens": -1}"#, "`tokens` must be a whole number"),
            (r#"{"completion": "", "fields": []}"#, "`fields` must be an object"),
            (r#"{"completion": "", "truncated": 1}"#, "`truncated` must be true or false"),
        ];
        for (line, expected) in cases {
            let error = format!("{:#}", row(line, "a:1", &math).err().unwrap());
            assert!(error.starts_with(expected), "{line}: {error}");
        }
    }
}
