#[cfg(cube)]
mod kernel;
#[cfg(cube)]
pub(crate) use kernel::{MOST_NORMED_OUTPUTS, keep_row, write_of_three};

use burn::tensor::Tensor;

use crate::PreNorm;

/// Most rows that go through the kernels: each reads the matrix again, from the cache of the GPU. More rows are a matter for GEMMs.
pub const SKINNY_MAX_ROWS: usize = 8;

/// `x Wᵀ` of several matrices `[out, D]`, in one launch for a few rows.
///
/// # Shapes
/// `[N, D]` → `[N, out]` each.
pub fn linear<const M: usize>(x: Tensor<2>, matrices: [Tensor<2>; M]) -> [Tensor<2>; M] {
    #[cfg(cube)]
    if let Some(outputs) = kernel::linear(&x, &matrices) {
        return outputs;
    }
    plain(x, matrices)
}

/// `residual + scale · (x Wᵀ)`, in one launch for a few rows.
///
/// # Shapes
/// `residual` `[N, out]`, `x` `[N, D]`, `matrix` `[out, D]`, `scale` `[out]` → `[N, out]`.
pub fn add_linear(residual: Tensor<2>, x: Tensor<2>, matrix: Tensor<2>, scale: Option<Tensor<1>>) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = kernel::add_linear(&residual, &x, &matrix, scale.as_ref()) {
        return y;
    }
    plain_add(residual, x, matrix, scale)
}

/// `silu(x Gᵀ) · x Uᵀ`, in one launch for a few rows.
///
/// # Shapes
/// `x` `[N, D]`, `gate` and `up` `[out, D]` → `[N, out]`.
pub fn linear_gate(x: Tensor<2>, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = kernel::linear_gate(&x, None, &gate, &up) {
        return y;
    }
    plain_gate(x, gate, up)
}

/// [`linear`] of rows that are normalised first, in one launch for a few rows and one or three matrices: each cube normalises its row
/// again, which reads it from the cache of the GPU. The results are to the bit those of the norm followed by the product. Also returns
/// the normalised rows if they were made.
///
/// # Shapes
/// `[N, D]` → `[N, out]` each, `[N, D]`.
pub fn norm_linear<const M: usize>(
    x: Tensor<2>,
    norm: &PreNorm,
    matrices: [Tensor<2>; M],
) -> ([Tensor<2>; M], Option<Tensor<2>>) {
    #[cfg(cube)]
    if let Some(outputs) = kernel::norm_linear(&x, norm, &matrices) {
        return outputs;
    }
    let x = norm.apply(x);
    (linear(x.clone(), matrices), Some(x))
}

/// [`linear_gate`] of rows that are normalised first, as in [`norm_linear`].
///
/// # Shapes
/// `x` `[N, D]`, `gate` and `up` `[out, D]` → `[N, out]`.
pub fn norm_linear_gate(x: Tensor<2>, norm: &PreNorm, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = kernel::linear_gate(&x, Some(norm), &gate, &up) {
        return y;
    }
    linear_gate(norm.apply(x), gate, up)
}

/// Whether products of these rows can normalise them, so that the norm is better left to them.
pub fn takes_norm(x: &Tensor<2>, norm: &PreNorm) -> bool {
    kernel::takes_norm(x, norm)
}

/// [`linear`] in plain operations.
pub fn plain<const M: usize>(x: Tensor<2>, matrices: [Tensor<2>; M]) -> [Tensor<2>; M] {
    matrices.map(|matrix| x.clone().matmul(matrix.transpose()))
}

/// [`add_linear`] in plain operations.
pub fn plain_add(residual: Tensor<2>, x: Tensor<2>, matrix: Tensor<2>, scale: Option<Tensor<1>>) -> Tensor<2> {
    let y = x.matmul(matrix.transpose());
    residual
        + match scale {
            Some(scale) => y * scale.unsqueeze(),
            None => y,
        }
}

/// [`norm_linear`] in plain operations.
pub fn plain_normed<const M: usize>(x: Tensor<2>, norm: &PreNorm, matrices: [Tensor<2>; M]) -> [Tensor<2>; M] {
    plain(norm.apply_plain(x), matrices)
}

/// [`linear_gate`] with plain matrix products; the gate itself is a kernel where there is one, because GEMMs of many rows come here.
pub fn plain_gate(x: Tensor<2>, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let [gate, up] = plain(x, [gate, up]);
    crate::silu_gate(gate, up)
}

#[cfg(not(cube))]
mod kernel {
    use burn::tensor::Tensor;

    use crate::PreNorm;

    pub(super) fn takes_norm(_: &Tensor<2>, _: &PreNorm) -> bool {
        false
    }
}
