//! A video and a question in, text and speech out; with `--audio-in-video` the video's own sound is heard, too.
//!
//! ```sh
//! cargo run --release --example video_chat -- clip.mp4 --text "what happens"
//! cargo run --release --example video_chat -- interview.mp4 --audio-in-video --text ""
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use qwen3_omni::{Message, Result};
use qwen3_omni_examples::{Flags, answer, exit, sample};

/// Answer a question about a video in text and speech
#[derive(Parser)]
struct Arguments {
    /// MP4 or MOV with H.264; other formats if `ffmpeg` is installed; a clip of a coloured shape if none is given
    file: Option<PathBuf>,
    /// The question; empty if the video's own sound asks it
    #[arg(long, default_value = "what do you see")]
    text: String,
    /// Hear the video's sound, interleaved with its frames
    #[arg(long)]
    audio_in_video: bool,
    /// Frames taken per second
    #[arg(long, default_value_t = 2.0)]
    fps: f64,
    /// Frames taken at most
    #[arg(long, default_value_t = 768)]
    max_frames: usize,
    /// Pixels a frame has at least, by enlarging; 131072 in the released model, 4096 for nano
    #[arg(long)]
    min_pixels: Option<usize>,
    #[command(flatten)]
    flags: Flags,
}

fn run(arguments: Arguments) -> Result<()> {
    let Arguments { file, text, audio_in_video, fps, max_frames, min_pixels, flags } = arguments;
    let video = Message::user().video(file.unwrap_or_else(|| sample("clip.mp4")));
    let question = if text.is_empty() { video } else { video.text(text) };
    let mut options = flags.options().audio_in_video(audio_in_video);
    options.video.frames_per_second = fps;
    options.video.max_frames = max_frames;
    options.video.min_frames = options.video.min_frames.min(max_frames);
    // Nano learnt from pictures of 96 × 96 pixels.
    let usual = if flags.model.is_none() { 4096 } else { options.video.bounds.min };
    options.video.bounds.min = min_pixels.unwrap_or(usual);
    let omni = flags.load()?;
    answer(&omni, &[question], &options, &flags.out)?;
    Ok(())
}

fn main() -> ExitCode {
    exit(run(Arguments::parse()))
}
