//! Several answers at once, and their speed.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use omni_core::Result;
use qwen3_omni::{GenerateOptions, Message, Omni, Reply};
use serde_json::{Value, json};

/// Lets each session answer `rounds` times, one answer after the other, all starting at once; returns the replies and the total
/// time.
///
/// # Errors
/// The first error of any answer.
///
/// # Panics
/// If there are no questions.
pub fn answers(
    omni: &Omni,
    questions: &[Message],
    options: &GenerateOptions,
    sessions: usize,
    rounds: usize,
) -> Result<(Vec<Reply>, Duration)> {
    let start = Barrier::new(sessions + 1);
    let session = &|index: usize| {
        let question = std::slice::from_ref(&questions[index % questions.len()]);
        start.wait();
        (0..rounds).map(|_| omni.generate(question, options)).collect::<Result<Vec<_>>>()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..sessions).map(|index| scope.spawn(move || session(index))).collect();
        start.wait();
        let started = Instant::now();
        let joined =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let replies = joined.collect::<Result<Vec<_>>>()?;
        Ok((replies.into_iter().flatten().collect(), started.elapsed()))
    })
}

/// One JSON line: what several answers made per second, and how long each of them waited for a token or a frame.
pub fn line(what: &str, sessions: usize, replies: &[Reply], wall: Duration) -> Value {
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
        line["code_predictor_frame_ms"] = json!(sum(&|reply| ms(reply.timings.code_predictor)) / frames);
        line["drafted_codes"] = json!(sum(&|reply| reply.usage.drafted_codes as f64));
        line["accepted_codes"] = json!(sum(&|reply| reply.usage.accepted_codes as f64));
        line["vocoder_frame_ms"] = json!(sum(&|reply| ms(reply.timings.vocoder)) / frames);
        line["first_audio_ms"] = json!(sum(&|reply| reply.timings.first_audio.map_or(0.0, ms)) / replies.len() as f64);
    }
    line
}
