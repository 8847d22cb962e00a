//! What decoding and learning cost in seconds, as sums of a few products, and how these costs are found from what
//! a run took. Pure: the caller reads the numbers from metrics.

use serde::{Deserialize, Serialize};

/// Seconds of work by its amount.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostModel {
    /// One pass over the weights: once a decode step for each policy version that slots decode under.
    pub decode_step_s: f64,
    /// One busy slot in a decode step.
    pub decode_slot_s: f64,
    /// One token in the context of a busy slot in a decode step.
    pub context_token_s: f64,
    /// One token of a cache that is filled: of a prompt, or of a context under newer weights.
    pub prefill_token_s: f64,
    /// One completion token that the learner takes.
    pub learn_token_s: f64,
    /// What each step of the learner takes besides.
    pub learn_step_s: f64,
    /// How many times as long each side takes while both are busy.
    pub contention: Contention,
}

/// How many times as long each side takes while both are busy: 1 on separate devices; on a shared one 2, or less for the
/// side that gets more of it and more for the other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contention {
    /// Filling caches and decoding.
    pub decode: f64,
    /// Learning.
    pub learn: f64,
}

impl Contention {
    /// Each side takes so many times as long.
    pub const fn of_both(factor: f64) -> Self {
        Self { decode: factor, learn: factor }
    }
}

impl Default for CostModel {
    /// A model of 27 million parameters on two cores that decode and learn: about what `longhaul bench segments`
    /// finds there.
    fn default() -> Self {
        Self {
            decode_step_s: 0.010,
            decode_slot_s: 500e-6,
            context_token_s: 1e-6,
            prefill_token_s: 400e-6,
            learn_token_s: 1.5e-3,
            learn_step_s: 0.1,
            contention: Contention::of_both(2.0),
        }
    }
}

/// Decode steps in which the same slots are busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeWork {
    /// Policy versions that slots decode under.
    pub versions: u64,
    /// Busy slots.
    pub slots: u64,
    /// Tokens in their contexts before the first step.
    pub context_tokens: u64,
}

impl CostModel {
    /// Refuses costs that no work has.
    ///
    /// # Errors
    /// Names the cost.
    pub fn check(&self) -> Result<(), String> {
        let costs = [
            ("decode_step", self.decode_step_s),
            ("decode_slot", self.decode_slot_s),
            ("context_token", self.context_token_s),
            ("prefill_token", self.prefill_token_s),
            ("learn_token", self.learn_token_s),
            ("learn_step", self.learn_step_s),
        ];
        if let Some((name, cost)) = costs.iter().find(|(_, cost)| !(cost.is_finite() && *cost >= 0.0)) {
            return Err(format!("{name} must be finite and at least 0, got {cost}"));
        }
        if self.decode_step_s + self.decode_slot_s == 0.0 {
            return Err("decode_step and decode_slot are both 0: decoding would take no time".to_string());
        }
        let Contention { decode, learn } = self.contention;
        if let Some(factor) =
            [decode, learn].into_iter().find(|factor| !(factor.is_finite() && *factor >= 1.0))
        {
            return Err(format!("contention must be finite and at least 1, got {factor}"));
        }
        Ok(())
    }

    /// Seconds of `steps` decode steps, in which every context grows by a token each.
    pub fn decode_s(&self, work: DecodeWork, steps: u64) -> f64 {
        let DecodeWork { versions, slots, context_tokens } = work;
        let grown = slots as f64 * (steps as f64 - 1.0) / 2.0;
        let step = self.decode_step_s * versions as f64
            + self.decode_slot_s * slots as f64
            + self.context_token_s * (context_tokens as f64 + grown);
        step * steps as f64
    }

    /// Seconds of a learner's step.
    pub fn learn_s(&self, tokens: u64) -> f64 {
        self.learn_step_s + self.learn_token_s * tokens as f64
    }
}

/// What one step of a run took, and what was done in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The whole step.
    pub wall_s: f64,
    /// Filling caches and decoding.
    pub decode_s: f64,
    /// All that the learner's side did.
    pub learn_s: f64,
    /// Passes over the weights.
    pub weight_passes: f64,
    /// Tokens drawn.
    pub tokens: f64,
    /// Tokens in the contexts of busy slots, summed over the decode steps.
    pub context_token_steps: f64,
    /// Tokens of caches that were filled.
    pub prefill_tokens: f64,
    /// Completion tokens that entered the update.
    pub trained_tokens: f64,
}

/// A run of which so little overlaps counts as one in which decoding and learning take turns.
const OVERLAP_MIN: f64 = 0.05;
/// Steps that decoding costs are fitted to, at least.
const STEPS_MIN: usize = 3;
/// Tokens of filled caches over tokens drawn, from which on what filling costs is to be seen: a run that fills prompts
/// and rebuilds nothing does not show it beside all that decoding costs.
const FILLED_MIN: f64 = 0.25;
/// Contention beyond 10 is a machine that did something else as well.
const LOST_MAX: f64 = 0.9;

