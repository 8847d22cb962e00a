//! A training program with a verifier of its own: answers that check their result are worth more.
//!
//! ```text
//! cargo run --release -- train.toml
//! ```
//!
//! A verifier is a type with one method, and one line registers it under a name. A config asks for it with
//! `kind = "custom"` and that name. Everything else is longhaul.

use std::collections::BTreeMap;
use std::path::PathBuf;

use longhaul::{RunConfig, RunRequest};
use rewards::{Answer, RewardError, Verdict, Verifier};

/// 1 if the completion repeats the work after its first result: it has at least so many lines with an `=`.
struct ChecksItself {
    results_min: usize,
}

impl Verifier for ChecksItself {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        let results = answer.completion.lines().filter(|line| line.contains('=')).count();
        let mut verdict = Verdict::from(results >= self.results_min);
        // A part is a number for the metrics: rewards/checks_itself/results.
        verdict.parts.insert("results".to_owned(), results as f64);
        Ok(verdict)
    }
}

/// The verifiers of this program by name. They are made anew for training and for evaluation.
fn verifiers() -> BTreeMap<String, Box<dyn Verifier>> {
    BTreeMap::from([(
        "checks_itself".to_owned(),
        Box::new(ChecksItself { results_min: 2 }) as Box<dyn Verifier>,
    )])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let config = PathBuf::from(arguments.next().unwrap_or_else(|| "train.toml".to_owned()));
    // Further arguments are changes of config keys, as after `--set`: for example `run.steps=2`.
    let set: Vec<String> = arguments.collect();
    let config = RunConfig::load(&config, &set)?;
    let mut request = RunRequest::new("rust_verifier");
    request.verifiers = &verifiers;
    // This program is the run and nothing else: Ctrl-C ends it cleanly, and the terminal shows it.
    (request.owns_process, request.console) = (true, true);
    let outcome = longhaul::train(config, &request)?;
    println!("the run is in {}", outcome.folder.display());
    Ok(())
}
