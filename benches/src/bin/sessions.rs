//! 1, 2, 4 and 8 answers at once: what all of them make per second, and how long each of them waits for a token or a frame.
//!
//! ```sh
//! cargo run --release -p qwen3-omni-benches --bin sessions                 # nano
//! cargo run --release -p qwen3-omni-benches --bin sessions -- --released   # released widths, 2 layers of thinker and talker
//! cargo run --release -p qwen3-omni-benches --bin sessions -- --model DIR  # random weights, as `released` writes them
//! ```
//!
//! One JSON line for each number of answers, with text alone and with speech. `--released` writes a random checkpoint of about
//! 6 GB into a temporary directory; `--dtype bf16` computes in half precision where the CPU has it.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A program owns its terminal, and stops where it fails.

use std::path::PathBuf;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use omni_core::Dtype;
use qwen3_omni::{GenerateOptions, Guards, Message, Omni, Reply};
use qwen3_omni_benches::released;
use serde_json::{Value, json};
use weights_tools::quantize::Plan;

/// Layers of thinker and talker.
const LAYERS: usize = 2;
/// Tokens and codes of one answer: random weights do not end by themselves. Speech has about three frames for a token.
const TOKENS: usize = 24;
const CODES: usize = 3 * TOKENS + 1;
/// Answers at once.
const SESSIONS: [usize; 4] = [1, 2, 4, 8];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let released = arguments.iter().any(|argument| argument == "--released");
    let half = arguments.windows(2).any(|pair| pair[0] == "--dtype" && pair[1] == "bf16");
    let directory = tempfile::tempdir().unwrap();
    let limits = GenerateOptions {
        max_new_tokens: TOKENS,
        max_codes: Some(CODES),
        guards: Guards::off(),
        ..GenerateOptions::default()
    };
    let named = arguments.windows(2).find(|pair| pair[0] == "--model").map(|pair| PathBuf::from(&pair[1]));
    let (model, options, rounds) = match (named, released) {
        (Some(model), _) => (model, limits, 1),
        (None, true) => {
            let out = directory.path().join("model");
            released::write(&out, Some(LAYERS), Plan::default()).unwrap();
            (out, limits, 2)
        }
        (None, false) => (testkit::nano(), GenerateOptions::default(), 20),
    };
    let most = SESSIONS.into_iter().max().unwrap();
    let builder = Omni::builder(&model).max_answers(most);
    let omni = if half { builder.dtype(Dtype::Bf16) } else { builder }.load().unwrap();
    let options = options.greedy();
    for (what, options) in [("text", options.clone().text_only()), ("speech", options)] {
        // Caches and pools are warm afterwards.
        answers(&omni, &options, 1, 1);
        for sessions in SESSIONS {
            let (replies, wall) = answers(&omni, &options, sessions, rounds);
            println!("{}", line(what, sessions, &replies, wall));
        }
    }
}

/// Each session answers so many times, one answer after the other; all begin at once.
fn answers(omni: &Omni, options: &GenerateOptions, sessions: usize, rounds: usize) -> (Vec<Reply>, Duration) {
    let start = Barrier::new(sessions + 1);
    let session = |index: usize| {
        let question = ["what is seven plus five", "repeat red cat nine"][index % 2];
        let question = [Message::user().text(question)];
        start.wait();
        (0..rounds).map(|_| omni.generate(&question, options).unwrap()).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..sessions).map(|index| scope.spawn(move || session(index))).collect();
        start.wait();
        let started = Instant::now();
        let replies = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (replies, started.elapsed())
    })
}

fn line(what: &str, sessions: usize, replies: &[Reply], wall: Duration) -> Value {
    let sum = |of: &dyn Fn(&Reply) -> f64| replies.iter().map(of).sum::<f64>();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let tokens = sum(&|reply| reply.token_ids.len() as f64);
    let frames = sum(&|reply| reply.usage.frames as f64);
    // The first token belongs to the prompt.
    let steps = tokens - replies.len() as f64;
    let writing = sum(&|reply| ms(reply.timings.thinker - reply.timings.prefill));
    let mut line = json!({
        "answer": what,
        "sessions": sessions,
        "answers": replies.len(),
        "seconds": wall.as_secs_f64(),
        "tokens_per_s": tokens / wall.as_secs_f64(),
        "token_ms": writing / steps,
        "first_text_ms": sum(&|reply| ms(reply.timings.first_text)) / replies.len() as f64,
    });
    if frames > 0.0 {
        let making = sum(&|reply| ms(reply.timings.talker + reply.timings.code_predictor));
        line["frames_per_s"] = json!(frames / wall.as_secs_f64());
        line["frame_ms"] = json!(making / frames);
        line["vocoder_frame_ms"] = json!(sum(&|reply| ms(reply.timings.vocoder)) / frames);
        line["first_audio_ms"] = json!(sum(&|reply| reply.timings.first_audio.map_or(0.0, ms)) / replies.len() as f64);
    }
    line
}
