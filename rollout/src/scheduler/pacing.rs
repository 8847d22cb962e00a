//! How far actors may run ahead of the learner.

/// How far generation may run ahead of the learner: by pacing, little is generated that would have to be
/// thrown away as too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// The groups that the learner takes for one version.
    pub groups_per_step: u64,
    /// The staleness bound of the queue.
    pub staleness_versions_max: u64,
}

impl Pacing {
    /// The most groups that may be started in the whole run while the newest weights are of `version`.
    /// Groups that were dropped as stale do not count: the learner would wait for them without end.
    pub fn groups_started_max(&self, version: u64, groups_dropped: u64) -> u64 {
        self.groups_per_step * (version + 1 + self.staleness_versions_max) + groups_dropped
    }
}
