use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use media::audio::{AudioInput, SAMPLE_RATE, log_mel};
use media::image::{ImageInput, ImageOptions, PatchSpec, Pixels, patches};
use omni_core::{Dtype, Error, Result};
use qwen3_omni::{ChatTemplate, Device, TemplateOptions, Tokenizer};
use serde_json::json;
use testkit::parity::{golden_pictures, golden_prompts, golden_sounds};
use vision_encoder::PixelPatches;

use super::side::Side;
use crate::verify;

/// Inputs for both checkpoints. Whatever is left empty is filled in: short questions, a synthetic sound and a synthetic picture.
#[derive(Debug, Clone, Default)]
pub struct Prompts {
    /// Questions, each a conversation of its own.
    pub texts: Vec<String>,
    /// Sound files, for the audio encoder.
    pub sounds: Vec<PathBuf>,
    /// Pictures, for the vision encoder.
    pub pictures: Vec<PathBuf>,
    /// A directory of golden cases that stand for all of the above.
    pub golden: Option<PathBuf>,
}

impl Prompts {
    /// Reads a text file with one question per line.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Request`] if it has no line.
    pub fn from_file(path: &Path) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
        let lines: Vec<String> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        if lines.is_empty() {
            return Err(Error::Request(format!(
                "{}: no question in this file, expected one on each line",
                path.display()
            )));
        }
        Ok(lines)
    }

    /// Reads all inputs as a comparison with the checkpoint `reference` does, and drops them.
    ///
    /// # Errors
    /// Whatever would end that comparison before the first model is loaded.
    pub fn check(&self, reference: &Path) -> Result<()> {
        let side = Side::open(reference, &Device::Cpu, Dtype::F32)?;
        Inputs::read(self, &side, &Device::Cpu).map(drop)
    }
}

/// The inputs, ready for the model.
pub(super) struct Inputs {
    /// Ids of whole prompts.
    pub(super) prompts: Vec<Vec<u32>>,
    /// Log-mel frames `[T, M]` of each call of the audio encoder.
    pub(super) sounds: Vec<Vec<Tensor<2>>>,
    /// Pictures of each call of the vision encoder.
    pub(super) pictures: Vec<Vec<PixelPatches>>,
}

const QUESTIONS: [&str; 3] =
    ["What is seven plus five?", "Repeat: red cat nine blue dog.", "Name a colour, a number and an animal."];

impl Inputs {
    pub(super) fn read(prompts: &Prompts, reference: &Side, device: &Device) -> Result<Self> {
        let directory = reference.checkpoint.directory();
        if let Some(golden) = &prompts.golden {
            let cases = verify::Options { device: device.clone(), ..verify::Options::new(directory, golden) }.open()?;
            let (prompts, sounds, pictures) =
                (golden_prompts(&cases)?, golden_sounds(&cases)?, golden_pictures(&cases)?);
            let counts = [("thinker_", prompts.len()), ("audio_encoder_", sounds.len()), ("vision_", pictures.len())];
            if let Some((kind, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
                let path = cases.golden.display();
                let reason =
                    format!("{path}: no case of the kind `{kind}` in this golden directory has inputs to compare");
                return Err(Error::Request(reason));
            }
            return Ok(Self { prompts, sounds, pictures });
        }
        Ok(Self {
            prompts: ids(&prompts.texts, directory)?,
            sounds: sounds(&prompts.sounds, reference.place.device())?,
            pictures: pictures(&prompts.pictures, reference)?,
        })
    }
}

/// Each question as the only message of a conversation.
fn ids(texts: &[String], directory: &Path) -> Result<Vec<Vec<u32>>> {
    let (template, tokenizer) = (ChatTemplate::from_directory(directory)?, Tokenizer::from_directory(directory)?);
    let options = TemplateOptions::default().add_generation_prompt(true);
    let usual = QUESTIONS.map(str::to_owned);
    let texts = if texts.is_empty() { &usual } else { texts };
    let prompt = |text: &String| {
        let message = json!([{"role": "user", "content": [{"type": "text", "text": text}]}]);
        tokenizer.encode(&template.render(&message, &options)?)
    };
    texts.iter().map(prompt).collect()
}

fn sounds(files: &[PathBuf], device: &burn::tensor::Device) -> Result<Vec<Vec<Tensor<2>>>> {
    let mut inputs: Vec<AudioInput> = files.iter().map(|file| AudioInput::from(file.clone())).collect();
    if inputs.is_empty() {
        inputs.push(AudioInput::samples(rising_tone(), SAMPLE_RATE, 1));
    }
    let named = |error: media::audio::ItemError| error.source.in_part(format!("sound {}", error.index + 1));
    let frames = log_mel(&inputs).map_err(named)?;
    let item = |mel: media::audio::Mel| {
        let shape = [mel.frames(), mel.bins()];
        vec![Tensor::from_data(TensorData::new(mel.into_values(), shape), device)]
    };
    Ok(frames.into_iter().map(item).collect())
}

/// Two seconds from 100 Hz upwards, in bursts.
fn rising_tone() -> Vec<f32> {
    let sample = |index: usize| {
        let seconds = index as f32 / SAMPLE_RATE as f32;
        let loudness = 0.25 * (1.0 + (2.0 * std::f32::consts::TAU * seconds).sin());
        loudness * (std::f32::consts::TAU * (100.0 + 700.0 * seconds) * seconds).sin()
    };
    (0..2 * SAMPLE_RATE as usize).map(sample).collect()
}

fn pictures(files: &[PathBuf], reference: &Side) -> Result<Vec<Vec<PixelPatches>>> {
    let mut inputs: Vec<ImageInput> = files.iter().map(|file| ImageInput::from(file.clone())).collect();
    if inputs.is_empty() {
        inputs.push(ImageInput::from(blots()?));
    }
    let vision = &reference.config().vision;
    let patch =
        PatchSpec { side: vision.patch_size, frames: vision.temporal_patch_size, merge: vision.spatial_merge_size };
    let options = ImageOptions::default().patch(patch);
    let picture = |(index, input): (usize, &ImageInput)| {
        let cut = patches(input, &options).map_err(|error| error.in_part(format!("picture {}", index + 1)))?;
        let (grid, shape) = (cut.grid(), [cut.patches(), cut.patch_len()]);
        let patches = Tensor::from_data(TensorData::new(cut.to_values(), shape), reference.place.device());
        Ok(vec![PixelPatches { patches, grid, seconds_per_step: 0.0 }])
    };
    inputs.iter().enumerate().map(picture).collect()
}

/// A picture of soft coloured blots.
fn blots() -> Result<Pixels> {
    let (width, height) = (224, 160);
    let value = |x: usize, y: usize, colour: usize| {
        let [x, y] = [x as f32 / 31.0, y as f32 / 23.0];
        (127.5 * (1.0 + (x + colour as f32).sin() * (y * (1.0 + colour as f32 / 2.0)).cos())) as u8
    };
    let rgb = (0..width * height).flat_map(|at| [0, 1, 2].map(|colour| value(at % width, at / width, colour)));
    Pixels::new(width, height, rgb.collect()).map_err(|error| error.in_part("the built-in picture"))
}
