//! The command line: what can be asked of longhaul. What is done about it stands in the other modules.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::VERSION;

mod bench;
mod data;
mod files;
mod flags;
mod simulate;

pub use bench::{Bench, BenchDecodeArgs, BenchSegmentsArgs, BenchStreambpArgs, Errors};
pub use data::{DataArgs, DataSplit, FilterArgs};
pub use files::{
    ExportArgs, FloatWord, GgufWord, Import, ImportGgufArgs, ImportPeftArgs, ModelPlace, ReadingWord,
};
pub use flags::in_flags;
pub use simulate::SimulateArgs;

/// Reinforcement-learning fine-tuning of language models whose outputs are very long.
#[derive(Debug, Parser)]
#[command(name = "longhaul", version = VERSION, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trains a model as the config says
    Train(TrainArgs),
    /// Makes a model, or warms one up, on demonstrations (supervised)
    Sft(SftArgs),
    /// Measures a model on held-out prompts
    Eval(EvalArgs),
    /// Compares what two models answered to the same held-out prompts
    Compare(CompareArgs),
    /// Streams a model's answer to a prompt, or writes its answers to the prompts of a file
    Generate(GenerateArgs),
    /// Writes the log-probability and entropy of every given token
    Logprobs(LogprobsArgs),
    /// Writes the token ids of texts and conversations, as a prompt of them has
    Tokenize(TokenizeArgs),
    /// Runs the learner alone on recorded completions
    Replay(ReplayArgs),
    /// Judges answers in a file by the rewards of a config, without a model
    Score(ScoreArgs),
    /// Validates a config and prints it with every default filled in
    Check(CheckArgs),
    /// Shows what the model will see: prompts as they are rendered, and what becomes of the rows of the data
    Data(DataArgs),
    /// Keeps the rows whose prompts a model solves some times of n, and writes how often
    Filter(FilterArgs),
    /// Runs the scheduler and the queue on a virtual clock, without a model, and recommends segments and slots
    Simulate(SimulateArgs),
    /// Makes Hugging Face directories of models of other programs
    #[command(subcommand)]
    Import(Import),
    /// Writes the model of a checkpoint for other programs: in another type, in shards, as GGUF
    Export(ExportArgs),
    /// Measures time and memory on this machine
    #[command(subcommand)]
    Bench(Bench),
    /// Writes the reference of commands, config keys and metrics from the code
    Docs(DocsArgs),
}

/// `longhaul docs`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  longhaul docs docs/reference")]
pub struct DocsArgs {
    /// The folder that the pages are written to
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// The repository, whose doc comments the page of the config shows
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub repository: PathBuf,
}

impl Command {
    /// The config file that the command line names and the keys that it sets, to tell where a key is from.
    #[must_use]
    pub fn settings(&self) -> (Option<&Path>, &[String]) {
        match self {
            Self::Train(args) => (Some(&args.config), &args.overrides.set),
            Self::Sft(args) => (Some(&args.config), &args.overrides.set),
            Self::Eval(args) => (Some(&args.config), &args.overrides.set),
            Self::Check(args) => (Some(&args.config), &args.overrides.set),
            Self::Data(args) => (Some(&args.config), &args.overrides.set),
            Self::Filter(args) => (Some(&args.config), &args.overrides.set),
            Self::Generate(args) => (None, &args.set),
            _ => (None, &[]),
        }
    }
}

/// The commands with their arguments, as clap has them.
#[must_use]
pub fn arguments() -> clap::Command {
    let mut program = Cli::command();
    program.build();
    program
}

