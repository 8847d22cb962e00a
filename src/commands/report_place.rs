//! Where a command writes what it found: text for a person, and JSON to a file or to the standard output in its place.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::records::output::{Inputs, Output};

/// What `--json` names for the standard output.
pub(super) const STDOUT: &str = "-";

/// Where a report goes.
pub(super) enum ReportPlace {
    /// Text to the standard output; to the standard error where that has something else.
    Text { to_stderr: bool },
    /// JSON to the standard output.
    Json,
    /// Text as above, and JSON to a file.
    Both { to_stderr: bool, file: Output },
}

impl ReportPlace {
    /// By the value of `--json`; `is_taken` where the standard output has other lines.
    ///
    /// # Errors
    /// If the file cannot be written, or the standard output would have both.
    pub(super) fn of(json: Option<&Path>, inputs: &Inputs, is_taken: bool) -> Result<Self> {
        Ok(match json {
            None => Self::Text { to_stderr: is_taken },
            Some(path) if path == Path::new(STDOUT) => {
                if is_taken {
                    bail!(
                        "--json: the standard output has the lines of --output; write one of the two to a file"
                    );
                }
                Self::Json
            }
            Some(path) => Self::Both { to_stderr: is_taken, file: Output::create(path, inputs)? },
        })
    }

    /// Says something to a person, where there is room for it.
    pub(super) fn tell(&self, text: &str) {
        match self {
            Self::Text { to_stderr: false } | Self::Both { to_stderr: false, .. } => println!("{text}"),
            Self::Text { to_stderr: true } | Self::Both { to_stderr: true, .. } => eprintln!("{text}"),
            Self::Json => {}
        }
    }

    /// Writes the JSON, where it is asked for.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn write(self, report: &Value) -> Result<()> {
        match self {
            Self::Text { .. } => Ok(()),
            Self::Json => {
                println!("{report}");
                Ok(())
            }
            Self::Both { mut file, .. } => {
                file.write_line(&report.to_string())?;
                file.finish()
            }
        }
    }
}
