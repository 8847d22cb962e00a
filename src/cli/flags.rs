//! Errors of the libraries with the flags that would help: these know fields of a request and keys of a config.

use anyhow::{Error, anyhow};
use kernels::{BASE_REMEDY, KernelError};
use simulate::SimulateError;

use crate::cause::{Refused, Remedy, one_line};

/// Says which flags are wrong or would have to be given: of a run that is refused in the place of the fields of its request,
/// of lengths that are none, of an adapter whose base is not found.
#[must_use]
pub fn in_flags(error: Error) -> Error {
    let error = match error.downcast::<Refused>() {
        Ok(Refused { problem, remedy }) => return anyhow!("{problem}{}", flags(remedy)),
        Err(error) => error,
    };
    if let Some(SimulateError::Lengths { reason }) = error.downcast_ref() {
        return anyhow!("--lengths: {reason}");
    }
    if error.chain().any(lacks_base) {
        return anyhow!("{}, or --base DIR", one_line(&error));
    }
    error
}

/// Whether it is the error about an adapter whose base is not found.
fn lacks_base(cause: &(dyn std::error::Error + 'static)) -> bool {
    let Some(KernelError::Content { reason, .. }) = cause.downcast_ref() else { return false };
    reason.ends_with(BASE_REMEDY)
}

fn flags(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::OtherFolder => "; name another with --run",
        Remedy::OtherFolderOrOverwrite => "; name another with --run, or give --overwrite",
        Remedy::OverwriteLater => "; --overwrite goes back and removes them",
        Remedy::ResumedFolder => "; name its folder: --resume DIR",
        Remedy::OneFolder => "; give --run DIR --resume, or --resume DIR",
        Remedy::AllowConfigChange => ", or give --allow-config-change",
        Remedy::Fork => " (--fork DIR)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cause::refused;

    #[test]
    fn what_the_library_says_by_fields_is_said_by_flags() {
        let problem = "runs/a: the run folder exists and is not empty".to_owned();
        let refused = || refused(Remedy::OtherFolderOrOverwrite, problem.clone());
        assert_eq!(
            refused().to_string(),
            "runs/a: the run folder exists and is not empty; name another `folder`, or set `overwrite`"
        );
        assert_eq!(
            in_flags(refused()).to_string(),
            "runs/a: the run folder exists and is not empty; name another with --run, or give --overwrite"
        );
        assert_eq!(in_flags(anyhow!("a full disk")).to_string(), "a full disk");
    }

    #[test]
    fn errors_name_the_flags_that_help() {
        let told = |error: Error| one_line(&in_flags(error));
        let fork = refused(Remedy::Fork, "form 4".to_owned()).context("no checkpoint is whole");
        assert_eq!(told(fork), "form 4 (--fork DIR)");
        let lengths = SimulateError::Lengths { reason: "none".to_owned() };
        assert_eq!(told(lengths.into()), "--lengths: none");
        let reason = format!("is missing; {BASE_REMEDY}");
        let base = KernelError::Content { path: "adapter_config.json".into(), reason };
        let expected = format!("the model: adapter_config.json: is missing; {BASE_REMEDY}, or --base DIR");
        assert_eq!(told(Error::from(base).context("the model")), expected);
        assert_eq!(told(anyhow!("another")), "another");
    }
}
