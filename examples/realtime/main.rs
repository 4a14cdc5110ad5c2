//! A conversation in real time: it listens while you speak, answers at once, and can be interrupted.
//!
//! Recordings stand in for the microphone and a WAV file for the speakers, both at the pace of real time. With the feature
//! `live` it uses the machine's own.
//!
//! ```sh
//! cargo run --release --example realtime                                  # two spoken questions, one after the other
//! cargo run --release --example realtime -- --interrupt-at 0.3            # interrupts the first answer
//! cargo run --release --example realtime -- mine.wav --chunk-ramp 1,4 --device wgpu --model path/to/model
//! cargo run --release --example realtime --features live -- --live        # microphone and speakers
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr)] // Examples own the terminal.

#[cfg(feature = "live")]
mod live;
mod recorded;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use qwen3_omni::{
    Audio, ChunkRamp, ConversationEvent, ConversationEvents, ConversationOptions, MelNorm, Reply, Result,
};
use qwen3_omni_examples::{Flags, exit};

/// Talk in real time
#[derive(Parser)]
struct Arguments {
    /// What is said, one recording per turn; two spoken questions if none is given
    files: Vec<PathBuf>,
    /// Interrupt when this many seconds of the first answer have been played
    #[arg(long, value_parser = seconds)]
    interrupt_at: Option<Duration>,
    /// Frames of the first piece of sound, and of the longest: they double in between
    #[arg(long, value_parser = ramp, default_value = "1,8")]
    chunk_ramp: ChunkRamp,
    /// Normalise mel frames by the loudest so far, and prefill nothing twice
    #[arg(long)]
    mel_norm_so_far: bool,
    /// Use the machine's microphone and speakers
    #[cfg(feature = "live")]
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    flags: Flags,
}

fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| format!("`{text}` is not a number of seconds like 0.3"))
}

fn ramp(text: &str) -> std::result::Result<ChunkRamp, String> {
    let wrong = || format!("`{text}` is not two numbers of frames like 1,8");
    let (first, most) = text.split_once(',').ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse().ok().filter(|frames| *frames > 0).ok_or_else(wrong);
    Ok(ChunkRamp::default().first(number(first)?).most(number(most)?))
}

/// Where answers are played.
trait Player {
    /// Begins an answer.
    fn begin(&mut self) -> Result<()>;
    /// Takes sound, to be played after what came before.
    fn queue(&mut self, sound: &Audio) -> Result<()>;
    /// Discards what was not played.
    fn stop(&mut self);
    /// Is told that no more sound of this answer comes.
    fn end(&mut self);
}

/// Shows and plays what happens in a conversation, to its end.
fn follow(events: ConversationEvents, player: &mut dyn Player) -> Result<()> {
    for event in events {
        match event? {
            ConversationEvent::SpeechStarted => eprintln!("listening"),
            ConversationEvent::TurnEnded => player.begin()?,
            ConversationEvent::Text(piece) => {
                print!("{piece}");
                // A terminal that is gone is no reason to stop.
                let _ = std::io::stdout().flush();
            }
            ConversationEvent::Audio(sound) => player.queue(&sound)?,
            ConversationEvent::Interrupted(played) => {
                player.stop();
                eprintln!("interrupted; heard: {}", played.text);
            }
            ConversationEvent::Done(reply) => {
                println!();
                player.end();
                report(&reply);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The latency table of one turn.
fn report(reply: &Reply) {
    let (timings, usage) = (&reply.timings, &reply.usage);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let per_frame = |time: Duration| ms(time) / usage.frames.max(1) as f64;
    let prompt = format!("ms  ({} of {} tokens cached)", usage.cached_tokens, usage.prompt_tokens);
    let text = [
        ("preprocessing", ms(timings.preprocessing), "ms"),
        ("encoders", ms(timings.encoders), "ms"),
        ("thinker, prompt", ms(timings.prefill), &prompt),
        ("first token", ms(timings.first_text), "ms"),
        ("thinker", reply.tokens_per_second(), "tokens/s"),
        ("keys and values", usage.cache_bytes as f64 / 1e6, "MB"),
    ];
    let speech = [
        ("talker, first code", ms(timings.first_code), "ms"),
        ("code predictor per frame", per_frame(timings.code_predictor), "ms"),
        ("vocoder per frame", per_frame(timings.vocoder), "ms"),
        ("first packet", ms(timings.first_audio.unwrap_or_default()), "ms"),
        ("real-time factor", reply.real_time_factor().unwrap_or_default(), ""),
    ];
    for (name, value, unit) in text.iter().chain(speech.iter().filter(|_| reply.speech.is_some())) {
        eprintln!("  {name:<28}{value:>10.2} {unit}");
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let omni = arguments.flags.load()?;
    let norm = if arguments.mel_norm_so_far { MelNorm::SoFar } else { MelNorm::Exact };
    let answer = arguments.flags.options().chunks(arguments.chunk_ramp);
    let options = ConversationOptions::default().answer(answer).mel_norm(norm);
    #[cfg(feature = "live")]
    if arguments.live {
        return live::talk(&omni, options);
    }
    recorded::talk(&omni, options, &arguments)
}

fn main() -> ExitCode {
    exit(run(Arguments::parse()))
}
