//! One turn: a prompt and its answer.

use trajectory::{Finish, Trajectory};

use super::{Next, RolloutMode};

/// The first end is the end of the trajectory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Single;

impl RolloutMode for Single {
    fn next(&self, _: &Trajectory, _: Finish) -> Next {
        Next::Done
    }
}
