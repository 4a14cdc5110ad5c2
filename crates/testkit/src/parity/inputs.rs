//! Inputs of golden cases, for comparing two checkpoints with each other instead of one with the reference's outputs.

use burn::tensor::Tensor;
use omni_core::Result;
use vision_encoder::PixelPatches;

use super::case::Case;
use super::golden::{Golden, cases};
use super::model::Model;
use super::options::Options;
use super::{audio, vision};

/// Token ids of every stored one-row prompt without media.
pub fn golden_prompts(options: &Options) -> Result<Vec<Vec<u32>>> {
    let media = ["input_features", "pixel_values", "pixel_values_videos"];
    let prompts = of_kind(options, "thinker_", |_, case| {
        let shape = case.shape("input_ids")?;
        if shape[0] != 1 || media.iter().any(|name| case.has(name)) {
            return Ok(None);
        }
        Ok(Some(case.ints("input_ids")?.into_iter().map(|id| id as u32).collect()))
    })?;
    Ok(prompts.into_iter().flatten().collect())
}

/// Log-mel frames of each stored call of the audio encoder.
pub fn golden_sounds(options: &Options) -> Result<Vec<Vec<Tensor<2>>>> {
    of_kind(options, "audio_encoder_", audio::items)
}

/// Patches of each stored call of the vision encoder.
pub fn golden_pictures(options: &Options) -> Result<Vec<Vec<PixelPatches>>> {
    of_kind(options, "vision_", |model, case| vision::items(model, case, ["pixel_values", "grid_thw"]))
}

fn of_kind<T>(options: &Options, prefix: &str, read: impl Fn(&Model, &mut Case) -> Result<T>) -> Result<Vec<T>> {
    let model = Model::open(options)?;
    let cases = cases(&options.golden)?.into_iter().filter(|(name, _)| name.starts_with(prefix));
    cases.map(|(name, path)| read(&model, &mut Case::new(&name, Golden::read(&path)?, model.limits.clone()))).collect()
}
