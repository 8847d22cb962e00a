//! The command line program.

use std::process::ExitCode;

fn main() -> ExitCode {
    longhaul::command_line()
}
