//! The command line program.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use longhaul::cli::{Bench, Cli, Command, TrainArgs};
use longhaul::config::RunConfig;
use longhaul::eval::no_custom_verifiers;
use longhaul::{bench, replay, score, tools, train, warm_start};

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: what went wrong, then why, with nothing after it.
            eprintln!("error: {}", format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Train(args) => run_train(args),
        Command::Sft(args) => warm_start::sft(args),
        Command::Eval(args) => tools::eval(args),
        Command::Generate(args) => tools::generate(args),
        Command::Logprobs(args) => tools::logprobs(args),
        Command::Replay(args) => replay::replay(args),
        Command::Score(args) => score::score(args),
        Command::Check(args) => tools::check(args),
        Command::Bench(Bench::Streambp(args)) => bench::streambp(args),
    }
}

fn run_train(args: &TrainArgs) -> Result<()> {
    let config = RunConfig::load(&args.config, &args.overrides.set)?;
    let name = args.config.file_stem().map_or("train".into(), |stem| stem.to_string_lossy());
    train::train(&config, &name, &args.place, &no_custom_verifiers)?;
    Ok(())
}
