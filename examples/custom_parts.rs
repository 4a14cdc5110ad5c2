//! Parts of your own in the whole model: a vocoder that hums, and encoders that report what they were given.
//!
//! ```sh
//! cargo run --release --example custom_parts
//! ```
#![allow(clippy::print_stderr)] // Examples own the terminal.

use std::f32::consts::TAU;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use qwen3_omni::aut_encoder::AutEncoder;
use qwen3_omni::checkpoint::Checkpoint;
use qwen3_omni::vision_encoder::VisionEncoder;
use qwen3_omni::{Dtype, Encoded, Message, ModalityEncoder, Result, Vocoder, VocoderStream};
use qwen3_omni_examples::{Flags, answer, exit, sample};

/// Ask about a recording or a picture, with an answer that is hummed
#[derive(Parser)]
struct Arguments {
    /// The recording; a spoken question if neither it nor a picture is given
    #[arg(long)]
    sound: Option<PathBuf>,
    /// The picture
    #[arg(long)]
    picture: Option<PathBuf>,
    /// The question
    #[arg(long)]
    text: Option<String>,
    #[command(flatten)]
    flags: Flags,
}

/// Wraps an encoder and reports what it encodes.
struct Told<E>(&'static str, E);

impl<E: ModalityEncoder> ModalityEncoder for Told<E> {
    type Features = E::Features;

    fn encode(&self, features: E::Features) -> Result<Encoded> {
        let encoded = self.1.encode(features)?;
        let [rows, width] = encoded.embeds.dims();
        eprintln!("{}: {} items became {rows} rows of {width} numbers", self.0, encoded.spans.len());
        Ok(encoded)
    }
}

const RATE: u32 = 16_000;
/// 80 ms.
const FRAME: usize = RATE as usize * 80 / 1000;

/// A voice without consonants: the first code of a frame is its pitch.
struct Hum;

struct Humming {
    /// Phase of the wave, in turns.
    phase: f32,
    pitch: f32,
}

impl Vocoder for Hum {
    fn sample_rate(&self) -> u32 {
        RATE
    }

    fn samples_per_frame(&self) -> usize {
        FRAME
    }

    fn start(&self) -> Box<dyn VocoderStream> {
        Box::new(Humming { phase: 0.0, pitch: 120.0 })
    }
}

impl VocoderStream for Humming {
    fn step(&mut self, frames: &[Vec<u32>]) -> Result<Vec<f32>> {
        let mut samples = Vec::with_capacity(frames.len() * FRAME);
        for codes in frames {
            let target = 100.0 + codes.first().map_or(0.0, |code| (code % 128) as f32);
            for _ in 0..FRAME {
                self.pitch += (target - self.pitch) / 400.0;
                self.phase = (self.phase + self.pitch / RATE as f32).fract();
                samples.push(0.4 * (TAU * self.phase).sin());
            }
        }
        Ok(samples)
    }
}

fn run(Arguments { sound, picture, text, flags }: Arguments) -> Result<()> {
    let checkpoint = Checkpoint::open(flags.directory())?;
    let place = flags.place()?;
    let audio = Told("audio encoder", AutEncoder::from_checkpoint(&checkpoint, &place, Dtype::F32)?);
    let vision = Told("vision encoder", VisionEncoder::from_checkpoint(&checkpoint, &place, Dtype::F32)?);
    let omni = flags.load_with(|builder| builder.audio_encoder(audio).vision_encoder(vision).vocoder(Hum))?;
    let sound = sound.or_else(|| picture.is_none().then(|| sample("spoken_sum_question.wav")));
    let mut question = Message::user();
    question = sound.into_iter().fold(question, Message::audio);
    question = picture.into_iter().fold(question, Message::image);
    question = text.into_iter().fold(question, Message::text);
    answer(&omni, &[question], &flags.options(), &flags.out)?;
    Ok(())
}

fn main() -> ExitCode {
    exit(run(Arguments::parse()))
}