/// Changes to the config, shared by all commands.
#[derive(Args, Clone, Debug, Default)]
pub struct Overrides {
    /// Changes a config key, for example `optimizer.learning_rate=1e-5`; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Where a run writes.
#[derive(Args, Clone, Debug, Default)]
pub struct RunPlace {
    /// The run folder; by default the next free `runs/<config>-<n>`
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Replaces the run that is in the folder given with --run
    #[arg(long)]
    pub overwrite: bool,
}

/// Where a training run begins.
#[derive(Args, Clone, Debug, Default)]
pub struct Start {
    /// Continues a run from its newest state, or from a checkpoint: the run folder, one of its checkpoints, or
    /// `latest`, which is the folder given with --run or else the newest `runs/<config>-<n>`
    #[arg(long, value_name = "DIR|latest", num_args = 0..=1, default_missing_value = LATEST)]
    pub resume: Option<PathBuf>,
    /// Resumes under a config that changes what is learned
    #[arg(long, requires = "resume")]
    pub allow_config_change: bool,
    /// Begins a new run with the weights of a checkpoint, or of a run's newest one
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub fork: Option<PathBuf>,
    /// Takes the optimizer's moments as well
    #[arg(long, requires = "fork")]
    pub fork_optimizer: bool,
}

/// Stands for the newest run.
pub const LATEST: &str = "latest";

/// `longhaul train`.
#[derive(Args, Debug)]
#[command(
    mut_arg("overwrite", |arg| arg.help(
        "Replaces the run that is in the folder given with --run; with --resume and a checkpoint, removes later ones"
    )),
    after_help = "Examples:\n  longhaul train configs/quickstart.toml --set run.seed=2 --run runs/second\n  longhaul train configs/quickstart.toml --resume runs/second"
)]
pub struct TrainArgs {
    /// The config file
    pub config: PathBuf,
    /// Where the run writes.
    #[command(flatten)]
    pub place: RunPlace,
    /// Where it begins.
    #[command(flatten)]
    pub start: Start,
    /// Changes to the config.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `longhaul sft`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  longhaul sft configs/quickstart_sft.toml --run runs/start")]
pub struct SftArgs {
    /// The config file, with a section `[sft]`
    pub config: PathBuf,
    /// Where the run writes.
    #[command(flatten)]
    pub place: RunPlace,
    /// Changes to the config.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `longhaul eval`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  longhaul eval configs/quickstart.toml --model runs/quickstart-1/checkpoints/step-30 --json\n  \
                  longhaul eval configs/quickstart.toml --model models/quickstart --output answers.jsonl --json numbers.json\n\n\
                  A line of the output is a prompt: `set`, `prompt_id`, `prompt`, `answer` and `completions`, a list with \
                  `completion`,\n`tokens`, `finish`, `stop_reason`, `reward`, `correctness`, `parts` and `extracted`, the final \
                  answer."
)]
pub struct EvalArgs {
    /// The config file; its sections data, rollout, rewards and eval are read
    pub config: PathBuf,
    /// The model: a Hugging Face directory, or one of an adapter in peft's format
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The base of an adapter, in the place of the one that the adapter names
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// Where the answers are written, one JSON object a prompt
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Prints one JSON object instead of text, or writes it to a file
    #[arg(long, value_name = "FILE|-", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
    /// Changes to the config.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `longhaul compare`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  longhaul compare runs/quickstart-1/evals/step-0 runs/quickstart-1/evals/step-30\n\n\
                  Prompts are paired by their ids. One answer to each: McNemar's exact test; several: the permutation of the two\n\
                  models at each prompt. Sets, prompts or numbers of answers that differ are refused."
)]
pub struct CompareArgs {
    /// The answers of the first model: a file of `longhaul eval --output`, or a folder evals/step-N of a run
    #[arg(value_name = "BEFORE")]
    pub before: PathBuf,
    /// Those of the second one
    #[arg(value_name = "AFTER")]
    pub after: PathBuf,
    /// The seed of the resamples behind intervals and tests
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Prints one JSON object instead of text, or writes it to a file
    #[arg(long, value_name = "FILE|-", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
}