/// Finds the costs that explain what runs took, each given as its steps.
///
/// Where decoding and learning take turns in a run, its costs are those of the work alone: least squares without
/// negative costs. What runs in which both go on at the same time take more than that is contention. With runs of
/// the second kind only, the `contention` is not to be seen and is taken as it is given.
///
/// # Errors
/// If there are too few steps.
pub fn fit(runs: &[Vec<Observation>], contention: Option<Contention>) -> Result<CostModel, String> {
    let steps: usize = runs.iter().map(Vec::len).sum();
    if steps < STEPS_MIN {
        return Err(format!("{steps} steps beside the first of each run; costs need {STEPS_MIN}"));
    }
    let default = CostModel::default();
    let runs_with_steps = runs.iter().map(Vec::as_slice).filter(|run| !run.is_empty());
    let (apart, together) = runs_with_steps.partition::<Vec<_>, _>(|run| overlap(run) < OVERLAP_MIN);
    if apart.iter().map(|run| run.len()).sum::<usize>() < STEPS_MIN {
        let contention = contention.unwrap_or(default.contention);
        let alone: Vec<Observation> = runs.iter().flat_map(|run| undisturbed(run, contention)).collect();
        return Ok(CostModel { contention, ..least_squares(&alone) });
    }
    let alone: Vec<Observation> = apart.into_iter().flatten().copied().collect();
    let costs = least_squares(&alone);
    if together.is_empty() {
        return Ok(CostModel { contention: contention.unwrap_or(default.contention), ..costs });
    }
    Ok(beside(&together, &costs, contention))
}

/// Whether a run tells what filling caches costs.
fn fills(run: &[Observation]) -> bool {
    sum(run, |step| step.prefill_tokens) >= FILLED_MIN * sum(run, |step| step.tokens)
}

fn sum(run: &[Observation], part: impl Fn(&Observation) -> f64) -> f64 {
    run.iter().map(part).sum()
}

/// Seconds in which both sides of a run were busy, if never both were idle.
fn overlap_s(run: &[Observation]) -> f64 {
    sum(run, |step| step.decode_s + step.learn_s - step.wall_s).max(0.0)
}

/// The share of the run's time in which both sides were busy.
fn overlap(run: &[Observation]) -> f64 {
    overlap_s(run) / sum(run, |step| step.wall_s).max(f64::MIN_POSITIVE)
}

/// The steps as they would have been had each side been alone.
fn undisturbed(run: &[Observation], contention: Contention) -> Vec<Observation> {
    let both_s = overlap_s(run);
    let share = |seconds: f64, contention: f64| {
        (1.0 - both_s * (1.0 - 1.0 / contention) / seconds.max(f64::MIN_POSITIVE)).max(0.0)
    };
    let decode = share(sum(run, |step| step.decode_s), contention.decode);
    let learn = share(sum(run, |step| step.learn_s), contention.learn);
    run.iter()
        .map(|step| Observation { decode_s: step.decode_s * decode, learn_s: step.learn_s * learn, ..*step })
        .collect()
}

/// Decoding and learning costs of steps in which each side was alone. A token of a filled cache costs what a busy slot
/// does beside the pass over the weights, unless the steps tell.
fn least_squares(steps: &[Observation]) -> CostModel {
    let (fills, fill) = if fills(steps) { (1.0, 0.0) } else { (0.0, 1.0) };
    let mut decode = non_negative(
        &steps
            .iter()
            .map(|step| {
                let tokens = step.tokens + fill * step.prefill_tokens;
                let filled = fills * step.prefill_tokens;
                ([step.weight_passes, tokens, step.context_token_steps, filled], step.decode_s)
            })
            .collect::<Vec<_>>(),
    );
    decode[3] += fill * decode[1];
    let (passes, decode_s) = (sum(steps, |step| step.weight_passes), sum(steps, |step| step.decode_s));
    if decode[0] + decode[1] == 0.0 && passes > 0.0 {
        // Few steps on a disturbed machine can give all time to contexts or to prompts. No decoding is free of passes,
        // and these steps do not tell the costs apart, so passes take all of it.
        decode = [decode_s / passes, 0.0, 0.0, 0.0];
    }
    let learn = non_negative(
        &steps.iter().map(|step| ([step.trained_tokens, 1.0], step.learn_s)).collect::<Vec<_>>(),
    );
    CostModel {
        decode_step_s: decode[0],
        decode_slot_s: decode[1],
        context_token_s: decode[2],
        prefill_token_s: decode[3],
        learn_token_s: learn[0],
        learn_step_s: learn[1],
        contention: Contention::of_both(1.0),
    }
}

