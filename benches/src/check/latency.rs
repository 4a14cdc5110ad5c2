//! The whole model with random weights: first text, first sound, real-time factor, several answers at once, memory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use omni_core::{Error, Place, PlaceKind, Result};
use qwen3_omni::{Device, GenerateOptions, Guards, Message, Omni, Reply};
use serde_json::{Value, json};
use weights_tools::quantize::{Plan, Recipe};

use super::machine::{card_memory_mb, own_memory_mb};
use crate::asking::{answers, line};
use crate::full_size;
use crate::stored::Stored;
use crate::timing::{median, rounded};

/// Which model, and how it is asked.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// cpu, wgpu, cuda or cuda:N
    #[arg(long)]
    pub device: Device,
    /// f32, bf16, f16, or int4: recipe 24gb, the rest bf16, or f16 where there is none
    #[arg(long)]
    pub dtype: Stored,
    /// Directory of the nano model, for its tokenizer
    #[arg(long)]
    pub nano: PathBuf,
    /// Nano's own size instead of the full one
    #[arg(long)]
    pub small: bool,
    /// Layers of thinker and talker instead of all of them
    #[arg(long)]
    pub layers: Option<usize>,
    /// A sound file that is asked as a question, besides text
    #[arg(long)]
    pub sound: Option<PathBuf>,
    /// Tokens of a long answer; it has three codec frames for each
    #[arg(long, default_value_t = 32)]
    pub tokens: usize,
    /// Short answers, for the first text and the first sound
    #[arg(long, default_value_t = 20)]
    pub runs: usize,
    /// Seconds after which no further short or long answer is begun
    #[arg(long, default_value_t = 60.0)]
    pub budget_s: f64,
    /// Answers at once
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    pub sessions: Vec<usize>,
}

const FRAMES_PER_TOKEN: usize = 3;
const SHORT: usize = 4;

/// Loads the model and asks it.
///
/// # Errors
/// If the device cannot be opened, the memory does not suffice, or an answer fails.
pub fn run(arguments: &Arguments, emit: &dyn Fn(Value)) -> Result<bool> {
    let directory = tempfile::tempdir().map_err(|source| Error::io(&arguments.nano, source))?;
    let model = model(arguments, directory.path())?;
    let (place, dtype) = arguments.dtype.open(&arguments.device)?;
    let emit = |what: &str, mut line: Value| {
        line["kind"] = json!("latency");
        line["what"] = json!(what);
        line["device"] = json!(arguments.device.to_string());
        line["dtype"] = json!(arguments.dtype.name);
        line["size"] = json!(if arguments.small { "nano" } else { "full" });
        line["layers"] = json!(arguments.layers);
        emit(line);
    };
    let started = Instant::now();
    let most = arguments.sessions.iter().copied().max().unwrap_or(1);
    let builder = Omni::builder(&model).device(arguments.device.clone()).dtype(dtype).random_weights(0);
    let omni = builder.max_answers(most.max(1)).load()?;
    place.device().sync().map_err(|error| Error::Device(error.to_string()))?;
    emit("load", with_memory(json!({"seconds": seconds(started.elapsed())}), &place));
    let ask = Ask { omni: &omni, budget: Duration::from_secs_f64(arguments.budget_s), started: Instant::now() };
    let text = Message::user().text("what is seven plus five");
    let spoken = arguments.sound.as_ref().map(|file| Message::user().audio(file));
    for (what, question) in [("text", Some(&text)), ("sound", spoken.as_ref())] {
        let Some(question) = question else { continue };
        // The first answer compiles and tunes kernels.
        let first = ask.one(question, SHORT)?;
        let replies = ask.several(question, SHORT, arguments.runs)?;
        emit(&format!("first packet, {what}"), first_packet(&first, &replies));
    }
    ask.one(&text, arguments.tokens)?;
    let replies = ask.several(&text, arguments.tokens, 3)?;
    emit("answer", whole_answer(&replies));
    for sessions in arguments.sessions.iter().filter(|sessions| **sessions > 1) {
        let (options, questions) = (options(arguments.tokens), std::slice::from_ref(&text));
        answers(&omni, questions, &options, *sessions, 1)?;
        let (replies, wall) = answers(&omni, questions, &options, *sessions, 1)?;
        let real_time = replies.iter().filter_map(Reply::real_time_factor).fold(0.0, f64::max);
        let mut line = line("speech", *sessions, &replies, wall);
        line["worst_real_time_factor"] = json!(rounded(real_time, 3));
        emit("answers", line);
    }
    emit("memory", with_memory(json!({}), &place));
    Ok(true)
}

