//! Paths of a config, made absolute: from the current directory first, then from the config file's own folder. The
//! programs of plugins are looked for as the system will look for them.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use learner::config::{GradientsConfig, LoraSection};
use rewards::{ProcessConfig, RewardConfig, RewardKind};
use rollout::DataConfig;

use super::ConfigError;
use super::document::Document;

/// A path that a config gives.
pub(super) struct ConfigPath<'a> {
    key: String,
    path: &'a mut PathBuf,
}

impl<'a> ConfigPath<'a> {
    pub(super) fn new(key: impl Into<String>, path: &'a mut PathBuf) -> Self {
        Self { key: key.into(), path }
    }

    pub(super) fn given(key: impl Into<String>, path: &'a mut Option<PathBuf>) -> Option<Self> {
        path.as_mut().map(|path| Self::new(key, path))
    }

    /// The folder of the layers' inputs, where gradients keep them in a file.
    pub(super) fn of_gradients(key: &'static str, gradients: &'a mut GradientsConfig) -> Option<Self> {
        Self::given(key, &mut gradients.streambp_mut()?.layer_inputs_dir)
    }

    /// The adapter that training goes on with, where one is given.
    pub(super) fn of_adapter(key: &'static str, lora: &'a mut Option<LoraSection>) -> Option<Self> {
        Self::given(key, &mut lora.as_mut()?.adapter)
    }

    /// The files of the prompts of a section, where they are read from some.
    pub(super) fn of_data(section: &str, data: &'a mut DataConfig) -> Vec<Self> {
        let named = |key: String| key.replacen("data", section, 1);
        data.paths().into_iter().map(|(key, path)| Self::new(named(key), path)).collect()
    }
}

/// A reward of a list with the key of its section.
pub(super) struct RewardAt<'a> {
    key: String,
    reward: &'a mut RewardConfig,
}

impl<'a> RewardAt<'a> {
    pub(super) fn all(list: &str, rewards: &'a mut [RewardConfig]) -> Vec<Self> {
        let at = |(place, reward)| Self { key: format!("{list}[{place}]"), reward };
        rewards.iter_mut().enumerate().map(at).collect()
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
        Err(self.document.error(&key, message))
    }

    /// A word of a plugin's command that is no file from the current directory, but one beside the config, is that.
    /// Refuses a command whose program the plugin could not be started with.
    pub(super) fn commands(&self, rewards: Vec<RewardAt<'_>>) -> Result<(), ConfigError> {
        let folder = self.file.parent().unwrap_or(Path::new(""));
        for RewardAt { key, reward } in rewards {
            let RewardKind::Process(process) = &mut reward.kind else { continue };
            for word in process.command.iter_mut().filter(|word| !Path::new(word).is_file()) {
                let beside = folder.join(&*word);
                if let Some(found) = beside.canonicalize().ok().filter(|path| path.is_file()) {
                    *word = found.to_string_lossy().into_owned();
                }
            }
            let key = format!("{key}.command");
            find_program(process).map_err(|reason| self.document.error(&key, format!("{key}: {reason}")))?;
        }
        Ok(())
    }
}

/// Where programs are looked for when there is no PATH at all.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Looks for a plugin's program as the system does: a name without a slash in the PATH that the plugin will have, which
/// may be its own, and there for a file that may be executed.
fn find_program(process: &ProcessConfig) -> Result<(), String> {
    // That there is one is checked with the reward's other settings.
    let Some(program) = process.command.first() else { return Ok(()) };
    if program.contains('/') {
        let path = Path::new(program);
        return match path.is_file() {
            true if is_executable(path) => Ok(()),
            true => Err(not_executable(path)),
            false => Err(format!(
                "there is no program {program}; a relative path is looked for from the current directory and beside the \
                 config file"
            )),
        };
    }
    let own = process.environment.get("PATH").map(OsString::from);
    let searched = own.clone().or_else(|| env::var_os("PATH")).unwrap_or_else(|| DEFAULT_PATH.into());
    let found =
        || env::split_paths(&searched).map(|folder| folder.join(program)).filter(|path| path.is_file());
    if found().any(|path| is_executable(&path)) {
        return Ok(());
    }
    if let Some(path) = found().next() {
        return Err(not_executable(&path));
    }
    let place = if own.is_some() { "the PATH of its `environment`" } else { "PATH" };
    Err(match Path::new(program).is_file() {
        true => format!("there is no program {program} in {place}; for the file here write ./{program}"),
        false => {
            format!("there is no program {program} in {place}; install it, or write the path of its file")
        }
    })
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn not_executable(path: &Path) -> String {
    let path = path.display();
    format!("{path} is not executable; make it so (chmod +x {path}), or write its interpreter before it")
}

/// Whether a path could be the name of a model on the hub: an owner and a name.
fn is_hub_name(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.split_once('/').is_some_and(|(owner, name)| {
        !owner.is_empty() && !owner.starts_with(['.', '~']) && !name.is_empty() && !name.contains('/')
    })
}
