//! `longhaul train`.

use anyhow::Result;

use crate::cli::{LATEST, Start, TrainArgs};
use crate::config::RunConfig;
use crate::records::output::keep_apart;
use crate::run::{self, RunRequest, StartFrom};

/// Trains as the command line says.
///
/// # Errors
/// What is wrong with the config, the model, the data or the folder; or what stopped the run.
pub fn train(args: &TrainArgs) -> Result<()> {
    let config = RunConfig::load(&args.config, &args.overrides.set)?;
    if args.start.resume.is_none() {
        keep_apart(args.place.run.as_deref(), args.place.overwrite, &[&args.config])?;
    }
    let name = args.config.file_stem().map_or("train".into(), |stem| stem.to_string_lossy());
    let mut request = RunRequest::new(&name);
    request.folder.clone_from(&args.place.run);
    request.overwrite = args.place.overwrite;
    request.start = start_from(&args.start);
    (request.owns_process, request.console) = (true, true);
    run::train(config, &request)?;
    Ok(())
}

fn start_from(start: &Start) -> StartFrom {
    match (&start.resume, &start.fork) {
        (Some(from), _) => StartFrom::Resume {
            from: Some(from.clone()).filter(|from| from.as_os_str() != LATEST),
            allow_config_change: start.allow_config_change,
        },
        (None, Some(from)) => StartFrom::Fork { from: from.clone(), with_optimizer: start.fork_optimizer },
        (None, None) => StartFrom::Config,
    }
}
