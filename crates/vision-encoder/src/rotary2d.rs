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

/// Cosines and sines of one frame's patches, in merge-block order: each `[P, Dh / 2]` row-major, half of them by row, half by
/// column. The second half of a head repeats them.
pub(crate) fn turns([height, width]: [usize; 2], merge: usize, head_dim: usize) -> [Vec<f32>; 2] {
    let quarter = head_dim / 4;
    let frequencies: Vec<f32> = (0..quarter).map(|i| 1.0 / THETA.powf(i as f32 / quarter as f32)).collect();
    // A row and a column of the same number turn alike.
    let of_numbers = |turn: fn(f32) -> f32| {
        let angle = |at: usize, frequency: &f32| turn(at as f32 * frequency);
        let table = (0..height.max(width)).map(|at| frequencies.iter().map(|f| angle(at, f)).collect::<Vec<_>>());
        table.collect::<Vec<_>>()
    };
    let places = patch_places(height, width, merge);
    [of_numbers(f32::cos), of_numbers(f32::sin)]
        .map(|table| places.iter().flatten().flat_map(|at| &table[*at]).copied().collect())
}

impl Rotary2d {
    /// From cosines and sines `[P, Dh / 2]`.
    pub(crate) fn new(turns: [&[f32]; 2], head_dim: usize, device: &Device) -> Self {
        let half = head_dim / 2;
        let [cos, sin] = turns.map(|half_turns| {
            let values: Vec<f32> = half_turns.chunks_exact(half).flat_map(|turns| [turns, turns].concat()).collect();
            let shape = [values.len() / head_dim, 1, head_dim];
            Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
        });
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
