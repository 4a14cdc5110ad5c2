use burn::tensor::{Tensor, TensorData};
use media::image::{ImageInput, ImageOptions, PatchSpec, Patches, PixelBounds, Pixels, patches, resize, target_size};
use media::video::{VideoInput, VideoOptions, clip, sample_indices};
use omni_core::{Error, Result};
use qwen3_omni::Component;
use serde::Deserialize;
use vision_encoder::{PixelPatches, VisionEncoder, VisionProbe};

use super::Model;
use super::audio::cumulated;
use super::case::{Case, NEAR, STATES};

fn patch_spec(model: &Model) -> PatchSpec {
    let vision = &model.config().vision;
    PatchSpec { side: vision.patch_size, frames: vision.temporal_patch_size, merge: vision.spatial_merge_size }
}

fn options(model: &Model) -> ImageOptions {
    ImageOptions { patch: patch_spec(model), ..ImageOptions::default() }
}

fn bytes(case: &mut Case, name: &str) -> Result<Vec<u8>> {
    Ok(case.ints(name)?.iter().map(|value| *value as u8).collect())
}

/// From the picture file beside the case (`image_pre_X` → `X.png`) to patches, through the whole media path.
pub(super) fn image(model: &Model, case: &mut Case) -> Result<()> {
    let file = case.name().trim_start_matches("image_pre_").to_owned();
    let input = ImageInput::from(model.golden.join(file).with_extension("png"));
    let named = |error: media::MediaError| error.in_part(case.name());
    let pixels = input.pixels().map_err(named)?.into_owned();
    let cut = patches(&input, &options(model)).map_err(named)?;
    if case.has("image_u8") {
        let decoded: Vec<i64> = pixels.rgb().iter().map(|value| i64::from(*value)).collect();
        case.compare_ints("image_u8", &decoded, &[pixels.height(), pixels.width(), 3]);
    }
    let [_, h, w] = cut.grid();
    let side = patch_spec(model).side;
    let resized = resize(&pixels, w * side, h * side);
    let by_colour: Vec<i64> =
        (0..3).flat_map(|c| resized.rgb().iter().skip(c).step_by(3).map(|value| i64::from(*value))).collect();
    case.compare_ints("resized_u8", &by_colour, &[3, h * side, w * side]);
    compare_patches(case, &cut, ["pixel_values", "image_grid_thw"]);
    Ok(())
}

/// Patches and their grid, exactly.
pub(super) fn compare_patches(case: &mut Case, cut: &Patches, [values, grid]: [&str; 2]) {
    case.compare_values(values, cut.values(), &[cut.patches(), cut.values().len() / cut.patches()], 0.0);
    case.compare_ints(grid, &cut.grid().map(|n| n as i64), &[1, 3]);
}

