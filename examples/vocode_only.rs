//! The vocoder alone: codec frames from a JSON file to a WAV file, streamed.
//!
//! The file holds one list of codes per codebook: `{"codes": [[…], […], …]}`, or a list of such objects.
//!
//! ```sh
//! cargo run --release --example vocode_only -- codes.json --out speech.wav
//! ```
#![allow(clippy::print_stderr)] // An example owns the terminal.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use qwen3_omni::checkpoint::Weights;
use qwen3_omni::code2wav::{Code2Wav, SAMPLE_RATE, VocoderRun};
use qwen3_omni::{Component, Dtype, Error, OmniCheckpoint, Result, WavFile};
use qwen3_omni_examples::{Flags, exit, sample};
use serde_json::Value;

/// Turn codec frames into sound
#[derive(Parser)]
struct Arguments {
    /// The codes; the first stored answer of nano if none is given
    file: Option<PathBuf>,
    /// Frames per step; one frame is 80 ms
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    chunk: u32,
    #[command(flatten)]
    flags: Flags,
}

/// Reads `[F][Q]` codes from a file, checked against the vocoder's sizes.
fn read(file: &Path, [codebooks, codes]: [usize; 2]) -> Result<Vec<Vec<u32>>> {
    let bad = |reason: String| Error::Request(format!("{}: {reason}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|source| Error::io(file, source))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    let first = json.as_array().and_then(|list| list.first()).unwrap_or(&json);
    let books: Vec<Vec<u32>> = serde_json::from_value(first["codes"].clone())
        .map_err(|error| bad(format!("expected \"codes\": one list of numbers per codebook: {error}")))?;
    let frames = books.first().map_or(0, Vec::len);
    let whole = books.len() == codebooks && frames > 0 && books.iter().all(|book| book.len() == frames);
    if !whole || books.iter().flatten().any(|code| *code as usize >= codes) {
        return Err(bad(format!("expected {codebooks} lists of one length with codes from 0 to {}", codes - 1)));
    }
    Ok((0..frames).map(|frame| books.iter().map(|book| book[frame]).collect()).collect())
}

fn run(Arguments { file, chunk, flags }: &Arguments) -> Result<()> {
    let file = file.clone().unwrap_or_else(|| sample("conversations.json"));
    let checkpoint = OmniCheckpoint::open(flags.directory())?;
    checkpoint.check(&[Component::Code2Wav])?;
    let config = checkpoint.config().code2wav()?;
    let frames = read(&file, [config.num_quantizers, config.codebook_size])?;
    let place = flags.place()?;
    let vocoder = Code2Wav::load(&Weights::new(&checkpoint, &place, Dtype::F32), checkpoint.config().code2wav()?)?;
    let mut wav = WavFile::create(&flags.out, SAMPLE_RATE)?;
    let mut state = vocoder.start();
    for frames in frames.chunks(*chunk as usize) {
        let samples = vocoder.forward(vec![VocoderRun { state: &mut state, frames }]).remove(0)?;
        wav.write(&samples)?;
    }
    wav.finish()?;
    eprintln!("{} frames of {} into {}", frames.len(), file.display(), flags.out.display());
    Ok(())
}

fn main() -> ExitCode {
    exit(run(&Arguments::parse()))
}
