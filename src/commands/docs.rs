//! The pages of `docs/reference/`: the command line from clap, the config from the doc comments of its types, the metrics
//! from their catalogue. `longhaul docs` writes them, and a test compares them with what is there.

mod cells;
mod source;
mod defaults;
mod cli;
mod config;
mod metrics;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cli::DocsArgs;

/// A page and the name of its file.
pub struct Page {
    /// Name of the file, as `cli.md`.
    pub name: &'static str,
    /// The whole page in Markdown.
    pub text: String,
}

/// Writes all pages into a folder.
///
/// # Errors
/// If a source cannot be read or a page cannot be written.
pub fn docs(args: &DocsArgs) -> Result<()> {
    fs::create_dir_all(&args.folder).with_context(|| args.folder.display().to_string())?;
    for page in pages(&args.repository)? {
        let path = args.folder.join(page.name);
        fs::write(&path, page.text).with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(())
}

/// All pages of the reference. `repository` is where the sources are, whose doc comments the page of the config shows.
///
/// # Errors
/// If a source cannot be read, or a type of the config is not found or written in a form that is not known here.
pub fn pages(repository: &Path) -> Result<Vec<Page>> {
    let types = source::Types::read(&source_folders(repository)?)?;
    Ok(vec![
        Page { name: "cli.md", text: cli::page() },
        Page { name: "config.md", text: config::page(&types)? },
        Page { name: "metrics.md", text: metrics::page() },
    ])
}

/// The `src/` folders of the root and of all crates beside it, with the names of the crates.
fn source_folders(repository: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut folders = vec![("crate".to_owned(), repository.join("src"))];
    let entries = fs::read_dir(repository).with_context(|| repository.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        folders.push((entry.file_name().to_string_lossy().into_owned(), entry.path().join("src")));
    }
    folders.retain(|(_, folder)| folder.is_dir());
    folders.sort();
    Ok(folders)
}
