//! What the learner asks for its next step, and how it is served: some groups, and further ones for as long as the
//! learner finds too few among them that it can learn from.

use std::fmt;

use trajectory::Group;

use crate::error::RolloutError;
use crate::ledger::queue::ReplayQueue;

/// The groups of one step.
#[derive(Clone, Copy)]
pub struct StepRequest<'a> {
    /// The groups that the step has at least: the pacing's `groups_per_step`.
    pub groups: usize,
    /// How many further groups are wanted beside those that there are; 0 where they are enough. Each call sees all
    /// groups so far.
    pub further: &'a dyn Fn(&[Group]) -> usize,
    /// No more will be wanted after this step.
    pub last: bool,
}

impl fmt::Debug for StepRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepRequest")
            .field("groups", &self.groups)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl StepRequest<'_> {
    /// A step of so many groups, whatever they are.
    #[must_use]
    pub fn of(groups: usize) -> Self {
        Self { groups, further: &|_| 0, last: false }
    }

    /// Serves the request by `take`, which waits for some groups. Before it asks for further ones it lets the ledger
    /// start as many more.
    ///
    /// # Errors
    /// As `take`.
    pub fn serve(
        &self,
        queue: &ReplayQueue,
        mut take: impl FnMut(usize) -> Result<Vec<Group>, RolloutError>,
    ) -> Result<Vec<Group>, RolloutError> {
        let mut groups = take(self.groups)?;
        loop {
            // At once as many as a step has, which the queue has room for.
            let further = (self.further)(&groups).min(self.groups);
            if further == 0 {
                return Ok(groups);
            }
            queue.refill((groups.len() + further - self.groups) as u64);
            groups.extend(take(further)?);
        }
    }
}
