//! 1, 2, 4 and 8 answers at once: what all of them make per second, and how long each of them waits for a token or a frame.
//!
//! ```sh
//! cargo run --release -p qwen3-omni-benches --bin sessions                 # nano
//! cargo run --release -p qwen3-omni-benches --bin sessions -- --full-size  # full widths, 2 layers of thinker and talker
//! cargo run --release -p qwen3-omni-benches --bin sessions -- --model DIR  # random weights, as `full_size` writes them
//! ```
//!
//! One JSON line for each number of answers, with text alone and with speech. `--full-size` writes a random checkpoint of about 6 GB
//! into a temporary directory; `--dtype bf16` computes in bf16 where the CPU has it.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A program owns its terminal, and stops where it fails.

use std::path::PathBuf;

use clap::Parser;
use omni_core::Dtype;
use qwen3_omni::{GenerateOptions, Guards, Message, Omni};
use qwen3_omni_benches::asking::{answers, line};
use qwen3_omni_benches::full_size;
use weights_tools::quantize::Plan;

/// Layers of thinker and talker.
const LAYERS: usize = 2;
/// Tokens and codes of one answer: random weights do not end by themselves. Speech has about three frames for a token.
const TOKENS: usize = 24;
const CODES: usize = 3 * TOKENS + 1;
/// Answers at once.
const SESSIONS: [usize; 4] = [1, 2, 4, 8];

/// 1, 2, 4 and 8 answers at once
#[derive(Debug, Parser)]
struct Arguments {
    /// A checkpoint with random weights, as `full_size` writes them; otherwise nano answers
    #[arg(long)]
    model: Option<PathBuf>,
    /// Writes and asks a checkpoint of full widths
    #[arg(long, conflicts_with = "model")]
    full_size: bool,
    /// Number type to compute in
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// Residual codes that the code predictor drafts at once
    #[arg(long, default_value_t = 0)]
    draft_codes: usize,
    /// Draws the codes as the released model does, instead of the best ones
    #[arg(long)]
    sampled: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let directory = tempfile::tempdir().unwrap();
    let limits = GenerateOptions::default().max_new_tokens(TOKENS).max_codes(CODES).guards(Guards::off());
    let (model, options, rounds) = match (arguments.model, arguments.full_size) {
        (Some(model), _) => (model, limits, 1),
        (None, true) => {
            let out = directory.path().join("model");
            full_size::write(&out, Some(LAYERS), Plan::default()).unwrap();
            (out, limits, 2)
        }
        (None, false) => (testkit::nano(), GenerateOptions::default(), 20),
    };
    let most = SESSIONS.into_iter().max().unwrap();
    let omni = Omni::builder(&model).max_answers(most).dtype(arguments.dtype).load().unwrap();
    let options = if arguments.sampled { options } else { options.greedy() }.draft_codes(arguments.draft_codes);
    let questions = ["what is seven plus five", "repeat red cat nine"].map(|text| Message::user().text(text));
    for (what, options) in [("text", options.clone().text_only()), ("speech", options)] {
        // Caches and pools are warm afterwards.
        answers(&omni, &questions, &options, 1, 1).unwrap();
        for sessions in SESSIONS {
            let (replies, wall) = answers(&omni, &questions, &options, sessions, rounds).unwrap();
            println!("{}", line(what, sessions, &replies, wall));
        }
    }
}
