//! The decoder that a run begins with, and its file.

use std::collections::BTreeMap;
use std::path::Path;

use aut_encoder::{AudioConfig, AutDecoder, AutDecoderConfig, DECODER_FILE};
use burn::tensor::{Device, Tensor, TensorData};
use checkpoint::{Checkpoint, MOST_TENSORS, record};
use moe_thinker::ThinkerConfig;
use omni_core::Place;

use super::super::adapters::check_matched;
use super::settings::AutSettings;
use crate::model::AutModel;
use crate::random::normal;
use crate::trainer::write_shaped;
use crate::{Error, ParamNames, Patterns, Result};

/// The tensors of the decoder's file: their shapes, and the values of those that are not trained.
#[derive(Debug)]
pub(super) struct DecoderFile {
    shapes: BTreeMap<String, Vec<usize>>,
    frozen: BTreeMap<String, Vec<f32>>,
}

/// Loads the encoder of a checkpoint and the decoder beside it, or draws one. `device` is one without gradients.
pub(super) fn starting_model(
    checkpoint: &Checkpoint,
    settings: &AutSettings,
    trained: &Patterns,
    device: &Device,
) -> Result<(AutModel, ParamNames, DecoderFile)> {
    let audio: AudioConfig = checkpoint.config().section()?;
    let vocab_size = checkpoint.config().section::<ThinkerConfig>()?.text.vocab_size;
    let found = found_layers(checkpoint, vocab_size, settings)?;
    let layers = found.or(settings.layers).unwrap_or((audio.encoder_layers / 4).max(2));
    let config = AutDecoderConfig { vocab_size, layers };
    let expected = record(device, MOST_TENSORS, |weights| AutDecoder::load(weights, &config, &audio))?;
    let shapes: BTreeMap<_, _> = expected.into_iter().map(|(name, expected)| (name, expected.shape)).collect();
    let encoder = checkpoint.tensors().keys().filter(|name| name.starts_with("thinker.audio_tower."));
    check_matched(encoder.chain(shapes.keys()), trained)?;
    let names = ParamNames::new(checkpoint.tensors().keys().chain(shapes.keys()).cloned());
    let on = device.clone().autodiff();
    let dtype = settings.run.dtype.into();
    let model = if found.is_some() {
        let decoder = AutDecoder::from_checkpoint(checkpoint, vocab_size, &Place::Device(on.clone()), dtype)?;
        AutModel::with_decoder(checkpoint, decoder, (&on, dtype))?
    } else {
        let model = AutModel::from_checkpoint(checkpoint, &config, (&on, dtype))?;
        names.with_values(model, drawn(&shapes, settings.run.seed, device))?
    };
    Ok((model, names, DecoderFile { shapes, frozen: BTreeMap::new() }))
}

/// The layers of the decoder beside a checkpoint, if there is one.
fn found_layers(checkpoint: &Checkpoint, vocab_size: usize, settings: &AutSettings) -> Result<Option<usize>> {
    let path = checkpoint.directory().join(DECODER_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let AutDecoderConfig { layers, .. } = AutDecoderConfig::of_file(&checkpoint.companion(DECODER_FILE)?, vocab_size)?;
    match settings.layers.filter(|asked| *asked != layers) {
        None => Ok(Some(layers)),
        Some(asked) => {
            let path = path.display();
            let reason =
                format!("{asked}, but {path} has {layers}: expected as many, or no such file to draw a new decoder");
            Err(Error::Option { name: "layers", reason })
        }
    }
}

/// Starting values that a seed decides: norms that change nothing, no biases, matrices with PyTorch's variance of linear layers,
/// `1 / (3 in)`, and an embedding of variance `1 / D`, whose products with normed states are of size 1.
fn drawn(shapes: &BTreeMap<String, Vec<usize>>, seed: u64, device: &Device) -> BTreeMap<String, Tensor<1>> {
    let values = shapes.iter().map(|(name, shape)| {
        let count = shape.iter().product();
        let values = match shape[..] {
            [_, width] if name.ends_with("embed_tokens.weight") => normal(seed, name, count, (width as f64).powf(-0.5)),
            [_, input] => normal(seed, name, count, (3.0 * input as f64).powf(-0.5)),
            _ if name.ends_with(".weight") => vec![1.0; count],
            _ => vec![0.0; count],
        };
        (name.clone(), Tensor::from_data(TensorData::new(values, [count]), device))
    });
    values.collect()
}

impl DecoderFile {
    /// Notes the values that the patterns leave as they are.
    pub(super) fn freeze(&mut self, model: &AutModel, names: &ParamNames, trained: &Patterns) {
        let frozen = self.shapes.keys().any(|name| !trained.matches(name));
        let values = if frozen { names.values(model) } else { BTreeMap::new() };
        let kept = values.into_iter().filter(|(name, _)| self.shapes.contains_key(name) && !trained.matches(name));
        self.frozen = kept.map(|(name, values)| (name, nn::to_f32_vec(&values))).collect();
    }

    /// Writes the file into a checkpoint.
    pub(super) fn write(&self, folder: &Path, trained: &BTreeMap<String, Vec<f32>>) -> Result<()> {
        let shaped = self.shapes.iter().filter_map(|(name, shape)| {
            let values = trained.get(name).or_else(|| self.frozen.get(name))?;
            Some((name.clone(), (shape.as_slice(), values.as_slice())))
        });
        write_shaped(&folder.join(DECODER_FILE), &shaped.collect())
    }
}
