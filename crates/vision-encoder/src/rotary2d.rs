use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::grid::patch_places;

/// Base of the frequencies; no config names it.
const THETA: f32 = 10_000.0;

/// Rotation of queries and keys by row and column.
#[derive(Debug, Clone)]
pub(crate) struct Rotary2d {
    /// `[P, 1, Dh]`.
    pub(crate) cos: Tensor<3>,
    /// `[P, 1, Dh]`.
    pub(crate) sin: Tensor<3>,
}

/// Angles of one frame's patches, in merge-block order: `[P, Dh]` row-major, half of them by row, half by column, twice.
pub(crate) fn angles([height, width]: [usize; 2], merge: usize, head_dim: usize) -> Vec<f32> {
    let quarter = head_dim / 4;
    let frequencies: Vec<f32> = (0..quarter).map(|i| 1.0 / THETA.powf(i as f32 / quarter as f32)).collect();
    let mut angles = Vec::with_capacity(height * width * head_dim);
    for place in patch_places(height, width, merge) {
        for _ in 0..2 {
            for at in place {
                angles.extend(frequencies.iter().map(|frequency| at as f32 * frequency));
            }
        }
    }
    angles
}

impl Rotary2d {
    pub(crate) fn new(angles: &[f32], head_dim: usize, device: &Device) -> Self {
        let upload = |values: Vec<f32>| {
            let shape = [angles.len() / head_dim, 1, head_dim];
            Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
        };
        let cos = upload(angles.iter().map(|angle| angle.cos()).collect());
        let sin = upload(angles.iter().map(|angle| angle.sin()).collect());
        Self { cos, sin }
    }

    /// In f32, as the reference does it.
    ///
    /// # Shapes
    /// `[P, H, Dh]` → `[P, H, Dh]`.
    pub(crate) fn apply(&self, x: Tensor<3>) -> Tensor<3> {
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        let half = x.dims()[2] / 2;
        let [first, second] = [x.clone().narrow(2, 0, half), x.clone().narrow(2, half, half)];
        let rotated = Tensor::cat(vec![second.neg(), first], 2);
        (x * self.cos.clone() + rotated * self.sin.clone()).cast(dtype)
    }
}