/// Target sizes for the bounds of pictures and of video frames.
pub(super) fn sizes(model: &Model, case: &mut Case) -> Result<()> {
    let sizes = case.ints("input_hw")?;
    let factor = patch_spec(model).factor();
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

/// The bounds a video case was made with: those of the settings, or the processor's defaults.
pub(super) fn video_options(model: &Model, bounds: Option<[usize; 2]>) -> VideoOptions {
    let usual = VideoOptions { patch: patch_spec(model), ..VideoOptions::default() };
    match bounds {
        Some([min, max]) => VideoOptions { bounds: PixelBounds { min, max }, ..usual },
        None => usual,
    }
}

/// Frames that are already chosen.
pub(super) fn frames(case: &mut Case, fps: f64) -> Result<VideoInput> {
    let [count, height, width, _] = case.dims("frames_u8")?;
    let values = bytes(case, "frames_u8")?;
    let frame = |values: &[u8]| Pixels::new(width, height, values.to_vec()).map_err(|e| e.in_part(case.name()));
    let frames: Result<Vec<_>> = values.chunks(values.len() / count.max(1)).map(frame).collect();
    Ok(VideoInput::frames(frames?, fps))
}

/// Chosen frames to patches.
pub(super) fn video(model: &Model, case: &mut Case) -> Result<()> {
    // Only the case with the processor's own bounds stores single rows.
    let bounds = (!case.has("rows")).then_some([4096, 786_432]);
    let input = frames(case, 1.0)?;
    let clip = clip(&input, &video_options(model, bounds)).map_err(|error| error.in_part(case.name()))?;
    let cut = clip.patches();
    if case.has("rows") {
        let width = cut.values().len() / cut.patches();
        let rows = case.ints("rows")?;
        let values: Vec<f32> =
            rows.iter().flat_map(|row| cut.values()[*row as usize * width..][..width].iter().copied()).collect();
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

/// Which frames are taken.
pub(super) fn sampling(_: &Model, case: &mut Case) -> Result<()> {
    let bad = |error: serde_json::Error| Error::Request(format!("golden case `{}`: {error}", case.name()));
    let cases: Vec<Sampling> = serde_json::from_value(case.json().clone()).map_err(bad)?;
    for Sampling { total_frames, source_fps, fps, indices } in cases {
        let options = VideoOptions { frames_per_second: fps, ..VideoOptions::default() };
        let found = sample_indices(total_frames, source_fps, &options);
        let name = format!("{total_frames} frames at {source_fps}, {fps} wanted");
        case.compare_text(&name, &format!("{found:?}"), &format!("{indices:?}"));
    }
    Ok(())
}

/// Items of a golden case for the encoder.
pub(super) fn items(model: &Model, case: &mut Case, [values, grids]: [&str; 2]) -> Result<Vec<PixelPatches>> {
    let [_, width] = case.dims(values)?;
    let all = case.floats(values)?;
    let mut start = 0;
    let grids = case.ints(grids)?;
    let items = grids.chunks(3).map(|grid| {
        let grid = [grid[0] as usize, grid[1] as usize, grid[2] as usize];
        let rows = grid.iter().product::<usize>();
        let some = all[start * width..(start + rows) * width].to_vec();
        start += rows;
        PixelPatches {
            patches: Tensor::from_data(TensorData::new(some, [rows, width]), &model.device),
            grid,
            seconds_per_step: 0.0,
        }
    });
    Ok(items.collect())
}

pub(super) fn load(model: &Model) -> Result<VisionEncoder> {
    VisionEncoder::load(&model.checked(Component::VisionEncoder)?, &model.config().vision)
}

/// The encoder, block by block.
pub(super) fn encoder(model: &Model, case: &mut Case) -> Result<()> {
    let encoder = load(model)?;
    let items = items(model, case, ["pixel_values", "grid_thw"])?;
    let mut recorder = VisionRecorder::default();
    let encoded = encoder.encode_with(&items, &mut recorder)?;
    recorder.compare(case);
    case.compare("merged", encoded.embeds, STATES);
    for (index, feature) in encoded.deepstack.into_iter().enumerate() {
        case.compare(&format!("deepstack_{index}"), feature, STATES);
    }
    Ok(())
}

/// Records what the encoder shows; batches are joined.
#[derive(Default)]
struct VisionRecorder {
    patches: Vec<Tensor<2>>,
    positions: Vec<Tensor<2>>,
    frames: Vec<usize>,
    cos: Vec<Tensor<3>>,
    sin: Vec<Tensor<3>>,
    blocks: Vec<Vec<Tensor<2>>>,
}

impl VisionProbe for VisionRecorder {
    fn embedded(&mut self, patches: &Tensor<2>, positions: &Tensor<2>, frames: &[usize]) {
        self.patches.push(patches.clone());
        self.positions.push(positions.clone());
        self.frames.extend_from_slice(frames);
    }

    fn rotary(&mut self, cos: &Tensor<3>, sin: &Tensor<3>) {
        self.cos.push(cos.clone());
        self.sin.push(sin.clone());
    }

    fn block(&mut self, index: usize, x: &Tensor<2>) {
        self.blocks.resize(self.blocks.len().max(index + 1), Vec::new());
        self.blocks[index].push(x.clone());
    }
}

impl VisionRecorder {
    fn compare(self, case: &mut Case) {
        let (patches, positions) = (Tensor::cat(self.patches, 0), Tensor::cat(self.positions, 0));
        case.compare("patch_embed", patches.clone(), STATES);
        case.compare("pos_embed_interpolated", positions.clone(), NEAR);
        case.compare("block_input", patches + positions, STATES);
        case.compare("rope_cos", Tensor::cat(self.cos, 0), NEAR);
        case.compare("rope_sin", Tensor::cat(self.sin, 0), NEAR);
        let bounds = cumulated(&self.frames);
        case.compare_ints("cu_seqlens", &bounds, &[bounds.len()]);
        for (index, batches) in self.blocks.into_iter().enumerate() {
            case.compare(&format!("block_{index}"), Tensor::cat(batches, 0), STATES);
        }
    }
}
