use burn::tensor::{Device, Tensor, TensorData};
use omni_core::{Dtype, Positions};

use crate::RopeConfig;

/// Makes rotation tables from positions.
#[derive(Debug, Clone)]
pub struct Rope {
    frequencies: Vec<f32>,
    axes: Vec<usize>,
}

impl Rope {
    /// Prepares the frequencies of `config`.
    pub fn new(config: &RopeConfig) -> Self {
        Self { frequencies: config.inverse_frequencies(), axes: config.axis_of_frequency() }
    }

    /// Cosines and sines of each token, by frequency: `[B * T, Dh / 2]` each.
    pub fn tables(&self, positions: &Positions) -> [Vec<f32>; 2] {
        let tokens = positions.batch() * positions.tokens();
        let angles = |of: fn(f32) -> f32| {
            let frequencies = || self.frequencies.iter().zip(&self.axes);
            let of_token = |token: usize| frequencies().map(move |(f, axis)| of(positions.axis(*axis)[token] * f));
            (0..tokens).flat_map(of_token).collect()
        };
        [angles(f32::cos), angles(f32::sin)]
    }

    /// The rotation of each token. Computed in f32, then cast to `dtype`, as the reference does.
    pub fn rotation(&self, positions: &Positions, device: &Device, dtype: Dtype) -> Rotation {
        let [batch, tokens, width] = [positions.batch(), positions.tokens(), 2 * self.frequencies.len()];
        let upload = |half: Vec<f32>| {
            // The second half of the head repeats the first.
            let values: Vec<f32> =
                half.chunks_exact(width / 2).flat_map(|half| half.iter().chain(half)).copied().collect();
            let data = TensorData::new(values, [batch, 1, tokens, width]);
            Tensor::from_data(data, (device, dtype.into()))
        };
        let [cos, sin] = self.tables(positions).map(upload);
        Rotation { cos, sin }
    }
}

/// Cosines and sines of a piece of tokens.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// `[B, 1, T, Dh]`.
    pub cos: Tensor<4>,
    /// `[B, 1, T, Dh]`.
    pub sin: Tensor<4>,
}

impl Rotation {
    /// Rotates queries or keys: `x * cos + rotate_half(x) * sin`.
    ///
    /// # Shapes
    /// `[B, H, T, Dh]` → `[B, H, T, Dh]`.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let [first, second] = [x.clone().narrow(3, 0, half), x.clone().narrow(3, half, half)];
        let rotated = Tensor::cat(vec![second.neg(), first], 3); // [B, H, T, Dh]
        x * self.cos.clone() + rotated * self.sin.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_by_position_zero_changes_nothing_and_lengths_are_kept() {
        let device = Device::flex();
        let rope = Rope::new(&RopeConfig { head_dim: 8, theta: 1e4, section: Some([2, 1, 1]) });
        let x = Tensor::<4>::ones([1, 2, 3, 8], &device);
        let rotation = rope.rotation(&Positions::sequence(0.0, 3), &device, Dtype::F32);
        let y = rotation.apply(x.clone());
        let first = (y.clone().narrow(2, 0, 1) - x.clone().narrow(2, 0, 1)).abs().max().into_scalar::<f32>();
        assert_eq!(first, 0.0);
        let lengths = (y.powi_scalar(2).sum_dim(3) - x.powi_scalar(2).sum_dim(3)).abs().max().into_scalar::<f32>();
        assert!(lengths < 1e-5, "{lengths}");
    }
}
