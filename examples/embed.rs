//! A training run inside another program, with a verifier of its own: answers that never show a `0` are worth more.
//!
//! ```text
//! cargo run --release --example embed
//! ```
//!
//! A verifier is a type with one method. The request registers it under a name, and a reward with `kind = "custom"`
//! and that name asks for it; weight and metrics are as for any other reward. A config file can have the reward as
//! well, as in `examples/rust_verifier/train.toml`.

use std::collections::BTreeMap;
use std::path::Path;

use longhaul::{RunConfig, RunRequest};
use rewards::{Answer, RewardConfig, RewardError, RewardKind, Verdict, Verifier};

/// The name of the reward.
const FEW_ZEROS: &str = "few_zeros";

/// The share of characters that are not `0`.
struct FewZeros;

impl Verifier for FewZeros {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        let characters = answer.completion.chars().count().max(1);
        let zeros = answer.completion.chars().filter(|&character| character == '0').count();
        Ok(Verdict::from(1.0 - zeros as f64 / characters as f64))
    }
}

/// The verifiers of this program by name. They are made for training and again for evaluation.
fn verifiers() -> BTreeMap<String, Box<dyn Verifier>> {
    BTreeMap::from([(FEW_ZEROS.to_owned(), Box::new(FewZeros) as Box<dyn Verifier>)])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart.toml");
    // Two steps; arguments change further config keys, as after `--set`: for example `eval.problems=64`.
    let set: Vec<String> =
        std::iter::once("run.steps=2".to_owned()).chain(std::env::args().skip(1)).collect();
    let mut config = RunConfig::load(&quickstart, &set)?;
    config.rewards.push(RewardConfig {
        name: FEW_ZEROS.to_owned(),
        weight: 0.1,
        correctness: false,
        gate: None,
        kind: RewardKind::Custom {},
    });
    let mut request = RunRequest::new("embed");
    request.verifiers = &verifiers;
    // Signals stay with this program; without the next line the terminal stays with it as well.
    request.console = true;
    let outcome = longhaul::train(config, &request)?;
    println!(
        "{} steps; the verifier's metric is rewards/{FEW_ZEROS}/mean in {}",
        outcome.steps,
        outcome.folder.join("metrics.jsonl").display()
    );
    Ok(())
}
