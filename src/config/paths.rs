//! Paths of a config, made absolute: from the current directory first, then from the config file's own folder.

use std::path::{Path, PathBuf};

use learner::config::GradientsConfig;
use rewards::{RewardConfig, RewardKind};
use rollout::DataConfig;

use super::ConfigError;
use super::document::Document;

/// A path that a config gives.
pub(super) struct ConfigPath<'a> {
    key: &'static str,
    path: &'a mut PathBuf,
}

impl<'a> ConfigPath<'a> {
    pub(super) fn new(key: &'static str, path: &'a mut PathBuf) -> Self {
        Self { key, path }
    }

    pub(super) fn given(key: &'static str, path: &'a mut Option<PathBuf>) -> Option<Self> {
        path.as_mut().map(|path| Self { key, path })
    }

    /// The folder of the layers' inputs, where gradients keep them in a file.
    pub(super) fn of_gradients(key: &'static str, gradients: &'a mut GradientsConfig) -> Option<Self> {
        Self::given(key, &mut gradients.streambp_mut()?.layer_inputs_dir)
    }

    /// The file of the prompts, where they are read from one.
    pub(super) fn of_data(data: &'a mut DataConfig) -> Option<Self> {
        match data {
            DataConfig::Task(_) => None,
            DataConfig::Jsonl(file) => Some(Self { key: "data.path", path: &mut file.path }),
        }
    }
}

/// Finds what a relative path means: from the current directory first, then from the config file's own folder.
pub(super) struct Finder<'a> {
    pub(super) document: &'a Document,
    /// The config file.
    pub(super) file: &'a Path,
}

impl Finder<'_> {
    /// Makes a path absolute, so that the resolved config holds wherever it is read.
    pub(super) fn replace(&self, path: ConfigPath<'_>) -> Result<(), ConfigError> {
        let ConfigPath { key, path } = path;
        let beside = self.file.parent().unwrap_or(Path::new("")).join(&*path);
        if let Ok(found) = path.canonicalize().or_else(|_| beside.canonicalize()) {
            *path = found;
            return Ok(());
        }
        let mut message = format!("{key}: there is no {}", path.display());
        if beside != *path {
            message = format!("{message} (nor {})", beside.display());
        }
        if key == "model.path" && is_hub_name(path) {
            let name = path.display();
            message = format!(
                "{message}; a name on the Hugging Face Hub? Download it first (hf download {name} --local-dir DIR)"
            );
        }
        Err(self.document.error(key, message))
    }

    /// A word of a plugin's command that is no file from the current directory, but one beside the config, is that.
    pub(super) fn commands(&self, rewards: Vec<&mut RewardConfig>) {
        let folder = self.file.parent().unwrap_or(Path::new(""));
        for reward in rewards {
            let RewardKind::Process(process) = &mut reward.kind else { continue };
            for word in process.command.iter_mut().filter(|word| !Path::new(word).is_file()) {
                let beside = folder.join(&*word);
                if let Some(found) = beside.canonicalize().ok().filter(|path| path.is_file()) {
                    *word = found.to_string_lossy().into_owned();
                }
            }
        }
    }
}

/// Whether a path could be the name of a model on the hub: an owner and a name.
fn is_hub_name(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.split_once('/').is_some_and(|(owner, name)| {
        !owner.is_empty() && !owner.starts_with(['.', '~']) && !name.is_empty() && !name.contains('/')
    })
}
