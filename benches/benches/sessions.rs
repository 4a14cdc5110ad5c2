//! 1, 2, 4 and 8 answers at once: what all of them make per second, and how long each of them waits for a token or a frame.
//!
//! ```sh
//! cargo bench -p qwen3-omni-benches --bench sessions                # nano
//! cargo bench -p qwen3-omni-benches --bench sessions -- --released  # released widths, 2 layers of thinker and talker
//! ```
//!
//! One JSON line for each number of answers, with text alone and with speech. `--released` writes a random checkpoint of about
//! 6 GB into a temporary directory; `--model DIR` takes another one; `--dtype bf16` computes in half precision where the CPU has it.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod released;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use qwen3_omni::{GenerateOptions, Guards, Message, Omni, Reply};
use serde_json::{Value, json};

/// Layers of thinker and talker.
const LAYERS: usize = 2;
/// Tokens and codes of one answer: random weights do not end by themselves.
const TOKENS: usize = 32;
const CODES: usize = 25;
/// Answers at once.
const SESSIONS: [usize; 4] = [1, 2, 4, 8];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let released = arguments.iter().any(|argument| argument == "--released");
    let value = |flag: &str| arguments.windows(2).find(|pair| pair[0] == flag).map(|pair| pair[1].as_str());
    let directory = tempfile::tempdir().unwrap();
    let limits = GenerateOptions {
        max_new_tokens: TOKENS,
        max_codes: Some(CODES),
        guards: Guards::off(),
        ..GenerateOptions::default()
    };
    let (model, options, rounds) = match value("--model") {
        Some(model) => (model.into(), limits, 2),
        None if released => (released::checkpoint(directory.path(), LAYERS), limits, 2),
        None => (testkit::nano(), GenerateOptions::default(), 20),
    };
    let most = SESSIONS.into_iter().max().unwrap();
    let builder = Omni::builder(&model).max_answers(most);
    let omni = match value("--dtype") {
        Some(dtype) => builder.dtype(dtype.parse().unwrap()),
        None => builder,
    };
    let omni = omni.load().unwrap();
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
