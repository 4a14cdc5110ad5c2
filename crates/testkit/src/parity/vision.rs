use burn::tensor::{Tensor, TensorData};
use omni_core::Result;
use vision_encoder::{PixelPatches, VisionEncoder, VisionProbe};

use super::audio::cumulated;
use super::case::{Case, NEAR, STATES};
use super::model::Model;

/// Reads the encoder's inputs from a golden case.
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
    VisionEncoder::from_checkpoint(&model.checkpoint, &model.place, model.dtype)
}

/// Compares the vision encoder, block by block.
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

/// Records the encoder's intermediate results; batches are joined.
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
