//! The model at its full size, quantised, answering aloud on this machine: start-up, memory, speed.
//!
//! ```sh
//! cargo run --release -p qwen3-omni-benches --bin full_size -- DIRECTORY [24gb|48gb|80gb] [TOKENS] [CHARACTERS]
//! ```
//!
//! Writes a random checkpoint (24gb: 21.4 GB) into the directory unless it holds one. Random weights do not end an answer: it has
//! TOKENS tokens and three codec frames for each, which is about what speech needs. Prints one JSON line per answer: three to a
//! short question, or one to a text of CHARACTERS random characters, about a token each.
#![allow(clippy::print_stdout, clippy::print_stderr)] // A program owns its terminal.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use omni_core::{Dtype, Result};
use qwen3_omni::{GenerateOptions, Guards, Message, Omni};
use qwen3_omni_benches::full_size;
use serde_json::json;
use weights_tools::quantize::{Plan, Recipe};

const FRAMES_PER_TOKEN: usize = 3;
const ANSWERS: usize = 3;

/// The model at its full size, quantised, answering aloud
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the checkpoint lies, or is written
    directory: PathBuf,
    /// Recipe of the weights
    #[arg(default_value = "24gb", value_parser = recipe)]
    recipe: Recipe,
    /// Tokens of an answer
    #[arg(default_value_t = 32)]
    tokens: usize,
    /// Random characters of the one text that is asked in place of a short question
    characters: Option<usize>,
    /// Residual codes that the code predictor drafts at once
    #[arg(long, default_value_t = 0)]
    draft_codes: usize,
    /// Draws the codes as the released model does, instead of the best ones
    #[arg(long)]
    sampled: bool,
}

fn recipe(name: &str) -> std::result::Result<Recipe, String> {
    let named = |recipe: &Recipe| recipe.name() == name;
    Recipe::ALL
        .into_iter()
        .find(named)
        .ok_or_else(|| format!("expected {}", Recipe::ALL.map(|recipe| recipe.name()).join(", ")))
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let &Arguments { ref directory, recipe, tokens, characters, draft_codes, sampled } = arguments;
    full_size::write(directory, None, Plan { recipe: Some(recipe), ..Plan::default() })?;
    let started = Instant::now();
    let omni = Omni::builder(directory).dtype(Dtype::Bf16).load()?;
    let loaded = started.elapsed();
    let options = GenerateOptions::default()
        .max_new_tokens(tokens)
        .max_codes(tokens * FRAMES_PER_TOKEN + 1)
        .draft_codes(draft_codes)
        .guards(Guards::off());
    let options = if sampled { options } else { options.greedy() };
    let question = characters.map_or_else(|| "what is seven plus five".to_owned(), noise);
    let question = [Message::user().text(&question)];
    for answer in 0..if characters.is_some() { 1 } else { ANSWERS } {
        let reply = omni.generate(&question, &options)?;
        let frames = reply.speech.as_ref().map_or(0, |speech| speech.codes.len());
        let each = |time: Duration, count: usize| (time.as_secs_f64() * 1e5 / count.max(1) as f64).round() / 100.0;
        let seconds = |time: Duration| (time.as_secs_f64() * 1e3).round() / 1e3;
        let times = reply.timings;
        println!(
            "{}",
            json!({
                "recipe": recipe.name(), "answer": answer, "load_s": seconds(loaded), "prompt_tokens": reply.usage.prompt_tokens,
                "prefill_s": seconds(times.prefill), "tokens": reply.usage.text_tokens, "frames": frames,
                "tokens_per_second": reply.tokens_per_second(), "real_time_factor": reply.real_time_factor(),
                "first_text_s": seconds(times.first_text), "first_audio_s": times.first_audio.map(seconds),
                "total_s": seconds(times.total), "audio_s": seconds(reply.usage.audio),
                "thinker_ms_per_token": each(times.thinker - times.prefill, reply.usage.text_tokens - 1),
                "talker_ms_per_frame": each(times.talker, frames),
                "code_predictor_ms_per_frame": each(times.code_predictor, frames),
                "drafted_codes": reply.usage.drafted_codes, "accepted_codes": reply.usage.accepted_codes,
                "vocoder_ms_per_frame": each(times.vocoder, frames),
                "resident_mb": status("VmRSS:"), "own_mb": status("RssAnon:"), "mapped_mb": status("RssFile:"),
            })
        );
    }
    Ok(())
}

/// `characters` random letters, digits and spaces, so that other tokens, and with them other experts, come all the time.
fn noise(characters: usize) -> String {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(
            b"abcdefghijklmnopqrstuvwxyz 0123456789,.?!-+ABCDEFGHIJKLMNOPQRSTUVWXYZ"[(state >> 40) as usize % 69],
        )
    };
    (0..characters).map(next).collect()
}

/// Megabytes of this process as the system reports them; `None` on systems that do not.
fn status(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024 / 1_000_000)
}
