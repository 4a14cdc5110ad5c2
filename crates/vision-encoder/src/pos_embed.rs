use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use checkpoint::{VisionConfig, Weights};
use nn::with_numbers;
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
        let corners = self.corners([height, width], merge);
        let terms = (0..4).map(|corner| {
            let (indices, weights) = corners.iter().map(|of_place| of_place[corner]).unzip();
            self.weighted(indices, weights)
        });
        terms.reduce(|sum, term| sum + term).expect("four corners")
    }

    /// Adds what [`PosEmbed::forward`] gives to rows in host memory.
    pub(crate) fn add_to(&self, size: [usize; 2], merge: usize, x: &mut [f32]) {
        let width = self.weight.dims()[1];
        with_numbers(&self.weight.val(), |table| {
            for (x, corners) in x.chunks_exact_mut(width).zip(self.corners(size, merge)) {
                let [a, b, c, d] = corners.map(|(index, _)| &table[index as usize * width..][..width]);
                let [wa, wb, wc, wd] = corners.map(|(_, weight)| weight);
                for (at, x) in x.iter_mut().enumerate() {
                    *x += a[at] * wa + b[at] * wb + c[at] * wc + d[at] * wd;
                }
            }
        });
    }

    /// The table rows each place lies between, with their weights.
    fn corners(&self, [height, width]: [usize; 2], merge: usize) -> Vec<[(i64, f32); 4]> {
        let rows: Vec<_> = (0..height).map(|i| self.between(i, height)).collect();
        let columns: Vec<_> = (0..width).map(|i| self.between(i, width)).collect();
        let of_place = |[row, column]: [usize; 2]| {
            std::array::from_fn(|corner| {
                let ((y, dy), (x, dx)) = (rows[row][corner / 2], columns[column][corner % 2]);
                ((y * self.side + x) as i64, dy * dx)
            })
        };
        patch_places(height, width, merge).into_iter().map(of_place).collect()
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
