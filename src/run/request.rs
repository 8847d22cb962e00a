//! What a training run is asked for beside its config, and what it came to.

use std::path::PathBuf;
use std::sync::Arc;

use kernels::model::families;
use learner::loss::Loss;
use rollout::RolloutMode;
use simulate::LengthDistribution;

use crate::model::Families;
use crate::run::prompts::{CustomVerifiers, no_custom_verifiers};

/// What a training run is asked for beside its config. Begins with [`RunRequest::new`]; the fields may be set.
///
/// A run inside of another program leaves the process alone: it takes no signals, does not end the process, and writes
/// nothing to the terminal. [`RunRequest::owns_process`] and [`RunRequest::console`] make it a program of its own.
#[derive(Clone)]
#[non_exhaustive]
pub struct RunRequest<'a> {
    /// Names the run folder, `runs/<name>-<n>`, where `folder` does not.
    pub name: String,
    /// The run folder. A resumed run has its own, unless it is the newest one that is resumed.
    pub folder: Option<PathBuf>,
    /// Replaces the run that is in `folder`; when resuming from a checkpoint, removes the later ones.
    pub overwrite: bool,
    /// Where the run starts.
    pub start: StartFrom,
    /// Verifiers that the program adds to those of the `rewards` crate.
    pub verifiers: CustomVerifiers<'a>,
    /// How rollouts go on, in training and in evaluation, in the place of the mode of `[rollout.mode]`. A resumed run needs
    /// the same one.
    pub mode: Option<Arc<dyn RolloutMode>>,
    /// The policy's loss, in the place of the config's. Mask and penalty of the config stay.
    pub loss: Option<Arc<dyn Loss>>,
    /// The families that models may be of, found by `model_type`: those of `kernels`, unless others are given.
    pub families: Families<'a>,
    /// Whether the process is the run's own. Then Ctrl-C and SIGTERM end the run cleanly, a second one ends the process,
    /// and so does a run that is to end and does not within `watchdog.grace_s`. One run of a process may own it.
    pub owns_process: bool,
    /// Whether the terminal shows progress, as `metrics.console` says, and the log. The run folder has both in any case.
    pub console: bool,
    /// What a measurement changes in the run.
    pub(crate) bench: BenchOverrides,
}

impl RunRequest<'_> {
    /// A new run of the config's model in the next free folder `runs/<name>-<n>`, with nothing of the program around it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            folder: None,
            overwrite: false,
            start: StartFrom::Config,
            verifiers: &no_custom_verifiers,
            mode: None,
            loss: None,
            families: &families::ALL,
            owns_process: false,
            console: false,
            bench: BenchOverrides::default(),
        }
    }
}

/// Where a training run starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StartFrom {
    /// At step 0 of the model of the config.
    #[default]
    Config,
    /// At step 0 of the weights of a checkpoint, or of the newest checkpoint of a run.
    Fork {
        /// The checkpoint, the run folder, or a Hugging Face directory.
        from: PathBuf,
        /// Takes the optimizer's moments as well.
        with_optimizer: bool,
    },
    /// From the newest state of a run that stopped; nothing is lost or repeated.
    Resume {
        /// The run folder or one of its checkpoints. `None` is the request's folder, or else the newest
        /// `runs/<name>-<n>`.
        from: Option<PathBuf>,
        /// Resumes also under a config that changes what is learned.
        allow_config_change: bool,
    },
}

/// What a measurement changes in a run. No key of a config and no public function sets it, so no run that trains a
/// model for use has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct BenchOverrides {
    /// Outputs end at lengths of this distribution, and not where the model ends them.
    pub(crate) lengths: Option<LengthDistribution>,
    /// The run ends when so many completion tokens are trained on, and not after the config's steps.
    pub(crate) trained_tokens: Option<u64>,
}
