//! The text of a config file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The longest config that is read. Those of papers have some thousand bytes; each key of one is looked for in all lines.
const BYTES_MAX: u64 = 1 << 18;

/// Reads it whole.
///
/// # Errors
/// If it cannot be read, is no text, or is too long for a config.
pub(super) fn read(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(BYTES_MAX + 1).read_to_string(&mut text));
    read.map_err(|error| error.to_string())?;
    match text.len() as u64 > BYTES_MAX {
        true => Err(format!("has more than the {BYTES_MAX} bytes that are read of a config")),
        false => Ok(text),
    }
}
