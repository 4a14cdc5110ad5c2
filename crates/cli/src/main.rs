//! Qwen3-Omni on the terminal.

mod answer;
mod ask;
mod chat;
mod completions;
mod doctor;
mod listen;
#[cfg(feature = "live")]
mod live;
mod media;
mod model;
#[cfg(feature = "nano")]
mod nano;
mod parts;
#[cfg(feature = "hub")]
mod pull;
mod say;
#[cfg(feature = "serve")]
mod serve;
mod speech;
mod spoken;

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use qwen3_omni::Result;
use tracing_subscriber::EnvFilter;
use weights_tools::commands::{self, Output, interrupt, note, usage};

/// Qwen3-Omni on the terminal: text, sound, pictures and video in, text and speech out
#[derive(Parser)]
#[command(name = "qwen3-omni", version)]
#[command(after_help = "Example: qwen3-omni ask \"what is seven plus five\" --out reply.wav\n\n\
    RUST_LOG=debug tells more; RUST_LOG=error hides warnings. Ctrl-C cancels an answer, twice ends the program.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ask(ask::Ask),
    Chat(chat::Chat),
    Listen(listen::Listen),
    Say(say::Say),
    #[cfg(feature = "serve")]
    Serve(serve::Serve),
    Media(media::Media),
    #[cfg(feature = "hub")]
    Pull(pull::Pull),
    Doctor(doctor::Doctor),
    #[command(after_help = "Example: qwen3-omni inspect /models/Qwen3-Omni-30B-A3B-Instruct --expect released")]
    Inspect(commands::Inspect),
    #[command(after_help = "Example: qwen3-omni verify --model DIR --golden DIR --only thinker_,code2wav_")]
    Verify(commands::Verify),
    #[command(after_help = "Example: qwen3-omni quantize /models/Qwen3-Omni-30B-A3B-Instruct omni-24gb --recipe 24gb")]
    Quantize(commands::Quantize),
    #[command(after_help = "Example: qwen3-omni convert gptq-checkpoint converted --dtype bf16")]
    Convert(commands::Convert),
    #[command(after_help = "Example: qwen3-omni merge /models/Qwen3-Omni-30B-A3B-Instruct tuned/step-000200 merged")]
    Merge(commands::Merge),
    #[command(after_help = "Example: qwen3-omni compare DIR omni-24gb --picture cat.png --json")]
    Compare(commands::Compare),
    Completions(completions::Completions),
}

impl Command {
    /// Whether this is a command of `weights-tools`, whose exit codes tell a checkpoint that is not as it should be (1) from a command
    /// that could not run (2).
    fn is_tool(&self) -> bool {
        use Command::{Compare, Convert, Inspect, Merge, Quantize, Verify};
        matches!(self, Inspect(_) | Verify(_) | Quantize(_) | Convert(_) | Merge(_) | Compare(_))
    }

    /// Writes what libraries log to standard error.
    fn show_logs(&self) {
        match self {
            #[cfg(feature = "serve")]
            Command::Serve(arguments) => arguments.show_logs(),
            _ => show_logs(),
        }
    }

    fn run(self, out: &Output) -> Result<ExitCode> {
        let code = |good| if good { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        match self {
            Command::Ask(arguments) => arguments.run(out),
            Command::Chat(arguments) => arguments.run(out),
            Command::Listen(arguments) => arguments.run(out),
            Command::Say(arguments) => arguments.run(out),
            #[cfg(feature = "serve")]
            Command::Serve(arguments) => arguments.run(),
            Command::Media(arguments) => arguments.run(out).map(code),
            #[cfg(feature = "hub")]
            Command::Pull(arguments) => arguments.run(out).map(code),
            Command::Doctor(arguments) => arguments.run(out).map(code),
            Command::Inspect(arguments) => arguments.run(out).map(code),
            Command::Verify(arguments) => arguments.run(out).map(code),
            Command::Quantize(arguments) => arguments.run(out).map(code),
            Command::Convert(arguments) => arguments.run(out).map(code),
            Command::Merge(arguments) => arguments.run(out).map(code),
            Command::Compare(arguments) => arguments.run(out).map(code),
            Command::Completions(arguments) => arguments.run(out).map(code),
        }
    }
}

/// The log filter without `RUST_LOG`: warnings, except those of symphonia, whose prober warns about every MP4.
const LOGGED: &str = "warn,symphonia_core=error";

/// Writes what libraries log to standard error.
fn show_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
    lines.without_time().with_target(false).init();
}

fn main() -> ExitCode {
    let command = match Arguments::try_parse() {
        Ok(arguments) => arguments.command,
        Err(told) => return usage(&told),
    };
    command.show_logs();
    let (out, is_tool) = (Output::default(), command.is_tool());
    match command.run(&out).and_then(|code| out.finish().map(|()| code)) {
        Ok(code) => code,
        Err(error) => {
            note(format_args!("error: {error}"));
            ExitCode::from(if interrupt::asked() { interrupt::EXIT_CODE } else { 1 + u8::from(is_tool) })
        }
    }
}
