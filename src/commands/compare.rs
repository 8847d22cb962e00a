//! `longhaul compare`: whether one model answers the same prompts better than another, or only by chance.

use anyhow::Result;
use serde_json::json;

use crate::cli::CompareArgs;
use crate::commands::report_place::ReportPlace;
use crate::records::answers::Answers;
use crate::records::output::Inputs;
use crate::run::comparison::Comparison;

/// Compares the answers in two files, or in the folders of two evaluations of a run.
///
/// # Errors
/// Names the line that is no answer of an evaluation, or what only one of the two has.
pub fn compare(args: &CompareArgs) -> Result<()> {
    let mut inputs = Inputs::default();
    inputs.note(&args.before);
    inputs.note(&args.after);
    let place = ReportPlace::of(args.json.as_deref(), &inputs, false)?;
    let (before, after) = (Answers::read(&args.before)?, Answers::read(&args.after)?);
    let comparison = Comparison::of(&before, &after, args.seed)?;
    comparison.lines().iter().for_each(|line| place.tell(line));
    place.write(&json!(comparison))
}
