//! Trains Qwen3-Omni, and proves that it is trained rightly.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Sft(commands::SftCommand),
    Aut(commands::AutCommand),
    Distill(commands::DistillCommand),
    Teach(commands::TeachCommand),
    Talker(commands::TalkerCommand),
    Pairs(commands::PairsCommand),
    Dpo(commands::DpoCommand),
    Gspo(commands::GspoCommand),
    Codec(commands::CodecCommand),
    Encode(commands::EncodeCommand),
    Settings(commands::Settings),
    Plot(commands::Plot),
    Verify(commands::Verify),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Sft(sft) => sft.run(),
        Command::Aut(aut) => aut.run(),
        Command::Distill(distill) => distill.run(),
        Command::Teach(teach) => teach.run(),
        Command::Talker(talker) => talker.run(),
        Command::Pairs(pairs) => pairs.run(),
        Command::Dpo(dpo) => dpo.run(),
        Command::Gspo(gspo) => gspo.run(),
        Command::Codec(codec) => codec.run(),
        Command::Encode(encode) => encode.run(),
        Command::Settings(settings) => settings.run(),
        Command::Plot(plot) => plot.run(),
        Command::Verify(verify) => verify.run(),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            commands::note(format_args!("error: {error}"));
            ExitCode::from(2)
        }
    }
}
