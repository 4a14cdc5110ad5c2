//! Time to the first sound, and how speech keeps up with playing: stages one after the other against stages at once, for several
//! ramps.
//!
//! ```sh
//! cargo bench -p qwen3-omni-benches --bench first_audio                 # nano
//! cargo bench -p qwen3-omni-benches --bench first_audio -- --full-size  # full widths, 2 layers of thinker and talker
//! ```
//!
//! `--full-size` writes a random checkpoint of about 6 GB into a temporary directory and needs about 12 GB of memory in f32.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::time::Duration;

use qwen3_omni::{ChunkRamp, GenerateOptions, Guards, Message, Omni, Reply, Stages};
use qwen3_omni_benches::full_size;
use weights_tools::quantize::Plan;

/// Layers of thinker and talker.
const LAYERS: usize = 2;
/// Tokens and codes of one answer: random weights do not end by themselves.
const TOKENS: usize = 16;
const CODES: usize = 25;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let at_full_size = arguments.iter().any(|argument| argument == "--full-size");
    let directory = tempfile::tempdir().unwrap();
    let (model, options, runs) = match at_full_size {
        true => {
            let limits = GenerateOptions::default().max_new_tokens(TOKENS).max_codes(CODES).guards(Guards::off());
            let out = directory.path().join("model");
            full_size::write(&out, Some(LAYERS), Plan::default()).unwrap();
            (out, limits, 3)
        }
        false => (testkit::nano(), GenerateOptions::default(), 20),
    };
    let omni = Omni::builder(&model).load().unwrap();
    let question = [Message::user().text("what is seven plus five")];
    println!(
        "| stages | pieces of sound | first text, ms | first sound, ms | in all, ms | sound, s | real-time factor |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for stages in [Stages::Sequential, Stages::Concurrent] {
        for (name, chunks) in [
            ("1, 2, 4, 8", ChunkRamp::default()),
            ("1", ChunkRamp::fixed(1)),
            ("8", ChunkRamp::fixed(8)),
            ("25", ChunkRamp::fixed(25)),
        ] {
            let options = options.clone().stages(stages).chunks(chunks).greedy();
            let mut replies: Vec<Reply> = (0..runs).map(|_| omni.generate(&question, &options).unwrap()).collect();
            replies.sort_by_key(|reply| reply.timings.first_audio);
            let median = &replies[runs / 2];
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            println!(
                "| {stages:?} | {name} | {:.1} | {:.1} | {:.1} | {:.2} | {:.3} |",
                ms(median.timings.first_text),
                ms(median.timings.first_audio.unwrap()),
                ms(median.timings.total),
                median.usage.audio.as_secs_f64(),
                median.real_time_factor().unwrap(),
            );
        }
    }
}
