//! How long outputs get, where a distribution says it and no model: for measurements and simulations. The
//! length of a completion is a pure function of (seed, group, member).

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use trajectory::random::length_fraction;
use trajectory::{FileError, Lines, rollout_files};

use crate::error::SimulateError;

/// The forms that are no file.
const FORMS: &str = "lognormal:MEDIAN,SIGMA, uniform:LOW,HIGH and constant:N";
/// Lengths beyond it are a mistake in a file: no output is so long.
const LENGTH_MAX: usize = 1 << 30;

/// A distribution of the lengths of completions in tokens, the end of output included. Whoever decodes cuts
/// them at the output limit.
#[derive(Debug, Clone, PartialEq)]
pub struct LengthDistribution {
    spec: String,
    shape: Shape,
}

#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Constant(usize),
    /// Every length from the first to the last.
    Uniform(usize, usize),
    LogNormal {
        median: f64,
        sigma: f64,
    },
    /// Lengths in rising order, each with the number of completions that are no longer.
    Recorded(Vec<(usize, u64)>),
}

impl LengthDistribution {
    /// Reads `lognormal:MEDIAN,SIGMA`, `uniform:LOW,HIGH`, `constant:N` or the path of what was measured: CSV or
    /// JSON lines of length and count, recorded completions, or the folder of a run with such in `rollouts/`.
    ///
    /// # Errors
    /// Names the part of the text, or the file and line, that is invalid.
    pub fn parse(spec: &str) -> Result<Self, SimulateError> {
        let shape = match spec.split_once(':') {
            Some(("lognormal", numbers)) => {
                let [median, sigma] = numbers_of::<f64, 2>(spec, numbers)?;
                if !(median >= 1.0 && median <= LENGTH_MAX as f64) {
                    return Err(refused(format!("{spec}: the median must be at least 1, got {median}")));
                }
                if !(sigma >= 0.0 && sigma.is_finite()) {
                    return Err(refused(format!("{spec}: sigma must be finite and at least 0, got {sigma}")));
                }
                Shape::LogNormal { median, sigma }
            }
            Some(("uniform", numbers)) => {
                let [low, high] = numbers_of::<usize, 2>(spec, numbers)?;
                if low == 0 || low > high || high > LENGTH_MAX {
                    return Err(refused(format!("{spec}: needs 1 <= LOW <= HIGH")));
                }
                Shape::Uniform(low, high)
            }
            Some(("constant", numbers)) => {
                let [length] = numbers_of::<usize, 1>(spec, numbers)?;
                if length == 0 || length > LENGTH_MAX {
                    return Err(refused(format!("{spec}: the length must be at least 1")));
                }
                Shape::Constant(length)
            }
            _ => Shape::Recorded(recorded(spec)?),
        };
        Ok(Self { spec: spec.to_string(), shape })
    }

    /// The text that it was read from.
    pub fn spec(&self) -> &str {
        &self.spec
    }

    /// The length of one completion.
    pub fn length(&self, seed: u64, group: u64, member: u32) -> usize {
        self.at(length_fraction(seed, group, member))
    }

    /// The length that a fraction of all completions do not exceed: the inverse of the distribution function.
    pub fn at(&self, fraction: f64) -> usize {
        assert!((0.0..1.0).contains(&fraction), "a fraction lies in [0, 1), not {fraction}");
        match &self.shape {
            Shape::Constant(length) => *length,
            Shape::Uniform(low, high) => low + ((high - low + 1) as f64 * fraction) as usize,
            Shape::LogNormal { median, sigma } => {
                let length = median * (sigma * normal_quantile(fraction)).exp();
                // The cast takes what is beyond all numbers to the greatest one.
                (length.round() as usize).clamp(1, LENGTH_MAX)
            }
            Shape::Recorded(counts) => {
                let total = counts.last().expect("a recording has lengths").1;
                let place = (fraction * total as f64) as u64;
                counts[counts.partition_point(|(_, up_to)| *up_to <= place)].0
            }
        }
    }
}

fn refused(reason: String) -> SimulateError {
    SimulateError::Lengths { reason }
}

fn numbers_of<T: std::str::FromStr, const N: usize>(
    spec: &str,
    numbers: &str,
) -> Result<[T; N], SimulateError> {
    let parsed: Result<Vec<T>, _> = numbers.split(',').map(|number| number.trim().parse()).collect();
    let wrong = || refused(format!("{spec}: `{numbers}` is not what is needed; the forms are {FORMS}"));
    parsed.map_err(|_| wrong())?.try_into().map_err(|_| wrong())
}

