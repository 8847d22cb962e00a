//! What an evaluation found, as a table for a terminal: one column a set.

use crate::run::eval_report::EvalReport;
use crate::statistics::Estimate;

/// The table of one evaluation, one column for each report.
#[must_use]
pub fn eval_table(reports: &[EvalReport]) -> String {
    let mut rows = vec![row("", reports, |report| report.set.clone())];
    rows.push(row("prompts", reports, |report| Some(report.problems.to_string())));
    rows.push(row("answers to each", reports, |report| Some(report.completions_per_problem.to_string())));
    for k in keys(reports, |report| report.avg_at_k.iter().map(|_| report.completions_per_problem).collect())
    {
        rows.push(row(&format!("avg@{k}"), reports, |report| {
            report.avg_at_k.filter(|_| report.completions_per_problem == k).map(share)
        }));
    }
    for k in keys(reports, |report| report.pass_at.keys().copied().collect()) {
        rows.push(row(&format!("pass@{k}"), reports, |report| report.pass_at.get(&k).copied().map(share)));
    }
    for k in keys(reports, |report| report.maj_at.keys().copied().collect()) {
        rows.push(row(&format!("maj@{k}"), reports, |report| report.maj_at.get(&k).copied().map(share)));
    }
    rows.push(row("reward", reports, |report| report.reward_estimate.map(number)));
    let length = |mean: Option<f64>, median: Option<f64>| Some(format!("{:.1} ({:.0})", mean?, median?));
    let all = |report: &EvalReport| length(Some(report.mean_length), report.median_length);
    rows.push(row("tokens, mean (median)", reports, all));
    rows.push(row("  of right answers", reports, |report| {
        length(report.correct_length, report.correct_median_length)
    }));
    rows.push(row("  of wrong answers", reports, |report| {
        length(report.incorrect_length, report.incorrect_median_length)
    }));
    rows.push(row("cut off", reports, |report| Some(percent(report.clipped_ratio))));
    let counted = |count: usize| (count > 0).then(|| count.to_string());
    rows.push(row("without a verdict", reports, |report| counted(report.problems_unscored)));
    rows.push(row("rows left out", reports, |report| counted(report.rows_skipped)));
    rows.push(row("seconds", reports, |report| Some(format!("{:.1}", report.seconds))));
    aligned(&rows)
}

/// A line of the table; a cell that is not there is empty.
struct Row {
    name: String,
    cells: Vec<Option<String>>,
}

fn row(name: &str, reports: &[EvalReport], cell: impl Fn(&EvalReport) -> Option<String>) -> Row {
    Row { name: name.to_owned(), cells: reports.iter().map(cell).collect() }
}

/// What some of the reports have, each once and in order.
fn keys(reports: &[EvalReport], of: impl Fn(&EvalReport) -> Vec<usize>) -> Vec<usize> {
    let mut keys: Vec<usize> = reports.iter().flat_map(of).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A share with its 95 % interval.
fn share(estimate: Estimate) -> String {
    let [low, high] = estimate.interval;
    format!("{} [{:.1}, {:.1}]", percent(estimate.value), low * 100.0, high * 100.0)
}

fn number(estimate: Estimate) -> String {
    let [low, high] = estimate.interval;
    format!("{:.3} [{low:.3}, {high:.3}]", estimate.value)
}

/// Rows that no report has are left out; columns are as wide as their widest cell.
fn aligned(rows: &[Row]) -> String {
    let rows: Vec<_> = rows.iter().filter(|row| row.cells.iter().any(Option::is_some)).collect();
    let columns = rows.iter().map(|row| row.cells.len()).max().unwrap_or(0);
    let width = |texts: &mut dyn Iterator<Item = &str>| texts.map(|text| text.chars().count()).max();
    let names = width(&mut rows.iter().map(|row| row.name.as_str())).unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(&mut rows.iter().filter_map(|row| row.cells[column].as_deref())).unwrap_or(0))
        .collect();
    let line = |row: &&Row| {
        let mut line = format!("{:<names$}", row.name);
        for (cell, width) in row.cells.iter().zip(&widths) {
            line.push_str(&format!("  {:>width$}", cell.as_deref().unwrap_or_default()));
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::answers::tests::record;
    use crate::run::eval_report::Summing;

    fn report(set: Option<&str>, right: &[bool]) -> EvalReport {
        let summing = Summing { is_same: &|one, other| one == other, seed: 1, seconds: 2.0 };
        let found = EvalReport::of(&[record("a", "p:1", right)], &summing);
        EvalReport { set: set.map(str::to_owned), ..found }
    }

    #[test]
    fn sets_stand_side_by_side_and_share_their_rows() {
        let table = eval_table(&[report(Some("one"), &[true]), report(Some("two"), &[true, false])]);
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split("  ").filter(|cell| !cell.trim().is_empty()).map(str::trim).collect())
            .collect();
        let expected: [&[&str]; 12] = [
            &["one", "two"],
            &["prompts", "1", "1"],
            &["answers to each", "1", "2"],
            &["avg@1", "100.0 % [100.0, 100.0]"],
            &["avg@2", "50.0 % [50.0, 50.0]"],
            &["pass@1", "100.0 % [100.0, 100.0]", "50.0 % [50.0, 50.0]"],
            &["pass@2", "100.0 % [100.0, 100.0]"],
            &["maj@1", "100.0 % [100.0, 100.0]", "100.0 % [100.0, 100.0]"],
            &["maj@2", "100.0 % [100.0, 100.0]"],
            &["reward", "1.000 [1.000, 1.000]", "0.500 [0.500, 0.500]"],
            &["tokens, mean (median)", "10.0 (10)", "15.0 (20)"],
            &["of right answers", "10.0 (10)", "10.0 (10)"],
        ];
        assert_eq!(lines[..12], expected.map(<[&str]>::to_vec), "{table}");
        let widths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths[0], widths[1], "{table}");
    }

    #[test]
    fn one_set_without_a_name_has_no_head() {
        let table = eval_table(&[report(None, &[true])]);
        assert!(table.starts_with("prompts") && !table.contains("without a verdict"), "{table}");
    }
}
