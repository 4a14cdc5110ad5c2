use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use checkpoint::{VisionConfig, Weights};
use omni_core::Result;

use crate::grid::patch_places;

/// The learned square table of positions, resampled to each grid.
#[derive(Module, Debug)]
pub(crate) struct PosEmbed {
    /// `[side * side, D]`.
    weight: Param<Tensor<2>>,
    side: usize,
}

impl PosEmbed {
    pub(crate) fn load(weights: &Weights, config: &VisionConfig) -> Result<Self> {
        let table = [config.num_position_embeddings, config.hidden_size];
        let weight = Param::from_tensor(weights.tensor("weight", table)?);
        Ok(Self { weight, side: config.num_position_embeddings.isqrt() })
    }

    /// Bilinear, with aligned corners; the same for every frame.
    ///
    /// # Shapes
    /// Returns `[height * width, D]` in merge-block order.
    pub(crate) fn forward(&self, [height, width]: [usize; 2], merge: usize) -> Tensor<2> {
        let places = patch_places(height, width, merge);
        let rows: Vec<_> = (0..height).map(|i| self.between(i, height)).collect();
        let columns: Vec<_> = (0..width).map(|i| self.between(i, width)).collect();
        let mut sum: Option<Tensor<2>> = None;
        for corner in 0..4 {
            let (mut indices, mut weights) = (Vec::new(), Vec::new());
            for [row, column] in &places {
                let ((y, dy), (x, dx)) = (rows[*row][corner / 2], columns[*column][corner % 2]);
                indices.push((y * self.side + x) as i64);
                weights.push(dy * dx);
            }
            let term = self.weighted(indices, weights);
            sum = Some(match sum {
                Some(sum) => sum + term,
                None => term,
            });
        }
        sum.expect("four corners")
    }

    /// The two table rows a place lies between, with their weights.
    fn between(&self, index: usize, count: usize) -> [(usize, f32); 2] {
        let last = self.side - 1;
        // As the reference spaces them: in f32.
        let step = last as f32 / count.saturating_sub(1).max(1) as f32;
        let at = if index + 1 == count && count > 1 { last as f32 } else { index as f32 * step };
        let low = (at as usize).min(last);
        let past = at - low as f32;
        [(low, 1.0 - past), ((low + 1).min(last), past)]
    }

    fn weighted(&self, indices: Vec<i64>, weights: Vec<f32>) -> Tensor<2> {
        let (device, dtype, count) = (self.weight.device(), self.weight.dtype(), indices.len());
        let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [count]), &device);
        let weights = Tensor::from_data(TensorData::new(weights, [count, 1]), (&device, dtype));
        self.weight.val().select(0, indices) * weights
    }
}
