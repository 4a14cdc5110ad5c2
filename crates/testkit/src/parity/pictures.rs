//! Images and video frames to patches, through the media path.

use media::image::{ImageInput, ImageOptions, PatchSpec, Patches, PixelBounds, Pixels, patches, resize, target_size};
use media::video::{VideoInput, VideoOptions, clip, sample_indices};
use omni_core::{Error, Result};
use serde::Deserialize;
use vision_encoder::VisionConfig;

use super::case::Case;
use super::model::Model;

fn patch_spec(model: &Model) -> Result<PatchSpec> {
    let vision: VisionConfig = model.section()?;
    Ok(PatchSpec { side: vision.patch_size, frames: vision.temporal_patch_size, merge: vision.spatial_merge_size })
}

fn options(model: &Model) -> Result<ImageOptions> {
    Ok(ImageOptions::default().patch(patch_spec(model)?))
}

fn bytes(case: &mut Case, name: &str) -> Result<Vec<u8>> {
    Ok(case.ints(name)?.iter().map(|value| *value as u8).collect())
}

/// Compares the patches of the image file beside the case (`image_pre_X` → `X.png`), through the whole media path.
pub(super) fn image(model: &Model, case: &mut Case) -> Result<()> {
    let file = case.name().trim_start_matches("image_pre_").to_owned();
    let input = ImageInput::from(model.golden.join(file).with_extension("png"));
    let named = |error: media::MediaError| error.in_part(case.name());
    let pixels = input.pixels().map_err(named)?.into_owned();
    let cut = patches(&input, &options(model)?).map_err(named)?;
    if case.has("image_u8") {
        let decoded: Vec<i64> = pixels.rgb().iter().map(|value| i64::from(*value)).collect();
        case.compare_ints("image_u8", &decoded, &[pixels.height(), pixels.width(), 3]);
    }
    let [_, h, w] = cut.grid();
    let side = patch_spec(model)?.side;
    let resized = resize(&pixels, w * side, h * side);
    let by_colour: Vec<i64> =
        (0..3).flat_map(|c| resized.rgb().iter().skip(c).step_by(3).map(|value| i64::from(*value))).collect();
    case.compare_ints("resized_u8", &by_colour, &[3, h * side, w * side]);
    compare_patches(case, &cut, ["pixel_values", "image_grid_thw"]);
    Ok(())
}

/// Compares patches and their grid exactly.
pub(super) fn compare_patches(case: &mut Case, cut: &Patches, [values, grid]: [&str; 2]) {
    case.compare_values(values, &cut.to_values(), &[cut.patches(), cut.patch_len()], 0.0);
    case.compare_ints(grid, &cut.grid().map(|n| n as i64), &[1, 3]);
}

/// Compares target sizes for the pixel bounds of images and of video frames.
pub(super) fn sizes(model: &Model, case: &mut Case) -> Result<()> {
    let sizes = case.ints("input_hw")?;
    let factor = patch_spec(model)?.factor();
    for (name, bounds) in [("image_hw", ImageOptions::default().bounds), ("video_hw", VideoOptions::default().bounds)] {
        let mut found = Vec::new();
        for size in sizes.chunks(2) {
            let size = [size[0] as usize, size[1] as usize];
            found.extend(target_size(size, factor, bounds).map_err(|error| error.in_part(case.name()))?);
        }
        let found: Vec<i64> = found.iter().map(|n| *n as i64).collect();
        case.compare_ints(name, &found, &[found.len() / 2, 2]);
    }
    Ok(())
}

/// The pixel bounds that a video case was made with: those of the settings, or the processor's defaults.
pub(super) fn video_options(model: &Model, bounds: Option<[usize; 2]>) -> Result<VideoOptions> {
    let usual = VideoOptions::default().patch(patch_spec(model)?);
    Ok(match bounds {
        Some([min, max]) => usual.bounds(PixelBounds { min, max }),
        None => usual,
    })
}

/// Reads frames that are already sampled.
pub(super) fn frames(case: &mut Case, fps: f64) -> Result<VideoInput> {
    let [count, height, width, _] = case.dims("frames_u8")?;
    let values = bytes(case, "frames_u8")?;
    let frame = |values: &[u8]| Pixels::new(width, height, values.to_vec()).map_err(|e| e.in_part(case.name()));
    let frames: Result<Vec<_>> = values.chunks(values.len() / count.max(1)).map(frame).collect();
    Ok(VideoInput::frames(frames?, fps))
}

/// Compares the patches of sampled frames.
pub(super) fn video(model: &Model, case: &mut Case) -> Result<()> {
    // Only the case with the processor's own bounds stores single rows.
    let bounds = (!case.has("rows")).then_some([4096, 786_432]);
    let input = frames(case, 1.0)?;
    let clip = clip(&input, &video_options(model, bounds)?).map_err(|error| error.in_part(case.name()))?;
    let cut = clip.patches();
    if case.has("rows") {
        let (width, all) = (cut.patch_len(), cut.to_values());
        let rows = case.ints("rows")?;
        let values: Vec<f32> =
            rows.iter().flat_map(|row| all[*row as usize * width..][..width].iter().copied()).collect();
        case.compare_values("pixel_values_rows", &values, &[rows.len(), width], 0.0);
    }
    compare_patches(case, cut, ["pixel_values_videos", "video_grid_thw"]);
    Ok(())
}

#[derive(Deserialize)]
struct Sampling {
    total_frames: usize,
    source_fps: f64,
    fps: f64,
    indices: Vec<usize>,
}

/// Compares which frames are sampled.
pub(super) fn sampling(_: &Model, case: &mut Case) -> Result<()> {
    let bad = |error: serde_json::Error| Error::Request(format!("golden case `{}`: {error}", case.name()));
    let cases: Vec<Sampling> = serde_json::from_value(case.json().clone()).map_err(bad)?;
    for Sampling { total_frames, source_fps, fps, indices } in cases {
        let options = VideoOptions::default().frames_per_second(fps);
        let found = sample_indices(total_frames, source_fps, &options);
        let name = format!("{total_frames} frames at {source_fps}, {fps} wanted");
        case.compare_text(&name, &format!("{found:?}"), &format!("{indices:?}"));
    }
    Ok(())
}
