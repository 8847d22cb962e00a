//! Which experts tokens go through and with which weights, and the rows of tokens grouped by expert. Plain numbers, the
//! same for training and decoding, so that both choose alike.

use std::ops::Range;

use crate::model::spec::ExpertsSpec;
use crate::rows::Matrix;
use crate::simd;

/// The most rows of one expert that one task takes.
const TASK_ROWS_MAX: usize = 48;

/// How some rows are routed. A **place** is `row * chosen + rank`: one of the experts that a row goes through, the
/// likeliest first. Grouped rows lie expert after expert, and within an expert in the order of the rows.
#[derive(Default)]
pub(crate) struct Routing {
    chosen: usize,
    /// The expert of each place.
    experts: Vec<u32>,
    /// The weight of each place.
    weights: Vec<f32>,
    /// The first grouped row of each expert, and the number of all behind the last one.
    starts: Vec<usize>,
    /// The place of each grouped row.
    places: Vec<u32>,
    /// The grouped row of each place.
    grouped: Vec<u32>,
}

impl Routing {
    /// Routes rows by the router's products, `[rows, experts]`, which become probabilities. Of equal ones the first
    /// expert is chosen; what is no number is chosen last.
    pub(crate) fn set(&mut self, logits: &mut [f32], spec: &ExpertsSpec) {
        self.chosen = spec.chosen;
        self.experts.clear();
        self.weights.clear();
        let mut is_free = vec![true; spec.count];
        for row in logits.chunks_exact_mut(spec.count) {
            softmax(row);
            is_free.fill(true);
            let first = self.weights.len();
            for _ in 0..spec.chosen {
                let best = likeliest(row, &is_free);
                is_free[best] = false;
                self.experts.push(best as u32);
                self.weights.push(row[best]);
            }
            if spec.normalised {
                let own = &mut self.weights[first..];
                let total: f32 = own.iter().sum();
                own.iter_mut().for_each(|weight| *weight /= total);
            }
        }
        self.group(spec.count);
    }

    /// Sorts the places by their experts.
    fn group(&mut self, count: usize) {
        self.starts.clear();
        self.starts.resize(count + 1, 0);
        for expert in &self.experts {
            self.starts[*expert as usize + 1] += 1;
        }
        for expert in 0..count {
            self.starts[expert + 1] += self.starts[expert];
        }
        let mut next = self.starts.clone();
        self.places.clear();
        self.places.resize(self.experts.len(), 0);
        self.grouped.clear();
        for (place, expert) in self.experts.iter().enumerate() {
            let row = &mut next[*expert as usize];
            self.places[*row] = place as u32;
            self.grouped.push(*row as u32);
            *row += 1;
        }
    }

    /// How many grouped rows there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The grouped rows of an expert.
    pub(crate) fn rows_of(&self, expert: usize) -> Range<usize> {
        self.starts[expert]..self.starts[expert + 1]
    }

    /// Experts that have rows.
    pub(crate) fn used(&self) -> impl Iterator<Item = usize> {
        (0..self.starts.len().saturating_sub(1)).filter(|expert| !self.rows_of(*expert).is_empty())
    }

    /// The row that a grouped row is of.
    pub(crate) fn row(&self, grouped: usize) -> usize {
        self.places[grouped] as usize / self.chosen
    }

    /// The weight of a grouped row.
    pub(crate) fn weight(&self, grouped: usize) -> f32 {
        self.weights[self.places[grouped] as usize]
    }

    /// The grouped rows of a row with their experts and weights, the likeliest first.
    pub(crate) fn of_row(&self, row: usize) -> impl Iterator<Item = Routed> {
        let places = row * self.chosen..(row + 1) * self.chosen;
        places.map(|place| Routed {
            expert: self.experts[place] as usize,
            grouped: self.grouped[place] as usize,
            weight: self.weights[place],
        })
    }

    /// The experts of all places.
    pub(crate) fn experts(&self) -> &[u32] {
        &self.experts
    }

    /// The grouped rows of all places.
    pub(crate) fn grouped_rows(&self) -> &[u32] {
        &self.grouped
    }

    /// Cuts buffers of grouped rows into blocks of one expert each, for one task each.
    pub(crate) fn blocks<'a, const N: usize>(&self, mut buffers: [Matrix<'a>; N]) -> Vec<ExpertRows<'a, N>> {
        let mut blocks = Vec::new();
        for expert in self.used() {
            let rows = self.rows_of(expert);
            let each = rows.len().div_ceil(rows.len().div_ceil(TASK_ROWS_MAX));
            for first in rows.clone().step_by(each) {
                let rows = first..rows.end.min(first + each);
                let buffers = buffers.each_mut().map(|buffer| buffer.take_rows(rows.len()));
                blocks.push(ExpertRows { expert, rows, buffers });
            }
        }
        blocks
    }

    /// From the gradients by the weights of one row's experts, in the order of their ranks, to those by the router's
    /// products, which are zeros before. `probabilities` are those of the row.
    ///
    /// With `p` the probabilities and `w` the weights: `dl = p (dp - sum p dp)` where `dp` is `dw` of the chosen experts and
    /// 0 of others; where weights are normalised, `dl = w (dw - sum w dw)` of the chosen ones alone.
    pub(crate) fn router_backward(
        &self,
        row: usize,
        probabilities: &[f32],
        dweights: &[f32],
        normalised: bool,
        dlogits: &mut [f32],
    ) {
        let mean: f32 = self.of_row(row).zip(dweights).map(|(own, dweight)| own.weight * dweight).sum();
        if !normalised {
            dlogits.iter_mut().zip(probabilities).for_each(|(dlogit, p)| *dlogit = -p * mean);
        }
        for (own, dweight) in self.of_row(row).zip(dweights) {
            let by_weight = if normalised { dweight - mean } else { *dweight };
            dlogits[own.expert] += own.weight * by_weight;
        }
    }
}