/// The quantile function of the standard normal distribution by Acklam's rational approximation, whose relative
/// error is below 1.2e-9. 0 has the quantile of the least random number above it.
fn normal_quantile(fraction: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 6] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 5] = [
        7.784_695_709_041_462e-3,
        3.224_671_290_700_398e-1,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
        1.0,
    ];
    /// Where the tails begin.
    const TAIL: f64 = 0.02425;
    let polynomial = |factors: &[f64], x: f64| factors.iter().fold(0.0, |sum, factor| sum * x + factor);
    let tail = |mass: f64| {
        let x = (-2.0 * mass.ln()).sqrt();
        polynomial(&C, x) / polynomial(&D, x)
    };
    let fraction = fraction.max(f64::EPSILON / 2.0);
    if fraction < TAIL {
        tail(fraction)
    } else if fraction > 1.0 - TAIL {
        -tail(1.0 - fraction)
    } else {
        let x = fraction - 0.5;
        x * polynomial(&A, x * x) / polynomial(&B, x * x)
    }
}

/// One line of a file: a length with its count, or a recorded completion, of which only the number of tokens
/// counts.
#[derive(Deserialize)]
struct LengthLine {
    length: Option<usize>,
    count: Option<u64>,
    completion_tokens: Option<Vec<IgnoredAny>>,
}

/// So many completions of this length.
struct Counted {
    length: usize,
    count: u64,
}

/// The most completions of a distribution: above it, a place among them is no longer a whole number in f64.
const COUNTED_MAX: u64 = 1 << 53;

fn recorded(spec: &str) -> Result<Vec<(usize, u64)>, SimulateError> {
    let path = Path::new(spec);
    if !path.exists() {
        return Err(refused(format!("{spec}: neither a file or folder, nor one of {FORMS}")));
    }
    let mut lengths = Vec::new();
    for file in files(path)? {
        read(&file, &mut lengths)?;
    }
    lengths.sort_unstable_by_key(|counted| counted.length);
    let mut counts: Vec<(usize, u64)> = Vec::new();
    let mut up_to = 0;
    for Counted { length, count } in lengths {
        up_to += count.min(COUNTED_MAX);
        if up_to > COUNTED_MAX {
            return Err(refused(format!("{spec}: counts more than 2^53 completions")));
        }
        match counts.last_mut() {
            Some(last) if last.0 == length => last.1 = up_to,
            _ => counts.push((length, up_to)),
        }
    }
    if up_to == 0 {
        return Err(FileError::content(path, "holds no lengths").into());
    }
    Ok(counts)
}

/// The file itself, or the recorded steps of a run.
fn files(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    if path.is_dir() { rollout_files(path) } else { Ok(vec![path.to_path_buf()]) }
}

fn read(path: &Path, lengths: &mut Vec<Counted>) -> Result<(), FileError> {
    let is_csv = path.extension().is_some_and(|extension| extension == "csv");
    for line in Lines::open(path)? {
        let line = line?;
        // A table may have a head.
        if is_csv && line.number == 1 && !line.text.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let found = if is_csv { of_table(&line.text) } else { of_object(&line.text) };
        let counted = found.map_err(|reason| line.refuse(reason))?;
        if counted.length == 0 || counted.length > LENGTH_MAX {
            return Err(line.refuse(format!("a length of {} tokens", counted.length)));
        }
        lengths.push(counted);
    }
    Ok(())
}

fn of_table(line: &str) -> Result<Counted, String> {
    let wrong = || format!("`{line}` is not length,count");
    let (length, count) = line.split_once(',').ok_or_else(wrong)?;
    Ok(Counted {
        length: length.trim().parse().map_err(|_| wrong())?,
        count: count.trim().parse().map_err(|_| wrong())?,
    })
}

