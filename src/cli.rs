//! The command line: what can be asked of longhaul. What is done about it stands in the other modules.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kernels::Precision;
use rollout::KvCache;
use serde::{Deserialize, Serialize};

use crate::VERSION;

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
    /// Streams a model's answer to a prompt
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
    /// Runs the scheduler and the queue on a virtual clock, without a model, and recommends segments and slots
    Simulate(SimulateArgs),
    /// Measures time and memory on this machine
    #[command(subcommand)]
    Bench(Bench),
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// One forward and backward pass: whole, checkpointed, and in chunks
    Streambp(BenchStreambpArgs),
    /// Tokens per second of decoding, by batch and context
    Decode(BenchDecodeArgs),
    /// The real trainer by the number of segments, on one distribution of lengths
    Segments(BenchSegmentsArgs),
}

/// How gradients are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientPath {
    /// Everything on one tape
    Unchunked,
    /// Layer inputs kept, each layer computed again whole
    Checkpointed,
    /// Layer inputs kept, layers and head in chunks of the sequence
    Streambp,
}

/// When gradients are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Errors {
    /// Up to 8192 tokens, where memory allows
    Auto,
    /// At every length
    Always,
    /// Not at all
    Never,
}

/// How decoding holds a model's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DecodePrecision {
    /// As they are
    F32,
    /// Rounded to 16 bits
    Bf16,
    /// Rounded to 8 bits with a scale an output
    I8,
}

impl From<DecodePrecision> for Precision {
    fn from(precision: DecodePrecision) -> Self {
        match precision {
            DecodePrecision::F32 => Self::F32,
            DecodePrecision::Bf16 => Self::Bf16,
            DecodePrecision::I8 => Self::I8,
        }
    }
}

/// In how many bits keys and values are cached.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheBits {
    /// As they are
    F32,
    /// Rounded to 16 bits
    Bf16,
}

impl From<CacheBits> for KvCache {
    fn from(bits: CacheBits) -> Self {
        match bits {
            CacheBits::F32 => Self::F32,
            CacheBits::Bf16 => Self::Bf16,
        }
    }
}

/// Where the layers' inputs wait for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerInputs {
    /// In memory, as they are
    Memory,
    /// In memory, rounded to bfloat16
    Bf16,
    /// In a file in the system's folder for temporary files
    File,
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
    /// Replaces the run that is in the folder given with --run; with --resume and a checkpoint, removes later ones
    #[arg(long)]
    pub overwrite: bool,
}