/// One of the experts that a row goes through.
pub(crate) struct Routed {
    pub(crate) expert: usize,
    pub(crate) grouped: usize,
    pub(crate) weight: f32,
}

/// Grouped rows of one expert, and their parts of some buffers.
pub(crate) struct ExpertRows<'a, const N: usize> {
    pub(crate) expert: usize,
    pub(crate) rows: Range<usize>,
    pub(crate) buffers: [&'a mut [f32]; N],
}

fn likeliest(row: &[f32], is_free: &[bool]) -> usize {
    let free = || (0..row.len()).filter(|expert| is_free[*expert]);
    let first = free().next().expect("fewer experts are chosen than there are");
    free().fold(first, |best, expert| match row[expert] > row[best] || row[best].is_nan() {
        true => expert,
        false => best,
    })
}

/// Replaces logits by probabilities.
fn softmax(row: &mut [f32]) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|logit| *logit = simd::exp(*logit - most));
    let total: f32 = row.iter().sum();
    row.iter_mut().for_each(|part| *part /= total);
}

#[cfg(test)]
mod tests {
    use super::Routing;
    use crate::model::spec::ExpertsSpec;
    use crate::rows::Matrix;

    fn spec(normalised: bool) -> ExpertsSpec {
        ExpertsSpec { count: 4, chosen: 2, intermediate: 1, normalised, layers: vec![true] }
    }

    fn routed(logits: &[f32], normalised: bool) -> (Routing, Vec<f32>) {
        let (mut routing, mut logits) = (Routing::default(), logits.to_vec());
        routing.set(&mut logits, &spec(normalised));
        (routing, logits)
    }

    /// By hand: logarithms of 1, 2, 3 and 4 tenths; and two rows of equal ones.
    #[test]
    fn the_likeliest_are_chosen_and_rows_are_grouped_by_expert() {
        let tenths = [0.1_f32, 0.4, 0.3, 0.2].map(f32::ln);
        let logits = [&tenths[..], &[5.0; 4], &[-1e30, -1e30, 0.0, -1.0]].concat();
        let (routing, probabilities) = routed(&logits, false);
        assert_eq!(routing.experts(), [1, 2, 0, 1, 2, 3]);
        assert!(
            (probabilities[1] - 0.4).abs() < 1e-6
                && (routing.weight(routing.grouped[1] as usize) - 0.3).abs() < 1e-6
        );
        assert_eq!([0, 1, 2, 3].map(|expert| routing.rows_of(expert)), [0..1, 1..3, 3..5, 5..6]);
        assert_eq!((0..6).map(|grouped| routing.row(grouped)).collect::<Vec<_>>(), [1, 0, 1, 0, 2, 2]);
        let of_last: Vec<_> = routing.of_row(2).map(|own| (own.expert, own.grouped)).collect();
        assert_eq!(of_last, [(2, 4), (3, 5)]);
        let (normalised, _) = routed(&logits, true);
        let weights: Vec<f32> = normalised.of_row(0).map(|own| own.weight).collect();
        assert!((weights[0] - 4.0 / 7.0).abs() < 1e-6 && (weights[1] - 3.0 / 7.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_no_number_is_routed_somewhere() {
        let (routing, _) =
            routed(&[f32::NAN, 1.0, f32::NAN, 0.0, f32::NAN, f32::NAN, f32::NAN, f32::NAN], true);
        assert_eq!(routing.len(), 4);
        assert!(routing.experts().chunks(2).all(|own| own[0] != own[1]));
    }

    #[test]
    fn blocks_are_of_one_expert_each_and_hold_all_rows() {
        let logits: Vec<f32> = (0..4 * 100).map(|at| (at as f32 * 0.7).sin() - (at % 4) as f32).collect();
        let (routing, _) = routed(&logits, true);
        assert!(routing.rows_of(3).len() < 10, "an expert with few rows is among them");
        let mut numbers: Vec<f32> = (0..routing.len()).map(|row| row as f32).collect();
        let blocks = routing.blocks([Matrix::new(&mut numbers, 1)]);
        let mut next = 0;
        for block in &blocks {
            assert!(block.rows.len() <= super::TASK_ROWS_MAX && block.rows.start == next);
            let own = routing.rows_of(block.expert);
            assert!(own.start <= block.rows.start && block.rows.end <= own.end);
            assert_eq!(block.buffers[0], block.rows.clone().map(|row| row as f32).collect::<Vec<_>>());
            next = block.rows.end;
        }
        assert_eq!(next, 200);
    }

    /// The gradients by the products against differences.
    #[test]
    fn gradients_by_the_routers_products_are_slopes() {
        let logits = [0.3_f32, 1.1, -0.4, 0.9];
        for normalised in [false, true] {
            let (routing, probabilities) = routed(&logits, normalised);
            let dweights = [0.7_f32, -1.3];
            let mut found = [0.0; 4];
            routing.router_backward(0, &probabilities, &dweights, normalised, &mut found);
            for (at, found) in found.into_iter().enumerate() {
                let loss = |by: f32| {
                    let mut moved = logits;
                    moved[at] += by;
                    let weights = routed(&moved, normalised).0;
                    weights.of_row(0).zip(dweights).map(|(own, slope)| own.weight * slope).sum::<f32>()
                };
                let slope = (loss(1e-2) - loss(-1e-2)) / 2e-2;
                assert!((slope - found).abs() < 1e-3, "{normalised}, {at}: {found}, not {slope}");
            }
        }
    }
}
