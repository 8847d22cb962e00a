//! The rows of one file or of several in their endless order.

use super::config::{CurriculumOrder, JsonlConfig};
use super::order::{Order, Sorted, Turns};
use super::rows::Rows;
use super::survey::{Needs, Survey};
use crate::error::RolloutError;
use crate::text::Text;
use trajectory::random::key_of;

/// Files of rows and the order of their prompts.
#[derive(Debug)]
pub(super) struct Mix {
    files: Vec<Rows>,
    mixing: Mixing,
    /// In place of the run's seed.
    seed: Option<u64>,
}

#[derive(Debug)]
enum Mixing {
    /// All rows are one list.
    Joined(Order),
    /// Each file has its own order and takes its turns.
    Weighted { turns: Turns, orders: Vec<Order> },
}

/// A row of one of the files.
#[derive(Clone, Copy)]
pub(super) struct RowAt<'a> {
    pub(super) rows: &'a Rows,
    pub(super) place: usize,
}

impl Mix {
    /// Looks at all rows of all files.
    pub(super) fn open(
        config: &JsonlConfig,
        needs: &Needs<'_>,
        text: &Text,
    ) -> Result<(Self, Survey), RolloutError> {
        let (mut files, mut surveys) = (Vec::new(), Vec::new());
        for file in config.of_files() {
            let (rows, survey) = Rows::open(&file, needs, text)?;
            files.push(rows);
            surveys.push(survey);
        }
        let survey = match surveys.len() {
            1 => surveys.remove(0),
            _ => {
                let lengths = files.iter().flat_map(Rows::prompt_lengths).collect();
                Survey::joined(surveys, lengths).expect("every file that was opened has a prompt")
            }
        };
        let weights: Vec<f64> = config.sources.iter().filter_map(|source| source.weight).collect();
        let mixing = if weights.is_empty() {
            Mixing::Joined(order(config, &files.iter().flat_map(Rows::numbers).collect::<Vec<_>>()))
        } else {
            let turns =
                Turns::by(&weights).map_err(|reason| RolloutError::Config { key: "data.sources", reason })?;
            let orders = files.iter().map(|rows| order(config, &rows.numbers().collect::<Vec<_>>()));
            Mixing::Weighted { turns, orders: orders.collect() }
        };
        Ok((Self { files, mixing, seed: config.shuffle_seed }, survey))
    }

    /// The rows of all files.
    pub(super) fn count(&self) -> u64 {
        self.files.iter().map(Rows::count).sum()
    }

    /// The row of prompt `index`; `seed` is the run's.
    pub(super) fn at(&self, index: u64, seed: u64) -> RowAt<'_> {
        let seed = self.seed.unwrap_or(seed);
        match &self.mixing {
            Mixing::Joined(order) => {
                let mut place = order.place(seed, index, self.count());
                for rows in &self.files {
                    let count = usize::try_from(rows.count()).expect("a list in memory");
                    if place < count {
                        return RowAt { rows, place };
                    }
                    place -= count;
                }
                unreachable!("place {place} is behind the rows of all files")
            }
            Mixing::Weighted { turns, orders } => {
                let turn = turns.turn(index);
                let rows = &self.files[turn.source];
                // Files of one length would otherwise have one order.
                let seed = key_of(&[seed, turn.source as u64]);
                RowAt { rows, place: orders[turn.source].place(seed, turn.index, rows.count()) }
            }
        }
    }
}

fn order(config: &JsonlConfig, numbers: &[f64]) -> Order {
    match &config.curriculum {
        Some(curriculum) => {
            Order::Sorted(Sorted::by(numbers, curriculum.order == CurriculumOrder::Descending))
        }
        None if config.shuffle => Order::Shuffled,
        None => Order::AsTheyStand,
    }
}
