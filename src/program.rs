//! The command line program from its arguments to its exit code.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use rollout::RolloutError;

use crate::cause::one_line;
use crate::cli::{Bench, Cli, Command, Import, in_flags};
use crate::config::placed;
use crate::watch::watchdog::{STALLED, Stalled};
use crate::{allocator, bench, commands};

/// Does what the arguments of the process ask for, and says what went wrong.
#[must_use]
pub fn command_line() -> ExitCode {
    allocator::return_large_pieces();
    end_where_nothing_can_be_printed();
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            name_bad_rows(&error);
            eprintln!("error: {}", one_line(&error));
            if error.is::<Stalled>() { ExitCode::from(STALLED) } else { ExitCode::FAILURE }
        }
    }
}

/// Rows of a file that cannot be used, each on a line of its own above the error, which is one line.
fn name_bad_rows(error: &anyhow::Error) {
    let rows = error.chain().find_map(|cause| match cause.downcast_ref::<RolloutError>() {
        Some(RolloutError::Rows(rows)) if rows.bad.len() > 1 => Some(rows),
        _ => None,
    });
    for line in rows.iter().flat_map(|rows| rows.named()) {
        eprintln!("{line}");
    }
}

/// A reader of the output that has seen enough, as `head` has, is no error: what is printed to it ends the program. Output
/// that cannot be written otherwise, as to a full disk, is one. The progress of a run is not printed this way and goes on
/// without a reader. A panic that becomes an error of a file is told as that error.
fn end_where_nothing_can_be_printed() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if rollout::panic_is_caught() {
            return;
        }
        let message = panic.payload_as_str().unwrap_or_default();
        match message.strip_prefix("failed printing to stdout: ") {
            Some(reason) if reason.contains("Broken pipe") => std::process::exit(0),
            Some(reason) => {
                // Where there is no terminal either, the exit code says it.
                let _ = writeln!(std::io::stderr(), "error: the output cannot be written: {reason}");
                std::process::exit(1);
            }
            None => told(panic),
        }
    }));
}

fn run(command: &Command) -> Result<()> {
    kernels::SimdLevel::of_process()?;
    let (config, set) = command.settings();
    run_command(command).map_err(|error| in_flags(placed(error, config, set)))
}

fn run_command(command: &Command) -> Result<()> {
    match command {
        Command::Train(args) => commands::train::train(args),
        Command::Sft(args) => commands::sft::sft(args),
        Command::Eval(args) => commands::eval::eval(args),
        Command::Compare(args) => commands::compare::compare(args),
        Command::Generate(args) => commands::generate::generate(args),
        Command::Logprobs(args) => commands::logprobs::logprobs(args),
        Command::Tokenize(args) => commands::tokenize::tokenize(args),
        Command::Replay(args) => commands::replay::replay(args),
        Command::Score(args) => commands::score::score(args),
        Command::Check(args) => commands::check::check(args),
        Command::Data(args) => commands::data::data(args),
        Command::Filter(args) => commands::filter::filter(args),
        Command::Simulate(args) => commands::simulate::simulate(args),
        Command::Import(Import::Gguf(args)) => commands::import::gguf::gguf(args),
        Command::Import(Import::Peft(args)) => commands::import::peft::peft(args),
        Command::Export(args) => commands::export::export(args),
        Command::Bench(Bench::Streambp(args)) => bench::streambp(args),
        Command::Bench(Bench::Decode(args)) => bench::decode(args),
        Command::Bench(Bench::Segments(args)) => bench::segments(args),
        Command::Docs(args) => commands::docs::docs(args),
    }
}
