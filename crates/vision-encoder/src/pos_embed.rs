use burn::module::Module;
use checkpoint::Weights;
use nn::{Embedding, WeightedRow};
use omni_core::Result;

use crate::config::VisionConfig;
use crate::grid::patch_places;

/// The learned square table of positions, resampled to each grid.
#[derive(Module, Debug)]
pub(crate) struct PosEmbed {
    /// `[side * side, D]`.
    pub(crate) table: Embedding,
    side: usize,
}

impl PosEmbed {
    pub(crate) fn load(weights: &Weights, config: &VisionConfig) -> Result<Self> {
        let table = [config.num_position_embeddings, config.hidden_size];
        Ok(Self { table: Embedding::load(weights, table)?, side: config.num_position_embeddings.isqrt() })
    }

    /// The four table rows around each grid cell, with their weights: bilinear, with aligned corners, in merge-block order.
    pub(crate) fn corners(&self, [height, width]: [usize; 2], merge: usize) -> Vec<[WeightedRow; 4]> {
        let rows: Vec<_> = (0..height).map(|i| self.between(i, height)).collect();
        let columns: Vec<_> = (0..width).map(|i| self.between(i, width)).collect();
        let of_place = |[row, column]: [usize; 2]| {
            std::array::from_fn(|corner| {
                let ((y, dy), (x, dx)) = (rows[row][corner / 2], columns[column][corner % 2]);
                (y * self.side + x, dy * dx)
            })
        };
        patch_places(height, width, merge).into_iter().map(of_place).collect()
    }

    /// The two table indices around grid index `index` of `count`, with their weights.
    fn between(&self, index: usize, count: usize) -> [(usize, f32); 2] {
        let last = self.side - 1;
        // The spacing is computed in f32, as in the reference.
        let step = last as f32 / count.saturating_sub(1).max(1) as f32;
        let at = if index + 1 == count && count > 1 { last as f32 } else { index as f32 * step };
        let low = (at as usize).min(last);
        let past = at - low as f32;
        [(low, 1.0 - past), ((low + 1).min(last), past)]
    }
}