/// Where a training run begins.
#[derive(Args, Clone, Debug, Default)]
pub struct Start {
    /// Goes on with a run as if nothing had happened: its folder, one of its checkpoints, or `latest`, which
    /// is the folder given with --run or else the newest `runs/<config>-<n>`
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
    after_help = "Example:\n  longhaul eval configs/quickstart.toml --model runs/quickstart-1/checkpoints/step-30 --json"
)]
pub struct EvalArgs {
    /// The config file; its sections data, rollout, rewards and eval are read
    pub config: PathBuf,
    /// The model: a Hugging Face directory
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Prints one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Changes to the config.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `longhaul generate`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  longhaul generate --model models/quickstart --prompt '12+34=' --set rollout.temperature=0"
)]
pub struct GenerateArgs {
    /// The model: a Hugging Face directory
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The prompt, given to the model as it stands
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// Puts the prompt into the model's chat template, as one message of the user
    #[arg(long)]
    pub chat: bool,
    /// Changes a setting: run.{seed,device,threads}, model.positions_max, rollout.{output_tokens_max,temperature,top_p,
    /// top_k,stop,stop_token_ids,min_tokens,include_stop_str_in_output}, data.template.NAME
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// `longhaul logprobs`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  echo '{\"tokens\":[1,5,9]}' > in.jsonl\n  longhaul logprobs --model models/quickstart --input in.jsonl --output out.jsonl\n\n\
                  Each line of the output has `logprobs` and `entropies`, in nats at temperature 1; entry k belongs to token k+1."
)]
pub struct LogprobsArgs {
    /// The model: a Hugging Face directory
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// JSON lines, each with `tokens`
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where the JSON lines are written
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Computes by cached decoding instead of the training forward
    #[arg(long)]
    pub cached: bool,
    /// Changes a setting: run.{device,threads}, model.positions_max
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
                  A line has `completion` and may have `prompt`, `answer`, `tokens`, `truncated` and `fields`. It comes \
                  back with `reward`, `correctness` and `parts`."
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

/// `longhaul bench streambp`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  longhaul bench streambp --shape 256,6,8,8,768,4096 --tokens 1024,4096 --json"
)]
pub struct BenchStreambpArgs {
    /// A Hugging Face directory whose weights are used
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Without a model, random weights of this shape: hidden,layers,heads,kv_heads,intermediate,vocabulary
    #[arg(long, value_name = "NUMBERS", default_value = "256,6,8,8,768,4096")]
    pub shape: String,
    /// Lengths of the sequence
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "1024,2048,4096,8192")]
    pub tokens: Vec<usize>,
    /// Which paths are measured
    #[arg(long, value_delimiter = ',', default_value = "unchunked,checkpointed,streambp")]
    pub paths: Vec<GradientPath>,
    /// Measurements of each, whose median counts
    #[arg(long, default_value_t = 3)]
    pub repeats: usize,
    /// Tokens of a chunk in the layers
    #[arg(long, default_value_t = 512)]
    pub layer_chunk_tokens: usize,
    /// Tokens of a chunk in the head
    #[arg(long, default_value_t = 256)]
    pub head_chunk_tokens: usize,
    /// Attention's results that StreamBP keeps for the backward pass, in MiB
    #[arg(long, default_value_t = 96)]
    pub attention_kept_mib: u64,
    /// Other activations that StreamBP keeps of the same layers, in MiB
    #[arg(long, default_value_t = 0)]
    pub activations_kept_mib: u64,
    /// Where StreamBP keeps the layers' inputs
    #[arg(long, default_value = "memory")]
    pub layer_inputs: LayerInputs,
    /// When the gradients are compared with those of the whole computation, which takes its time and memory; the
    /// measured time and peak are without it
    #[arg(long, num_args = 0..=1, default_value = "auto", default_missing_value = "always", require_equals = true)]
    pub errors: Errors,
    /// Prints one JSON object a row
    #[arg(long)]
    pub json: bool,
}

/// `longhaul bench decode`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  longhaul bench decode --shape 576,30,9,3,1536,49152 --batches 1,16 --contexts 512"
)]
pub struct BenchDecodeArgs {
    /// A Hugging Face directory whose weights are used
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Without a model, random weights of this shape: hidden,layers,heads,kv_heads,intermediate,vocabulary
    #[arg(long, value_name = "NUMBERS", default_value = "576,30,9,3,1536,49152")]
    pub shape: String,
    /// Contexts that are decoded together
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "1,8,16,64")]
    pub batches: Vec<usize>,
    /// Tokens of each context before the first step
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "512,4096,16384")]
    pub contexts: Vec<usize>,
    /// How the matrices are held
    #[arg(long, default_value = "f32")]
    pub precision: DecodePrecision,
    /// How keys and values are cached
    #[arg(long, value_name = "PRECISION", default_value = "f32")]
    pub kv_cache: CacheBits,
    /// Measurements of each, whose median counts
    #[arg(long, default_value_t = 5)]
    pub repeats: usize,
    /// Prints one JSON object a row
    #[arg(long)]
    pub json: bool,
}

/// `longhaul bench segments`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  longhaul bench segments --segments 0,2,4 --steps 10 --json\n  \
                  longhaul bench segments configs/quickstart.toml --segments 0,4 --set run.seed=2\n\n\
                  A row of 0 segments is whole outputs in turns with the learner: all outputs of a step at once, and \
                  all waited for. docs/guide/measuring-segments.md says what each column means.")]
