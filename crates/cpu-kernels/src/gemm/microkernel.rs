//! The micro-kernel, the innermost loop of every f32 GEMM here, and the transpose that packs its operands.

use pulp::{Simd, WithSimd};

use crate::buffer::Target;

/// Vectors of outputs in the micro-kernel's usual tile.
pub(crate) const VECTORS: usize = 3;
/// Side of the squares that are transposed in registers.
const SQUARE: usize = 16;

/// Transposes a block of `rows` rows of a matrix into `copy` `[depth, width]`; columns beyond `rows` become zero. The block begins
/// where `matrix` does; a row begins every `stride` numbers.
#[inline(always)]
pub(crate) fn transpose(matrix: &[f32], stride: usize, rows: usize, copy: &mut [f32], width: usize) {
    let depth = copy.len() / width;
    if rows < width {
        copy.fill(0.0);
    }
    for first in (0..rows).step_by(SQUARE) {
        let height = SQUARE.min(rows - first);
        let whole = if height == SQUARE { depth / SQUARE * SQUARE } else { 0 };
        for at in (0..whole).step_by(SQUARE) {
            // Squares of constant size compile to vector shuffles.
            let mut square = [[0.0; SQUARE]; SQUARE];
            for (row, square) in square.iter_mut().enumerate() {
                *square = *matrix[(first + row) * stride + at..].first_chunk().expect("a square fits");
            }
            for column in 0..SQUARE {
                let out = copy[(at + column) * width + first..].first_chunk_mut::<SQUARE>().expect("a square fits");
                for row in 0..SQUARE {
                    out[row] = square[row][column];
                }
            }
        }
        for row in first..first + height {
            for at in whole..depth {
                copy[at * width + row] = matrix[row * stride + at];
            }
        }
    }
}

/// The micro-kernel: `HEIGHT` rows of `x` times `VECTORS` vectors of outputs, summed over the depth.
pub(crate) struct Microkernel<'a, S: Simd, const HEIGHT: usize, const VECTORS: usize> {
    pub(crate) simd: S,
    pub(crate) x: &'a [[f32; HEIGHT]],
    pub(crate) weights: &'a [[S::f32s; VECTORS]],
    pub(crate) initial: &'a [S::f32s; VECTORS],
    /// Where the sums go: `HEIGHT` rows of `VECTORS` vectors.
    pub(crate) y: Target<'a>,
    /// Whether to add to what is in `y`.
    pub(crate) add: bool,
}

impl<S: Simd, const HEIGHT: usize, const VECTORS: usize> WithSimd for Microkernel<'_, S, HEIGHT, VECTORS> {
    type Output = ();

    // Every loop here has a constant length and no early exit: otherwise the accumulators would live in memory.
    #[inline(always)]
    fn with_simd<T: Simd>(self, _: T) {
        let Self { simd, x, weights, initial, mut y, add } = self;
        for height in 0..HEIGHT {
            y.prefetch(height, VECTORS * S::F32_LANES);
        }
        let mut sums = [*initial; HEIGHT];
        for (x, weights) in x.iter().zip(weights) {
            for row in 0..HEIGHT {
                let x = simd.splat_f32s(x[row]);
                for vector in 0..VECTORS {
                    sums[row][vector] = simd.mul_add_e_f32s(x, weights[vector], sums[row][vector]);
                }
            }
        }
        for (height, sums) in sums.into_iter().enumerate() {
            let y = S::as_mut_simd_f32s(y.row(height, VECTORS * S::F32_LANES)).0;
            for vector in 0..VECTORS {
                let former = if add { y[vector] } else { simd.splat_f32s(0.0) };
                y[vector] = simd.add_f32s(sums[vector], former);
            }
        }
    }
}
