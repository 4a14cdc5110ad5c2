//! Nano, the model that comes with this repository: its data and how good it is. `README.md` of this package says how it is trained.
//!
//! ```sh
//! cargo run --release -p qwen3-omni-nano -- evaluate --model examples/assets/nano --data held/text.jsonl
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr)] // Programs own the terminal.

mod data;
mod evaluate;
mod files;
mod join;
mod lexicon;
mod start;
mod tokenizer;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The data of nano, and how good it is
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Data(data::Options),
    Start(start::Start),
    Join(join::Join),
    Lexicon(lexicon::Lexicon),
    Evaluate(evaluate::Evaluate),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Data(options) => data::generate(&options).map_err(|error| error.to_string()),
        Command::Start(start) => start.run().map_err(|error| error.to_string()),
        Command::Join(join) => join.run().map_err(|error| error.to_string()),
        Command::Lexicon(lexicon) => lexicon.run().map_err(|error| error.to_string()),
        Command::Evaluate(evaluate) => evaluate.run().map_err(|error| error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use train::stage::{CodecSettings, SftSettings, TalkerSettings};

    fn read<S: DeserializeOwned>(text: &str) -> S {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn settings_of_all_stages_are_understood() {
        for text in [
            include_str!("../stages/look.toml"),
            include_str!("../stages/ways.toml"),
            include_str!("../stages/thinker.toml"),
            include_str!("../stages/thinking.toml"),
            include_str!("../stages/captioner.toml"),
        ] {
            let SftSettings { run, augment, .. } = read(text);
            augment.validate().unwrap();
            run.schedule().unwrap();
        }
        for text in [include_str!("../stages/codec.toml"), include_str!("../stages/vocoder.toml")] {
            read::<CodecSettings>(text).run.schedule().unwrap();
        }
        for text in [include_str!("../stages/words.toml"), include_str!("../stages/settle.toml")] {
            read::<TalkerSettings>(text).run.schedule().unwrap();
        }
    }
}