/// `longhaul generate`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  longhaul generate --model models/quickstart --prompt '4+3*2-5=' --set rollout.temperature=0\n  \
                  echo '{\"text\":\"4+3*2-5=\"}' > prompts.jsonl\n  \
                  longhaul generate --model models/quickstart --input prompts.jsonl --output answers.jsonl\n\n\
                  A line of the input has `text`, or `messages` and what else `longhaul tokenize` reads, or `tokens`, which are\n\
                  taken as they are. One of the output has `prompt_tokens`, `completion_tokens`, their `logprobs`, `completion`,\n\
                  `finish` and `stop_reason`.\n\n\
                  Without --set: rollout.output_tokens_max = 1024, rollout.temperature = 1, run.seed = 0."
)]
pub struct GenerateArgs {
    /// The model: a Hugging Face directory, or one of an adapter in peft's format
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The base of an adapter, in the place of the one that the adapter names
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// The prompt, given to the model as it stands
    #[arg(long, value_name = "TEXT", required_unless_present = "input")]
    pub prompt: Option<String>,
    /// Puts the prompt into the model's chat template, as one message of the user
    #[arg(long, requires = "prompt")]
    pub chat: bool,
    /// Prompts, one JSON object a line, in the place of --prompt
    #[arg(long, value_name = "FILE", conflicts_with = "prompt", requires = "output")]
    pub input: Option<PathBuf>,
    /// Where the answers to the prompts of a file are written, one JSON object a line
    #[arg(long, value_name = "FILE", requires = "input")]
    pub output: Option<PathBuf>,
    /// Changes a setting: run.{seed,device,threads}, model.{positions_max,dtype}, rollout.{output_tokens_max,temperature,top_p,
    /// top_k,stop,stop_token_ids,min_tokens,include_stop_str_in_output}, data.template.NAME
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// `longhaul logprobs`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  echo '{\"tokens\":[1,5,9]}' > in.jsonl\n  longhaul logprobs --model models/quickstart --input in.jsonl --output out.jsonl\n\n\
                  Each line of the output has `logprobs` and `entropies`, in nats at temperature 1; entry k belongs to token k+1.\n\
                  The files in rollouts/ of a run are read too: the tokens are those of the prompt and the completion."
)]
pub struct LogprobsArgs {
    /// The model: a Hugging Face directory, or one of an adapter in peft's format
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The base of an adapter, in the place of the one that the adapter names
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// JSON lines, each with `tokens`, or with `prompt_tokens` and `completion_tokens`
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where the JSON lines are written
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Computes by cached decoding instead of the training forward
    #[arg(long)]
    pub cached: bool,
    /// Changes a setting: run.{device,threads}, model.{positions_max,dtype}
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// `longhaul tokenize`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  echo '{\"text\":\"1+2=\"}' > in.jsonl\n  longhaul tokenize --model models/quickstart --input in.jsonl --output out.jsonl\n\n\
                  A line has `text`, or `messages` and, where wanted, `tools`, `chat_template_kwargs`,\n\
                  `add_generation_prompt = false` or `continue_final_message = true`. Each line of the output has `text`, as\n\
                  the chat template renders it, and `tokens`."
)]
pub struct TokenizeArgs {
    /// The model: a Hugging Face directory
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// JSON lines, each with `text` or `messages`
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where the JSON lines are written
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Changes a setting: data.template.NAME, a variable of the chat template
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// `longhaul replay`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  longhaul replay configs/quickstart.toml --rollouts runs/quickstart-1/rollouts/step-000001.jsonl"
)]
pub struct ReplayArgs {
    /// The config file
    pub config: PathBuf,
    /// Recorded completions, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub rollouts: PathBuf,
    /// Where the run writes.
    #[command(flatten)]
    pub place: RunPlace,
    /// Changes to the config.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `longhaul score`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  echo '{\"completion\":\"so \\\\boxed{42}\",\"answer\":\"42\"}' > answers.jsonl\n  \
                  echo '[[rewards]]' > rewards.toml; echo 'kind = \"math\"' >> rewards.toml\n  \
                  longhaul score --rewards rewards.toml --input answers.jsonl --output scored.jsonl\n\n\
                  A line has `completion` and may have `prompt`, `answer`, `tokens`, `truncated` and `fields`; the files \
                  in rollouts/ of a run\n\
                  are read too. It comes back with `reward`, `correctness` and `parts`; with `error` where a verifier \
                  failed and on_error = \"zero\"\n\
                  lets it count as 0, and with `skipped` where on_error = \"skip_group\"."
)]
pub struct ScoreArgs {
    /// A TOML file with `[[rewards]]`; the config of a run will do
    #[arg(long, value_name = "FILE")]
    pub rewards: PathBuf,
    /// Answers, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where the judged lines are written, in the same order
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Changes to the config.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `longhaul check`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  longhaul check configs/quickstart.toml --set learner.advantage.alpha=0.1"
)]
pub struct CheckArgs {
    /// The config file
    pub config: PathBuf,
    /// Changes to the config.
    #[command(flatten)]
    pub overrides: Overrides,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_that_parses() {
        let nested = ["bench", "import"];
        for command in
            Cli::command().get_subcommands().filter(|command| !nested.contains(&command.get_name()))
        {
            let help = command.get_after_help().expect("an example").to_string();
            let example = help.lines().find(|line| line.starts_with("  longhaul")).expect("a command line");
            let words = example.split_whitespace().map(|word| word.trim_matches('\''));
            let parsed = Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{example}: {parsed:?}");
            assert!(example.contains(&format!("longhaul {}", command.get_name())), "{example}");
        }
    }

    #[test]
    fn every_command_takes_set() {
        // `docs` and `compare` read no config, nor does what makes files of models; `bench` has commands of its own.
        let without = ["bench", "compare", "docs", "import", "export"];
        for command in
            Cli::command().get_subcommands().filter(|command| !without.contains(&command.get_name()))
        {
            assert!(command.get_arguments().any(|argument| argument.get_long() == Some("set")));
        }
    }

    #[test]
    fn set_may_come_more_than_once() {
        let cli = Cli::try_parse_from([
            "longhaul",
            "train",
            "a.toml",
            "--set",
            "run.seed=1",
            "--set",
            "run.steps=2",
        ]);
        let Command::Train(train) = cli.unwrap().command else { panic!("another command") };
        assert_eq!(train.overrides.set, ["run.seed=1", "run.steps=2"]);
    }
}
