//! The schedules: when actors decode beside the learner, and under which weights. `async` has them on threads of their own,
//! `deterministic` beside the learner by a logical clock, `lockstep` in turns with it. All give the queue whole groups;
//! the last two give the same order in every run.

pub(crate) mod asynchronous;
pub(crate) mod deterministic;
pub(crate) mod lockstep;

use std::collections::VecDeque;

use trajectory::Group;

use crate::error::RolloutError;
use crate::ledger::queue::ReplayQueue;
use crate::report::ActorReport;
use crate::scorer::Scorer;

/// What a thread said when it panicked.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_string()
}

fn with_scorer(sum: ActorReport, scorer: &Scorer) -> ActorReport {
    ActorReport { scoring_s: scorer.seconds(), verifiers: scorer.counters(), ..sum }
}

/// Puts scored groups into the queue while it has room.
fn deliver(overflow: &mut VecDeque<Group>, queue: &ReplayQueue) -> Result<(), RolloutError> {
    // A closed queue would take them and hand them to nobody.
    while !overflow.is_empty() && !queue.is_closed() {
        let group = overflow.pop_front().expect("there is one");
        if let Some(back) = queue.try_push(group)? {
            overflow.push_front(back);
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
