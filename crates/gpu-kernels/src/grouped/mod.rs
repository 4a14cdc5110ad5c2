#[cfg(cube)]
mod job;
#[cfg(cube)]
mod products;
#[cfg(cube)]
mod sort;

use burn::tensor::{Int, Tensor};

use crate::{Matrices, PackedMatrices};

/// [`experts`](crate::experts()) of many rows, in four launches: the pairs of row and expert are sorted by expert on the device, and each
/// expert's rows are multiplied together, so that its matrices are read once per tile of rows. `None` where no kernel takes them.
///
/// # Shapes
/// `residual` and `x` `[N, D]`, `index` and `weights` `[N, k]` → `[N, D]`.
pub fn experts_grouped(
    residual: &Tensor<2>,
    x: &Tensor<2>,
    index: &Tensor<2, Int>,
    weights: &Tensor<2>,
    matrices: Matrices,
) -> Option<Tensor<2>> {
    job::dense(residual, x, (index, weights), matrices)
}

/// [`experts_grouped`] of packed matrices, which are read as they are packed.
///
/// # Shapes
/// `residual` and `x` `[N, D]`, `index` and `weights` `[N, k]` → `[N, D]`.
pub fn experts_grouped_packed(
    residual: &Tensor<2>,
    x: &Tensor<2>,
    index: &Tensor<2, Int>,
    weights: &Tensor<2>,
    matrices: &PackedMatrices,
) -> Option<Tensor<2>> {
    job::packed(residual, x, (index, weights), matrices)
}

#[cfg(not(cube))]
mod job {
    use burn::tensor::{Int, Tensor};

    use crate::{Matrices, PackedMatrices};

    pub(super) fn dense(
        _: &Tensor<2>,
        _: &Tensor<2>,
        _: (&Tensor<2, Int>, &Tensor<2>),
        _: Matrices,
    ) -> Option<Tensor<2>> {
        None
    }

    pub(super) fn packed(
        _: &Tensor<2>,
        _: &Tensor<2>,
        _: (&Tensor<2, Int>, &Tensor<2>),
        _: &PackedMatrices,
    ) -> Option<Tensor<2>> {
        None
    }
}
