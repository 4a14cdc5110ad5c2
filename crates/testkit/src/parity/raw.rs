//! What comes before the encoders in a case of the whole pipeline: raw sound and pictures, and the prompt's text. Without
//! `parity-media` the encoders' inputs, and without `parity-omni` the prompt's ids, are taken as they are stored.

#[cfg(feature = "parity-media")]
use media::video::clip;
#[cfg(feature = "parity-omni")]
use omni_core::Error;
use omni_core::Result;
#[cfg(feature = "parity-omni")]
use qwen3_omni::Tokenizer;
use serde_json::Value;
use tm_rope::MediaLayout;

use super::case::Case;
#[cfg(not(feature = "parity-omni"))]
use super::golden;
use super::model::Model;
#[cfg(feature = "parity-media")]
use super::{audio, pictures};

/// Compares what the media path makes of the case's raw media with the encoders' inputs.
#[cfg(feature = "parity-media")]
pub(super) fn compare_features(model: &Model, case: &mut Case, settings: &Value) -> Result<()> {
    let named = |error: media::MediaError| error.in_part("the golden case");
    if case.has("waveform") {
        let waveform = case.floats("waveform")?;
        audio::compare_mel(case, vec![waveform])?;
    }
    if case.has("frames_u8") {
        let bounds = serde_json::from_value(settings["video_pixel_bounds"].clone()).unwrap_or(None);
        let fps = f64::from(case.floats("fps")?[0]);
        let input = pictures::frames(case, fps)?;
        let clip = clip(&input, &pictures::video_options(model, bounds)?).map_err(named)?;
        pictures::compare_patches(case, clip.patches(), ["pixel_values_videos", "video_grid_thw"]);
        case.compare_values("video_second_per_grid", &[clip.seconds_per_step()], &[1], 0.0);
    }
    if case.has("pixel_values") {
        pictures::image(model, case)?;
    }
    Ok(())
}

/// Leaves raw media alone.
#[cfg(not(feature = "parity-media"))]
pub(super) fn compare_features(_: &Model, case: &mut Case, _: &Value) -> Result<()> {
    case.leave(&["waveform", "image_u8", "resized_u8", "frames_u8", "fps", "video_second_per_grid"]);
    Ok(())
}

/// Makes the prompt's ids from the text of the settings, with placeholders expanded, and compares them with those stored.
#[cfg(feature = "parity-omni")]
pub(super) fn prompt(
    model: &Model,
    case: &mut Case,
    settings: &Value,
    (layout, audio_end): (&MediaLayout, Option<u32>),
) -> Result<Vec<u32>> {
    let text = settings["prompt_text"].as_str();
    let text = text.ok_or_else(|| Error::Request(format!("the settings of `{}` have no prompt_text", case.name())))?;
    let short = Tokenizer::from_directory(&model.directory)?.encode(text)?;
    let ids = layout.expand(&short, audio_end.unwrap_or_default())?;
    let values: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    case.compare_ints("input_ids", &values, &[1, values.len()]);
    case.compare_ints("attention_mask", &vec![1; values.len()], &[1, values.len()]);
    Ok(ids)
}

/// Takes the stored ids of the prompt.
#[cfg(not(feature = "parity-omni"))]
pub(super) fn prompt(
    model: &Model,
    case: &mut Case,
    settings: &Value,
    _: (&MediaLayout, Option<u32>),
) -> Result<Vec<u32>> {
    case.leave(&["attention_mask"]);
    let ids = match case.has("input_ids") {
        true => case.ints("input_ids")?,
        false => golden::ints_of_same(&model.golden, settings, "prompt_text", "input_ids")?,
    };
    Ok(ids.into_iter().map(|id| id as u32).collect())
}
