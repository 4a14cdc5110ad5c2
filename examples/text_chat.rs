//! A conversation on the terminal, turn by turn; each answer is written as it is made and spoken into a WAV file.
//!
//! ```sh
//! cargo run --release --example text_chat
//! ```
#![allow(clippy::print_stderr)] // An example owns the terminal.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use qwen3_omni::{Error, Message, Result};
use qwen3_omni_examples::{Flags, answer, exit};

/// Chat in text, with spoken answers
#[derive(Parser)]
struct Arguments {
    /// Instructions for the model
    #[arg(long)]
    system: Option<String>,
    #[command(flatten)]
    flags: Flags,
}

fn run(Arguments { system, flags }: &Arguments) -> Result<()> {
    let omni = flags.load()?;
    let opening: Vec<Message> = system.iter().map(Message::system).collect();
    let mut chat = opening.clone();
    eprintln!("Type a message; /reset forgets the conversation, an end of input (Ctrl-D) leaves.");
    if flags.model.is_none() {
        eprintln!("Nano was never taught conversations of several turns: /reset helps.");
    }
    let mut turn = 1;
    loop {
        eprint!("\nyou> ");
        let Some(line) = std::io::stdin().lock().lines().next() else { break };
        let line = line.map_err(|source| Error::Io { path: "standard input".into(), source })?;
        match line.trim() {
            "" => continue,
            "/reset" => {
                chat.clone_from(&opening);
                continue;
            }
            text => chat.push(Message::user().text(text)),
        }
        match answer(&omni, &chat, &flags.options(), &numbered(&flags.out, turn)) {
            Ok(reply) if !reply.text.is_empty() => chat.push(Message::assistant(reply.text)),
            // An empty answer cannot stand in a conversation.
            Ok(_) => drop(chat.pop()),
            // One question that cannot be answered does not end the conversation.
            Err(error) => {
                eprintln!("error: {error}");
                chat.pop();
                continue;
            }
        }
        turn += 1;
    }
    eprintln!();
    Ok(())
}

/// `reply.wav` → `reply-1.wav`.
fn numbered(out: &Path, turn: usize) -> PathBuf {
    let stem = out.file_stem().unwrap_or_default().to_string_lossy();
    let extension = out.extension().map_or("wav".into(), |e| e.to_string_lossy());
    out.with_file_name(format!("{stem}-{turn}.{extension}"))
}

fn main() -> ExitCode {
    exit(run(&Arguments::parse()))
}
