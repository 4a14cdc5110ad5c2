//! An encoder of your own: anything that implements `ModalityEncoder` can feed the thinker.
//!
//! This one sees the world in a mirror: it turns pictures round before the vision encoder reads them, so that what is on the
//! left is answered to be on the right.
//!
//! ```sh
//! cargo run --release --example custom_encoder
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use burn::tensor::{Device, Tensor, TensorData};
use clap::Parser;
use qwen3_omni::checkpoint::Checkpoint;
use qwen3_omni::media::image::{ImageInput, Pixels, patches};
use qwen3_omni::media::{MediaError, Result as MediaResult};
use qwen3_omni::vision_encoder::{PixelPatches, VisionEncoder};
use qwen3_omni::{Dtype, Encoded, Message, ModalityEncoder, Result};
use qwen3_omni_examples::{Flags, answer, exit, sample};

/// Ask about a picture as a mirror shows it
#[derive(Parser)]
struct Arguments {
    /// The picture; a red circle left of a blue square if none is given
    file: Option<PathBuf>,
    /// The question
    #[arg(long, default_value = "what do you see")]
    text: String,
    #[command(flatten)]
    flags: Flags,
}

struct MirrorEncoder {
    vision: VisionEncoder,
    device: Device,
}

fn mirrored(picture: &ImageInput) -> MediaResult<ImageInput> {
    let pixels = picture.pixels()?;
    let rows = pixels.rgb().chunks_exact(3 * pixels.width());
    let turned = rows.flat_map(|row| row.as_chunks::<3>().0.iter().rev().flatten().copied()).collect();
    Ok(Pixels::new(pixels.width(), pixels.height(), turned)?.into())
}

impl ModalityEncoder for MirrorEncoder {
    type Features = ImageInput;

    fn encode(&self, picture: ImageInput) -> Result<Encoded> {
        let named = |error: MediaError| error.in_part("the mirror");
        let picture = mirrored(&picture).and_then(|turned| patches(&turned, &Default::default())).map_err(named)?;
        let (grid, shape) = (picture.grid(), [picture.patches(), picture.patch_len()]);
        let patches = Tensor::from_data(TensorData::new(picture.to_values(), shape), &self.device);
        self.vision.encode(vec![PixelPatches { patches, grid, seconds_per_step: 0.0 }])
    }
}

fn run(Arguments { file, text, flags }: Arguments) -> Result<()> {
    let place = flags.place()?;
    let mirror = MirrorEncoder {
        vision: VisionEncoder::from_checkpoint(&Checkpoint::open(flags.directory())?, &place, Dtype::F32)?,
        device: place.device().clone(),
    };
    let seen = mirror.encode(file.unwrap_or_else(|| sample("picture_two.png")).into())?;
    let omni = flags.load()?;
    answer(&omni, &[Message::user().encoded(seen).text(text)], &flags.options(), &flags.out)?;
    Ok(())
}

fn main() -> ExitCode {
    exit(run(Arguments::parse()))
}
