//! The page of the metrics, from their catalogue.

use std::fmt::Write as _;

use super::cells::{code, head, row};
use crate::records::catalogue::FAMILIES;

const OPENING: &str = "\
# Metrics

<!-- Written by `longhaul docs`; change src/records/catalogue.rs and write it again. -->

Tags of `metrics.jsonl` and TensorBoard. `*` is the name of a reward, or of a part of its verdict. Counts are of the step unless
the sentence says otherwise. What was not measured in a step has no value there. Tags under `timing_s/`, `time/` and `perf/`
depend on the clock. Each line of `metrics.jsonl` also has `step`, the number of optimizer steps that are made; 0 is the evaluation
before the first one. TensorBoard alone has the histograms `histogram/{lengths,rewards,advantages,ratios}` of a step's completions
(the last one of its tokens), and the texts `completions/0`, `completions/1` ... of `metrics.completions_logged` completions.
[Troubleshooting](../guide/troubleshooting.md) says what to do about a value.
";

/// The page.
pub(super) fn page() -> String {
    let mut text = OPENING.to_owned();
    for family in FAMILIES {
        let _ = write!(text, "\n## {}\n\n{}", family.name, head(&["tag", "unit", "what it is"]));
        for metric in family.metrics {
            text.push_str(&row(&[&code(metric.tag), metric.unit, metric.what]));
        }
    }
    text
}
