//! The page of the command line, from clap's own description of it.

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::cells::{code, head, line, row};
use crate::cli::arguments;

const OPENING: &str = "\
# Commands

<!-- Written by `longhaul docs`; change the doc comments in src/cli and write it again. -->

Every command has `--help`, which says the same.
";

/// The page: every command with its arguments and examples.
pub(super) fn page() -> String {
    let program = arguments();
    let mut text = OPENING.to_owned();
    for command in program.get_subcommands() {
        write_command(&mut text, "longhaul", command);
    }
    text
}

fn write_command(text: &mut String, above: &str, command: &Command) {
    // clap's own command says what `--help` says.
    if command.get_name() == "help" {
        return;
    }
    let name = format!("{above} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = write!(text, "\n## `{name}`\n\n{}.\n", line(&about));
    if command.has_subcommands() {
        for inner in command.get_subcommands() {
            write_command(text, &name, inner);
        }
        return;
    }
    let arguments: Vec<&Arg> = command
        .get_arguments()
        .filter(|argument| {
            !argument.is_hide_set() && !["help", "version"].contains(&argument.get_id().as_str())
        })
        .collect();
    if !arguments.is_empty() {
        let _ = write!(text, "\n{}", head(&["argument", "default", "what it is"]));
        arguments.iter().for_each(|argument| text.push_str(&argument_row(argument)));
    }
    if let Some(after) = command.get_after_help() {
        let _ = write!(text, "\n```text\n{}\n```\n", after.to_string().trim());
    }
}

fn argument_row(argument: &Arg) -> String {
    let values: Vec<&str> =
        argument.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    let takes_value = argument.get_action().takes_values();
    let value = values.join(" ");
    let shown = match argument.get_long() {
        None if argument.is_required_set() => value,
        None => format!("[{value}]"),
        Some(long) if takes_value => format!("--{long} {value}"),
        Some(long) => format!("--{long}"),
    };
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = match (defaults.is_empty(), argument.is_required_set()) {
        (false, _) if takes_value => code(&defaults.join(",")),
        (_, true) => "required".to_owned(),
        _ => String::new(),
    };
    let mut help = line(&argument.get_help().map(ToString::to_string).unwrap_or_default());
    let possible = argument.get_possible_values();
    if takes_value && !possible.is_empty() {
        let words: Vec<String> = possible.iter().map(|value| code(value.get_name())).collect();
        let _ = write!(help, ": {}", words.join(", "));
    }
    row(&[&code(&shown), &default, &help])
}