/// Adds to the costs of work alone what is seen only where both sides go on at the same time: contention, and the
/// filling of caches where they are rebuilt. Of `o` seconds that overlap a side loses `o (1 - 1/contention)`; decoding
/// takes the tokens of caches longer besides, and runs that rebuild much tell the two apart.
fn beside(runs: &[&[Observation]], costs: &CostModel, contention: Option<Contention>) -> CostModel {
    let learn_s = |step: &Observation| costs.learn_step_s + costs.learn_token_s * step.trained_tokens;
    let decode_s = |step: &Observation| {
        costs.decode_step_s * step.weight_passes
            + costs.decode_slot_s * step.tokens
            + costs.context_token_s * step.context_token_steps
    };
    let rebuilds = runs.iter().any(|run| fills(run));
    // Of what is known already nothing is to be found.
    let given = contention.map(|contention| 1.0 - 1.0 / contention.decode);
    let (known_lost, finds_lost) = given.map_or((0.0, 1.0), |lost| (lost, 0.0));
    let (known_fill_s, finds_fill) = if rebuilds { (0.0, 1.0) } else { (costs.prefill_token_s, 0.0) };
    let (mut learning, mut decoding) = (Vec::new(), Vec::new());
    for run in runs {
        let (both_s, filled) = (overlap_s(run), sum(run, |step| step.prefill_tokens));
        learning.push(([both_s], sum(run, |step| step.learn_s - learn_s(step))));
        let known_s = known_lost * both_s + known_fill_s * filled;
        let lost_s = sum(run, |step| step.decode_s - decode_s(step)) - known_s;
        decoding.push(([finds_lost * both_s, finds_fill * filled], lost_s));
    }
    let [learn] = non_negative(&learning);
    let [decode, fill_s] = non_negative(&decoding);
    let factor = |lost: f64| 1.0 / (1.0 - lost.min(LOST_MAX));
    CostModel {
        contention: contention.unwrap_or(Contention { decode: factor(decode), learn: factor(learn) }),
        // A token of a filled cache takes no longer than one that is decoded alone.
        prefill_token_s: (known_fill_s + fill_s).min(costs.decode_step_s + costs.decode_slot_s),
        ..*costs
    }
}

/// The least squares solution among those without negative factors: every choice of factors that are not 0 is
/// solved, which with so few factors is all that it takes.
fn non_negative<const N: usize>(rows: &[([f64; N], f64)]) -> [f64; N] {
    // Columns of one length, so that what counts as singular does not depend on units.
    let norms: [f64; N] = std::array::from_fn(|column| {
        rows.iter().map(|(row, _)| row[column] * row[column]).sum::<f64>().sqrt()
    });
    let scaled: Vec<([f64; N], f64)> = rows
        .iter()
        .map(|(row, value)| {
            (std::array::from_fn(|i| if norms[i] > 0.0 { row[i] / norms[i] } else { 0.0 }), *value)
        })
        .collect();
    let mut best = ([0.0; N], rows.iter().map(|(_, value)| value * value).sum::<f64>());
    for chosen in 1..1usize << N {
        let Some(factors) = solve(&scaled, |column| (chosen >> column) & 1 == 1) else { continue };
        if factors.iter().any(|factor| *factor < 0.0) {
            continue;
        }
        let error = |row: &[f64; N], value: f64| {
            let found: f64 = row.iter().zip(&factors).map(|(entry, factor)| entry * factor).sum();
            (found - value).powi(2)
        };
        let errors: f64 = scaled.iter().map(|(row, value)| error(row, *value)).sum();
        if errors < best.1 {
            best = (factors, errors);
        }
    }
    std::array::from_fn(|column| if norms[column] > 0.0 { best.0[column] / norms[column] } else { 0.0 })
}

/// The normal equations of the chosen columns by elimination; `None` where they are singular.
fn solve<const N: usize>(rows: &[([f64; N], f64)], chosen: impl Fn(usize) -> bool) -> Option<[f64; N]> {
    /// Columns of length 1 that are as nearly parallel as this are one.
    const SINGULAR: f64 = 1e-9;
    let columns: Vec<usize> = (0..N).filter(|column| chosen(*column)).collect();
    let count = columns.len();
    let mut matrix = vec![vec![0.0; count + 1]; count];
    for (row, value) in rows {
        for (i, one) in columns.iter().enumerate() {
            for (j, two) in columns.iter().enumerate() {
                matrix[i][j] += row[*one] * row[*two];
            }
            matrix[i][count] += row[*one] * value;
        }
    }
    for pivot in 0..count {
        // The matrix is positive semi-definite, so its diagonal has the pivots.
        if matrix[pivot][pivot] < SINGULAR {
            return None;
        }
        let pivot_row = matrix[pivot].clone();
        for (_, row) in matrix.iter_mut().enumerate().filter(|(place, _)| *place != pivot) {
            let factor = row[pivot] / pivot_row[pivot];
            for (entry, above) in row.iter_mut().zip(&pivot_row) {
                *entry -= factor * above;
            }
        }
    }
    let mut factors = [0.0; N];
    for (place, column) in columns.into_iter().enumerate() {
        factors[column] = matrix[place][count] / matrix[place][place];
    }
    Some(factors)
}

#[cfg(test)]
mod tests;
