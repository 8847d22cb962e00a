//! A verifier of one's own in a real training run: answers that never show a `0` are worth more.
//!
//! ```text
//! cargo run --release --example custom_verifier
//! ```
//!
//! A verifier is a type with one method. It is registered under a name, and `[[rewards]]` in the config asks
//! for it with `kind = "custom"` and that name; weight and metrics are as for any other reward.

use std::collections::BTreeMap;
use std::path::Path;

use longhaul::cli::RunPlace;
use longhaul::config::RunConfig;
use rewards::{Answer, RewardError, Verdict, Verifier};

/// The share of characters that are no zero.
struct FewZeros;

impl Verifier for FewZeros {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        let characters = answer.completion.chars().count().max(1);
        let zeros = answer.completion.chars().filter(|&character| character == '0').count();
        Ok(Verdict::from(1.0 - zeros as f64 / characters as f64))
    }
}

fn verifiers() -> BTreeMap<String, Box<dyn Verifier>> {
    BTreeMap::from([("few_zeros".to_owned(), Box::new(FewZeros) as Box<dyn Verifier>)])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/custom_verifier.toml");
    // Arguments are changes of config keys, as after `--set`: for example `run.steps=2`.
    let set: Vec<String> = std::env::args().skip(1).collect();
    let config = RunConfig::load(&config, &set)?;
    let outcome = longhaul::run::train::train(&config, "custom_verifier", &RunPlace::default(), &verifiers)?;
    println!(
        "metrics of the verifier: rewards/few_zeros/mean in {}",
        outcome.folder.join("metrics.jsonl").display()
    );
    Ok(())
}
