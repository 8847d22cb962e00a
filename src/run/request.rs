//! What a training run is asked for beside its config, and what it came to.

use std::path::PathBuf;

use simulate::LengthDistribution;

use crate::run::prompts::{CustomVerifiers, no_custom_verifiers};

/// What a training run is asked for beside its config. Begins with [`RunRequest::new`]; the fields may be set.
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
    /// What a measurement changes in the run.
    pub(crate) bench: BenchOverrides,
}

impl RunRequest<'_> {
    /// A new run of the config's model in the next free folder `runs/<name>-<n>`, without custom verifiers.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            folder: None,
            overwrite: false,
            start: StartFrom::Config,
            verifiers: &no_custom_verifiers,
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