fn of_object(line: &str) -> Result<Counted, String> {
    let line: LengthLine = serde_json::from_str(line).map_err(|error| error.to_string())?;
    match (line.length, line.completion_tokens) {
        (Some(length), _) => Ok(Counted { length, count: line.count.unwrap_or(1) }),
        (None, Some(tokens)) => Ok(Counted { length: tokens.len(), count: 1 }),
        (None, None) => Err("has neither `length` nor `completion_tokens`".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn parsed(spec: &str) -> LengthDistribution {
        LengthDistribution::parse(spec).expect("a distribution")
    }

    fn refusal(spec: &str) -> String {
        LengthDistribution::parse(spec).expect_err("no distribution").to_string()
    }

    fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it is in the folder")).expect("ours");
        std::fs::write(&path, text).expect("ours");
        let path = path.to_str().expect("plain letters").to_string();
        (folder, path)
    }

    #[test]
    fn quantiles_are_those_of_a_table() {
        let known =
            [(0.5, 0.0), (0.8, 0.841_621_233_573), (0.975, 1.959_963_984_54), (0.001, -3.090_232_306_17)];
        for (fraction, expected) in known {
            assert!((normal_quantile(fraction) - expected).abs() < 1e-8, "{fraction}");
        }
        assert!(normal_quantile(0.0).is_finite());
    }

    #[test]
    fn a_lognormal_has_its_median_and_its_tail() {
        let lengths = parsed("lognormal:64,1.5");
        assert_eq!(lengths.at(0.5), 64);
        // 64 * exp(1.5 * 0.8416212) = 226.17.
        assert_eq!(lengths.at(0.8), 226);
        assert_eq!(parsed("lognormal:3,0").at(0.999), 3);
        assert_eq!(parsed("lognormal:1,5").at(0.001), 1, "no output is empty");
    }

    #[test]
    fn a_histogram_gives_each_length_its_share() {
        let (_folder, csv) = file("lengths.csv", "length,count\n5,1\n2,2\n9,1\n2,0\n");
        let (_other, lines) = file(
            "lengths.jsonl",
            "{\"length\": 2, \"count\": 2}\n\n{\"length\": 9}\n{\"length\": 5, \"count\": 1}\n",
        );
        for path in [csv, lines] {
            let lengths = parsed(&path);
            let at = [0.0, 0.49, 0.5, 0.74, 0.75, 0.999].map(|fraction| lengths.at(fraction));
            assert_eq!(at, [2, 2, 5, 5, 9, 9], "{path}");
        }
    }

    #[test]
    fn a_run_gives_the_lengths_of_its_completions() {
        let (folder, _) =
            file("rollouts/step-000001.jsonl", "{\"completion_tokens\": [1, 2, 3], \"reward\": 1}\n");
        std::fs::write(folder.path().join("rollouts/step-000002.jsonl"), "{\"completion_tokens\": [7]}\n")
            .expect("ours");
        let lengths = parsed(folder.path().to_str().expect("plain letters"));
        assert_eq!((lengths.at(0.4), lengths.at(0.5)), (1, 3));
    }

    #[test]
    fn refusals_say_what_is_invalid() {
        assert_eq!(
            refusal("lognormal:64"),
            format!("lengths: lognormal:64: `64` is not what is needed; the forms are {FORMS}")
        );
        assert_eq!(
            refusal("lognormal:0.5,1"),
            "lengths: lognormal:0.5,1: the median must be at least 1, got 0.5"
        );
        assert!(refusal("lognormal:64,NaN").contains("sigma must be finite"));
        assert!(refusal("uniform:5,4").ends_with("needs 1 <= LOW <= HIGH"));
        assert!(refusal("uniform:0,4").ends_with("needs 1 <= LOW <= HIGH"));
        assert!(refusal("constant:0").ends_with("the length must be at least 1"));
        assert!(refusal("normal:3,4").starts_with("lengths: normal:3,4: neither a file or folder"));
        let (_folder, path) = file("a.jsonl", "{\"length\": 3}\n{\"size\": 3}\n");
        assert!(refusal(&path).ends_with("a.jsonl:2: has neither `length` nor `completion_tokens`"));
        let (_folder, path) = file("a.csv", "3,1\n4;1\n");
        assert!(refusal(&path).ends_with("a.csv:2: `4;1` is not length,count"));
        let (_folder, path) = file("b.csv", "length,count\n0,1\n");
        assert!(refusal(&path).ends_with("b.csv:2: a length of 0 tokens"));
        let (folder, path) = file("c.csv", "length,count\n");
        assert!(refusal(&path).ends_with("c.csv: holds no lengths"));
        assert!(refusal(folder.path().to_str().expect("plain")).contains("rollouts"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_longer_fraction_is_no_shorter_length(one in 0.0..1.0f64, two in 0.0..1.0f64, sigma in 0.0..3.0f64) {
            let (low, high) = (one.min(two), one.max(two));
            for spec in [format!("lognormal:40,{sigma}"), "uniform:3,90".to_string(), "constant:7".to_string()] {
                prop_assert!(parsed(&spec).at(low) <= parsed(&spec).at(high), "{}", spec);
            }
        }

        // Invariant 7: the length depends on seed, group and member, and on nothing else.
        #[test]
        fn lengths_follow_the_distribution_whatever_the_seed(seed: u64) {
            let lengths = parsed("uniform:2,5");
            let mut counts = BTreeMap::new();
            for group in 0..500 {
                for member in 0..8 {
                    let length = lengths.length(seed, group, member);
                    prop_assert_eq!(length, lengths.length(seed, group, member));
                    *counts.entry(length).or_insert(0) += 1;
                }
            }
            prop_assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [2, 3, 4, 5]);
            // 1000 of 4000 each; six standard deviations are 164.
            prop_assert!(counts.values().all(|count: &i32| (count - 1000).abs() < 170), "{:?}", counts);
        }

        #[test]
        fn a_recording_is_drawn_in_its_own_shares(counts in proptest::collection::vec((1usize..40, 1u64..6), 1..8)) {
            let text: String = counts.iter().map(|(length, count)| format!("{length},{count}\n")).collect();
            let (_folder, path) = file("lengths.csv", &text);
            let lengths = parsed(&path);
            let total: u64 = counts.iter().map(|(_, count)| count).sum();
            let mut expected: Vec<usize> =
                counts.iter().flat_map(|(length, count)| vec![*length; *count as usize]).collect();
            expected.sort_unstable();
            let drawn: Vec<usize> =
                (0..total).map(|place| lengths.at((place as f64 + 0.5) / total as f64)).collect();
            prop_assert_eq!(drawn, expected);
        }
    }
}