/// The directory that config and tokenizer are read from.
fn model(arguments: &Arguments, temporary: &Path) -> Result<PathBuf> {
    let recipe = match arguments.dtype.name.as_str() {
        "int4" => Some(Recipe::Gb24),
        "int8" => Some(Recipe::Gb48),
        _ => None,
    };
    let (out, plan) = (temporary.join("model"), Plan { recipe, ..Plan::default() });
    let write = if arguments.small { full_size::write_nano_without_weights } else { full_size::write_without_weights };
    write(&out, &arguments.nano, arguments.layers, plan)?;
    Ok(out)
}

/// Random weights do not end by themselves.
fn options(tokens: usize) -> GenerateOptions {
    let max_codes = tokens * FRAMES_PER_TOKEN + 1;
    GenerateOptions::default().max_new_tokens(tokens).max_codes(max_codes).guards(Guards::off()).greedy()
}

struct Ask<'a> {
    omni: &'a Omni,
    budget: Duration,
    started: Instant,
}

impl Ask<'_> {
    fn one(&self, question: &Message, tokens: usize) -> Result<Reply> {
        self.omni.generate(std::slice::from_ref(question), &options(tokens))
    }

    /// Asks `most` times, or fewer if the time runs out, but at least once.
    fn several(&self, question: &Message, tokens: usize, most: usize) -> Result<Vec<Reply>> {
        let mut replies = vec![self.one(question, tokens)?];
        while replies.len() < most && self.started.elapsed() < self.budget {
            replies.push(self.one(question, tokens)?);
        }
        Ok(replies)
    }
}

fn seconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64(), 4)
}

fn median_of(replies: &[Reply], of: impl Fn(&Reply) -> f64) -> f64 {
    let mut values: Vec<f64> = replies.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    rounded(median(&values), 3)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn first_packet(first: &Reply, replies: &[Reply]) -> Value {
    json!({
        "runs": replies.len(), "prompt_tokens": first.usage.prompt_tokens,
        "very_first_s": seconds(first.timings.preprocessing + first.timings.total),
        "preprocessing_ms": median_of(replies, |reply| ms(reply.timings.preprocessing)),
        "encoders_ms": median_of(replies, |reply| ms(reply.timings.encoders)),
        "prefill_ms": median_of(replies, |reply| ms(reply.timings.prefill)),
        "first_text_ms": median_of(replies, |reply| ms(reply.timings.first_text)),
        "first_sound_ms": median_of(replies, |reply| reply.timings.first_audio.map_or(f64::NAN, ms)),
    })
}

fn whole_answer(replies: &[Reply]) -> Value {
    let frames = |reply: &Reply| reply.usage.frames.max(1) as f64;
    let later = |reply: &Reply| reply.usage.text_tokens.saturating_sub(1).max(1) as f64;
    json!({
        "runs": replies.len(), "tokens": replies[0].usage.text_tokens, "frames": replies[0].usage.frames,
        "audio_s": seconds(replies[0].usage.audio),
        "real_time_factor": median_of(replies, |reply| reply.real_time_factor().unwrap_or(f64::NAN)),
        "tokens_per_s": median_of(replies, Reply::tokens_per_second),
        "token_ms": median_of(replies, |reply| ms(reply.timings.thinker.saturating_sub(reply.timings.prefill)) / later(reply)),
        "talker_frame_ms": median_of(replies, |reply| ms(reply.timings.talker) / frames(reply)),
        "code_predictor_frame_ms": median_of(replies, |reply| ms(reply.timings.code_predictor) / frames(reply)),
        "vocoder_frame_ms": median_of(replies, |reply| ms(reply.timings.vocoder) / frames(reply)),
        "cache_bytes": replies[0].usage.cache_bytes,
    })
}

/// Adds the memory as the driver, the allocator (for this thread's stream) and the system report it.
fn with_memory(mut line: Value, place: &Place) -> Value {
    line["own_memory_mb"] = json!(own_memory_mb());
    line["card_memory_mb"] = json!(if place.kind() == PlaceKind::Host { None } else { card_memory_mb() });
    if let Some(usage) = place.device().memory_pool_usage() {
        line["pool_in_use_mb"] = json!(usage.bytes_in_use / 1_000_000);
        line["pool_reserved_mb"] = json!(usage.bytes_reserved / 1_000_000);
    }
    line
}
