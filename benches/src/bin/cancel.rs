//! How long a cancelled answer goes on: from `cancel` until all of its stages have stopped, with 64 answers at once.
//!
//! ```sh
//! cargo run --release -p qwen3-omni-benches --bin cancel
//! ```
//!
//! Every other answer reads ten minutes of sound first, so that most cancellations meet the encoder or the prefill. One JSON line:
//! median, 90th percentile and longest time in milliseconds.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A program owns its terminal, and stops where it fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qwen3_omni::media::audio::log_mel;
use qwen3_omni::{AudioInput, GenerateOptions, Message, Omni};
use serde_json::json;

const ANSWERS: usize = 64;
const ROUNDS: usize = 4;
/// Seconds of sound; what follows is cancelled long before an answer begins.
const SECONDS: usize = 600;

fn main() {
    let omni = Omni::builder(testkit::nano()).max_answers(ANSWERS).load().unwrap();
    let sound: Vec<f32> = (0..SECONDS * 16_000).map(|at| (at as f32 * 0.05).sin() * 0.3).collect();
    // Prepared once: it is not the preparation of other answers that is to be measured.
    let mel = log_mel(&[AudioInput::samples(sound, 16_000, 1)]).unwrap().remove(0);
    let sound = AudioInput::Frames(Arc::new(mel));
    let mut times: Vec<f64> = std::thread::scope(|scope| {
        let (omni, sound) = (&omni, &sound);
        let threads: Vec<_> = (0..ANSWERS).map(|thread| scope.spawn(move || one(omni, sound, thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let line = json!({"answers": ANSWERS, "cancelled": times.len(), "median_ms": at(0.5), "p90_ms": at(0.9), "max_ms": at(1.0)});
    println!("{line}");
}

/// Cancels a few answers, each a little later than the one before; the times in milliseconds.
fn one(omni: &Omni, sound: &AudioInput, thread: usize) -> Vec<f64> {
    let message = match thread % 2 {
        0 => Message::user().audio(sound.clone()),
        _ => Message::user().text("repeat red cat nine blue dog two"),
    };
    let options = GenerateOptions::default().greedy();
    let times = (0..ROUNDS).map(|round| {
        let prompt = omni.prompt(std::slice::from_ref(&message), &options).unwrap();
        let mut stream = omni.stream_prompt(prompt).unwrap();
        std::thread::sleep(Duration::from_millis((5 + 7 * thread + 90 * round) as u64 % 400));
        let cancelled = Instant::now();
        stream.cancel();
        // The stream ends when its last stage has.
        stream.by_ref().for_each(drop);
        cancelled.elapsed().as_secs_f64() * 1e3
    });
    times.collect()
}
