//! The product of a row of a packed matrix with a few rows, by the units that share it.

use burn::tensor::DType;
use cubecl::client::Client;
use cubecl::prelude::*;

use super::Packed;
use crate::launch::vector_size;
use crate::rows::Rows;

/// What the compiler knows of a packed matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Format {
    bits: usize,
    /// Words of a row.
    words: usize,
    /// Words of a group.
    group: usize,
    zeros: bool,
    /// Numbers of a load of what the matrix is multiplied with.
    pub by: usize,
    pub rows: Rows,
}

impl Format {
    /// How units share the matrix if it is multiplied with rows of that type; as many rows to a cube as divide all `outputs`.
    pub(super) fn new(client: &Client, matrix: &Packed, outputs: &[usize], dtype: DType) -> Option<Self> {
        let ([_, words], [_, groups]) = (matrix.words.dims(), matrix.scales.dims());
        if !matrix.is_whole() || outputs.contains(&0) {
            return None;
        }
        let sharing = Rows::of_planes(client, words);
        let whole = |count: &usize| outputs.iter().all(|outputs| outputs.is_multiple_of(*count));
        let per_cube = (1..=sharing.per_cube).rev().find(whole)?;
        Some(Self {
            bits: matrix.bits,
            words,
            group: words / groups,
            zeros: matrix.zeros.is_some(),
            by: vector_size(client, dtype, 32 / matrix.bits),
            rows: Rows { per_cube, ..sharing },
        })
    }

    fn steps(&self) -> usize {
        self.words.div_ceil(self.rows.lanes)
    }

    fn groups(&self) -> usize {
        self.words / self.group
    }

    /// Loads of what is multiplied with a word.
    fn of_word(&self) -> usize {
        32 / self.bits / self.by
    }

    /// Loads of what is multiplied with a row.
    pub(super) fn loads(&self) -> usize {
        self.words * self.of_word()
    }

    fn mask(&self) -> u32 {
        (1 << self.bits) - 1
    }

    fn middle(&self) -> f32 {
        (1u32 << (self.bits - 1)) as f32
    }
}

/// This unit's part of the product of a row of the matrix with the numbers from `x_at` on.
#[cube]
pub(super) fn product<X: Float, F: Float, N: Size>(
    x: &[Vector<X, N>],
    words: &[u32],
    scales: &[F],
    zeros: &[F],
    x_at: usize,
    row: usize,
    #[comptime] format: Format,
) -> f32 {
    let mut sum = 0.0f32;
    for step in 0..format.steps() {
        let i = step * format.rows.lanes + UNIT_POS_X as usize;
        if i < format.words {
            let word = words[row * format.words + i];
            let group = row * format.groups() + i / format.group;
            let zero = if comptime!(format.zeros) { f32::cast_from(zeros[group]) } else { f32::new(format.middle()) };
            let mut part = Vector::<f32, N>::zero();
            #[unroll]
            for load in 0..format.of_word() {
                let mut numbers = Vector::<f32, N>::zero();
                #[unroll]
                for place in 0..format.by {
                    let shift = comptime!(((load * format.by + place) * format.bits) as u32);
                    let integer = (word >> shift) & comptime!(format.mask());
                    numbers.insert(place, f32::cast_from(integer) - zero);
                }
                part += numbers * Vector::<f32, N>::cast_from(x[x_at + i * format.of_word() + load]);
            }
            sum += Vector::vector_sum(part) * f32::cast_from(scales[group]);
        }
    }
    sum
}

/// The row of the outputs that this unit computes a part of.
#[cube]
pub(super) fn output_row(#[comptime] format: Format) -> usize {
    CUBE_POS_X as usize * format.rows.per_cube + UNIT_POS_Y as usize
}
