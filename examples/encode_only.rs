//! The encoders alone, without the language model: a recording or a picture to rows.
//!
//! ```sh
//! cargo run --release --example encode_only -- song.flac
//! cargo run --release --example encode_only -- --image photo.jpg
//! ```
#![allow(clippy::print_stdout)] // An example owns the terminal.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use burn::tensor::{Tensor, TensorData};
use clap::Parser;
use qwen3_omni::aut_encoder::AutEncoder;
use qwen3_omni::checkpoint::Checkpoint;
use qwen3_omni::media::{MediaError, audio, image};
use qwen3_omni::vision_encoder::{PixelPatches, VisionEncoder};
use qwen3_omni::{Dtype, Encoded, ModalityEncoder, Result};
use qwen3_omni_examples::{Flags, exit, sample};

/// Encode a recording or a picture
#[derive(Parser)]
struct Arguments {
    /// The recording; a spoken question if none is given
    file: Option<PathBuf>,
    /// The file is a picture
    #[arg(long)]
    image: bool,
    /// Attention window of the audio encoder, 1 to 8 seconds
    #[arg(long, default_value_t = 8)]
    window: usize,
    #[command(flatten)]
    flags: Flags,
}

fn hear(file: &Path, window: usize, flags: &Flags) -> Result<Encoded> {
    let place = flags.device.place(Dtype::F32)?;
    let encoder =
        AutEncoder::from_checkpoint(&Checkpoint::open(flags.directory())?, &place, Dtype::F32)?.with_window(window)?;
    let named = |error: MediaError| error.in_part("the recording");
    let mel = audio::log_mel(&[file.into()]).map_err(|error| named(error.into()))?.remove(0);
    let shape = [mel.frames(), mel.bins()];
    encoder.encode(vec![Tensor::from_data(TensorData::new(mel.into_values(), shape), place.device())])
}

fn see(file: &Path, flags: &Flags) -> Result<Encoded> {
    let place = flags.device.place(Dtype::F32)?;
    let encoder = VisionEncoder::from_checkpoint(&Checkpoint::open(flags.directory())?, &place, Dtype::F32)?;
    let picture = image::patches(&file.into(), &Default::default()).map_err(|error| error.in_part("the picture"))?;
    let (grid, shape) = (picture.grid(), [picture.patches(), picture.patch_len()]);
    let patches = Tensor::from_data(TensorData::new(picture.to_values(), shape), place.device());
    encoder.encode(vec![PixelPatches { patches, grid, seconds_per_step: 0.0 }])
}

fn run(Arguments { file, image, window, flags }: &Arguments) -> Result<()> {
    let usual = if *image { "picture_one.png" } else { "spoken_sum_question.wav" };
    let file = file.clone().unwrap_or_else(|| sample(usual));
    let started = Instant::now();
    let encoded = if *image { see(&file, flags) } else { hear(&file, *window, flags) }?;
    let mean = encoded.embeds.clone().abs().mean().into_scalar::<f32>();
    let [rows, width] = encoded.embeds.dims();
    println!("{}: {rows} rows of {width} as {:?}", file.display(), encoded.spans[0]);
    println!("mean magnitude {mean:.3}, {} deepstack features", encoded.deepstack.len());
    println!("loaded, decoded and encoded in {:.2} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn main() -> ExitCode {
    exit(run(&Arguments::parse()))
}
