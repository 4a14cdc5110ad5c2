//! Inspect, verify, make, convert, merge, quantise and compare Qwen3-Omni checkpoints.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use omni_core::Result;
use qwen3_omni_weights_tools::commands::{
    Compare, Convert, Init, Inspect, Merge, Output, Quantize, Verify, interrupt, note, usage,
};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Inspect(Inspect),
    Verify(Verify),
    Compare(Compare),
    Init(Init),
    Quantize(Quantize),
    Convert(Convert),
    Merge(Merge),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(told) => return usage(&told),
    };
    let out = Output::default();
    let result = run(arguments.command, &out);
    match result.and_then(|good| out.finish().map(|()| good)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            note(format_args!("error: {error}"));
            ExitCode::from(if interrupt::asked() { interrupt::EXIT_CODE } else { 2 })
        }
    }
}

fn run(command: Command, out: &Output) -> Result<bool> {
    match command {
        Command::Inspect(arguments) => arguments.run(out),
        Command::Verify(arguments) => arguments.run(out),
        Command::Compare(arguments) => arguments.run(out),
        Command::Init(arguments) => arguments.run(out),
        Command::Quantize(arguments) => arguments.run(out),
        Command::Convert(arguments) => arguments.run(out),
        Command::Merge(arguments) => arguments.run(out),
    }
}
