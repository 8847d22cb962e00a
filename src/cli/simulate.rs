//! `longhaul simulate`: the setting and what work costs.

use std::path::PathBuf;

use clap::Args;

use super::Overrides;

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
