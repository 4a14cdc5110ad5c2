//! Products with packed matrices, which kernels read as they are packed.

#[cfg(cube)]
mod experts;
#[cfg(cube)]
mod linear;
mod matrix;
#[cfg(cube)]
mod product;
#[cfg(cube)]
pub(crate) mod tiles;

use burn::tensor::{Int, Tensor};

pub use self::matrix::Packed;
#[cfg(cube)]
pub(crate) use self::matrix::buffers;
use crate::PreNorm;

/// `x Wᵀ` of several packed matrices. Up to [`SKINNY_MAX_ROWS`](crate::SKINNY_MAX_ROWS) rows take one launch for one matrix, or for three
/// of the same packing. More than 512 rows unpack the matrix first.
///
/// # Shapes
/// `[N, D]` → `[N, out]` each.
pub fn linear_packed<const M: usize>(x: Tensor<2>, matrices: [&Packed; M]) -> [Tensor<2>; M] {
    #[cfg(cube)]
    if let Some((outputs, _)) = linear::linear(&x, None, matrices) {
        return outputs;
    }
    matrices.map(|matrix| linear_one(x.clone(), None, matrix))
}

/// [`linear_packed`] of rows that are normalised first, as in [`norm_linear`](crate::norm_linear). Also returns the normalised rows if they
/// were made.
///
/// # Shapes
/// `[N, D]` → `[N, out]` each, `[N, D]`.
pub fn norm_linear_packed<const M: usize>(
    x: Tensor<2>,
    norm: &PreNorm,
    matrices: [&Packed; M],
) -> ([Tensor<2>; M], Option<Tensor<2>>) {
    #[cfg(cube)]
    if let Some(found) = linear::linear(&x, Some(norm), matrices) {
        return found;
    }
    let x = norm.apply(x);
    (linear_packed(x.clone(), matrices), Some(x))
}

/// `residual + x Wᵀ`, in one launch.
///
/// # Shapes
/// `residual` `[N, out]`, `x` `[N, D]` → `[N, out]`.
pub fn add_linear_packed(residual: Tensor<2>, x: Tensor<2>, matrix: &Packed) -> Tensor<2> {
    linear_one(x, Some(residual), matrix)
}

/// `silu(x Gᵀ) · x Uᵀ` of packed matrices and of rows that are normalised first if there is a norm, in one launch for a few rows.
///
/// # Shapes
/// `x` `[N, D]` → `[N, out]`.
pub fn linear_gate_packed(x: Tensor<2>, norm: Option<&PreNorm>, gate: &Packed, up: &Packed) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = linear::gate(&x, norm, [gate, up]) {
        return y;
    }
    let x = norm.map_or_else(|| x.clone(), |norm| norm.apply(x.clone()));
    let [gate, up] = linear_packed(x, [gate, up]);
    crate::silu_gate(gate, up)
}

/// `x Wᵀ` of one matrix, with the residual if there is one.
fn linear_one(x: Tensor<2>, residual: Option<Tensor<2>>, matrix: &Packed) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = linear::one(&x, residual.as_ref(), matrix).or_else(|| tiles::linear(&x, residual.as_ref(), matrix))
    {
        return y;
    }
    let y = x.matmul(matrix.numbers().transpose());
    residual.into_iter().fold(y, |y, residual| residual + y)
}

/// The stacked packed matrices of all experts of a layer.
#[derive(Debug, Clone, Copy)]
pub struct PackedMatrices<'a> {
    /// `[E * 2 * I, D]`, gate above up for each expert.
    pub gate_up: Packed<'a>,
    /// `[E * D, I]`.
    pub down: Packed<'a>,
}

/// [`experts`](crate::experts()) of packed matrices, in two launches; `None` where no kernel takes them.
///
/// # Shapes
/// `residual` and `x` `[N, D]`, `index` and `weights` `[N, k]` → `[N, D]`.
pub fn experts_packed(
    residual: &Tensor<2>,
    x: &Tensor<2>,
    index: &Tensor<2, Int>,
    weights: &Tensor<2>,
    matrices: &PackedMatrices,
) -> Option<Tensor<2>> {
    #[cfg(cube)]
    return experts::experts(residual, x, (index, weights), matrices);
    #[cfg(not(cube))]
    {
        let _ = (residual, x, index, weights, matrices);
        None
    }
}
