//! The answers of a run's evaluations: one folder a step, one file a set.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{RunFolder, checkpoint_step, remove_matching};

/// The folder of all evaluations.
const FOLDER: &str = "evals";

impl RunFolder {
    /// The answers of the model of a step, one file a set.
    #[must_use]
    pub fn evaluation(&self, step: u64) -> PathBuf {
        self.path.join(FOLDER).join(format!("step-{step}"))
    }
}

/// Removes those of later steps, which come again.
pub(super) fn remove_after(run: &Path, step: u64) -> Result<()> {
    remove_matching(&run.join(FOLDER), |name| checkpoint_step(name).is_some_and(|of| of > step))
}

/// Removes those of all steps, and nothing that another program put beside them.
pub(super) fn remove_all(run: &Path) -> Result<()> {
    remove_matching(&run.join(FOLDER), |name| checkpoint_step(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::answers::tests::record;
    use crate::records::answers::write_in;

    #[test]
    fn evaluations_of_later_steps_go_with_them_and_all_with_the_run() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("run");
        let folder = RunFolder::create(Some(&path), "run", false, "").unwrap();
        for step in [0, 2, 4] {
            write_in(&folder.evaluation(step), "held_out", &[record("held_out", "p:1", &[true])]).unwrap();
        }
        folder.rewind(2).unwrap();
        let is_there = |step| folder.evaluation(step).join("held_out.jsonl").is_file();
        assert_eq!([0, 2, 4].map(is_there), [true, true, false]);
        drop(folder);
        std::fs::write(path.join("evals/mine"), "kept").unwrap();
        let folder = RunFolder::create(Some(&path), "run", true, "").unwrap();
        assert!(!folder.evaluation(2).exists() && path.join("evals/mine").is_file());
    }
}