pub struct BenchSegmentsArgs {
    /// The config file whose model and data are used; without one, a random model on problems of a task
    pub config: Option<PathBuf>,
    /// A Hugging Face directory whose weights are used
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Without config and model, random weights of this shape: hidden,layers,heads,kv_heads,intermediate,vocabulary
    #[arg(long, value_name = "NUMBERS", default_value = "512,8,8,4,1536,4096")]
    pub shape: String,
    /// Numbers of segments; 0 is whole outputs in turns with the learner
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "0,1,2,4,8,16")]
    pub segments: Vec<usize>,
    /// Lengths in place of the model's own: lognormal:MEDIAN,SIGMA, uniform:LOW,HIGH, constant:N, a histogram or a run
    #[arg(long, value_name = "SPEC")]
    pub lengths: Option<String>,
    /// Optimizer steps of each row, of which the first quarter, in which slots fill, is left out
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Decoding slots where there are segments; by default those of the config
    #[arg(long, value_name = "N")]
    pub slots: Option<usize>,
    /// Measurements of each row, with other seeds, whose medians count
    #[arg(long, default_value_t = 1)]
    pub repeats: usize,
    /// Prints one JSON object a row
    #[arg(long)]
    pub json: bool,
    /// Runs the config as it is and prints the row: how a row gets a process of its own
    #[arg(long, hide = true, requires = "config")]
    pub as_row: bool,
    /// Measures the accuracy of the row's last weights
    #[arg(long, hide = true)]
    pub evaluate: bool,
    /// Ends the row by trained tokens instead of steps
    #[arg(long, hide = true)]
    pub trained_tokens: Option<u64>,
    /// Changes to the config.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `longhaul simulate`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  longhaul simulate configs/quickstart.toml --lengths lognormal:40,0.8\n  \
                  longhaul bench segments --segments 0,1,4 --json > rows.jsonl; longhaul simulate --costs-of rows.jsonl\n  \
                  longhaul simulate --lengths lognormal:4000,1.2 --output-tokens-max 32768 --slots 1024 --group-size 16 \
                  --groups-per-step 64 --decode-step-ms 25 --contention 1\n\n\
                  docs/guide/measuring-segments.md says what each column means and what the costs are."
)]
pub struct SimulateArgs {
    /// The config file; without one, the setting of `bench segments`
    pub config: Option<PathBuf>,
    /// How long outputs get: lognormal:MEDIAN,SIGMA, uniform:LOW,HIGH, constant:N, a histogram or a run
    #[arg(long, value_name = "SPEC")]
    pub lengths: Option<String>,
    /// Numbers of segments; 0 is whole outputs in turns with the learner
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "0,1,2,4,8,16")]
    pub segments: Vec<usize>,
    /// Steps of each row, of which the first quarter, in which slots fill, is left out; by default those of the config
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Sets rollout.trajectories_open_max where there are segments
    #[arg(long, value_name = "N")]
    pub slots: Option<usize>,
    /// Sets rollout.output_tokens_max
    #[arg(long, value_name = "N")]
    pub output_tokens_max: Option<usize>,
    /// Sets rollout.group_size
    #[arg(long, value_name = "N")]
    pub group_size: Option<usize>,
    /// Sets learner.groups_per_step, and the queue's room to what the staleness allows
    #[arg(long, value_name = "N")]
    pub groups_per_step: Option<usize>,
    /// Sets queue.staleness_versions_max, and the queue's room to what it allows
    #[arg(long, value_name = "N")]
    pub staleness: Option<u64>,
    /// Tokens of every prompt
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub prompt_tokens: usize,
    /// Finds the costs that are not given: a run folder, or the JSON lines of `bench segments`
    #[arg(long, value_name = "PATH")]
    pub costs_of: Option<PathBuf>,
    /// What each piece of work costs.
    #[command(flatten)]
    pub costs: CostArgs,
    /// Prints one JSON object a row
    #[arg(long)]
    pub json: bool,
    /// Changes to the config.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// Costs that are given and not found or left at their defaults.
#[derive(Args, Clone, Debug, Default)]
pub struct CostArgs {
    /// One pass over the weights: once a decode step for each policy version that slots decode under
    #[arg(long, value_name = "MS")]
    pub decode_step_ms: Option<f64>,
    /// One busy slot in a decode step
    #[arg(long, value_name = "US")]
    pub decode_slot_us: Option<f64>,
    /// One token in the context of a busy slot in a decode step
    #[arg(long, value_name = "NS")]
    pub context_token_ns: Option<f64>,
    /// One token of a cache that is filled
    #[arg(long, value_name = "US")]
    pub prefill_token_us: Option<f64>,
    /// One completion token that the learner takes
    #[arg(long, value_name = "US")]
    pub learn_token_us: Option<f64>,
    /// What each step of the learner takes besides
    #[arg(long, value_name = "MS")]
    pub learn_step_ms: Option<f64>,
    /// How many times as long each side takes while both are busy: 1 on separate devices, 2 on one device
    #[arg(long, value_name = "FACTOR")]
    pub contention: Option<f64>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_that_parses() {
        for command in Cli::command().get_subcommands().filter(|command| command.get_name() != "bench") {
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
        for command in Cli::command().get_subcommands().filter(|command| command.get_name() != "bench") {
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
