//! From tensors to kernel arguments, and back.

use burn::backend::Cube;
use burn::tensor::{DType, Int, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::{CubeCount, CubeDim};

/// Most cubes along one axis of the grid.
pub(crate) const MOST_CUBES: usize = 65_535;

/// Takes a tensor that a kernel can read, row by row; `None` for one that tracks gradients or lies on a device without kernels.
pub(crate) fn floats<const D: usize>(x: &Tensor<D>) -> Option<CubeTensor> {
    x.clone().try_into_primitive::<Cube>().ok().map(into_contiguous)
}

/// Takes a tensor for an elementwise kernel: as it is if its memory has no gaps, in any order of the axes, else made contiguous. `None` as
/// for [`floats`], and for an empty tensor.
pub(crate) fn dense<const D: usize>(x: &Tensor<D>) -> Option<CubeTensor> {
    let taken = x.clone().try_into_primitive::<Cube>().ok()?;
    let (shape, strides) = (taken.meta.shape(), taken.meta.strides());
    let span: usize = shape.iter().zip(strides.iter()).map(|(size, stride)| size.saturating_sub(1) * stride).sum();
    match shape.num_elements() {
        0 => None,
        count if span + 1 == count => Some(taken),
        _ => floats(x),
    }
}

/// Takes integers of 32 bits that a kernel can read, as [`floats`] does.
pub(crate) fn integers<const D: usize>(x: &Tensor<D, Int>) -> Option<CubeTensor> {
    let x = x.clone().try_into_primitive::<Cube>().ok()?;
    (x.dtype == DType::I32).then(|| into_contiguous(x))
}

/// Keys or values as they lie in the cache, if the numbers of a head lie side by side.
pub(crate) fn strided_cache(x: &Tensor<4>) -> Option<(CubeTensor, [usize; 2])> {
    let x = x.clone().try_into_primitive::<Cube>().ok()?;
    let strides = x.meta.strides();
    let [head, key, number] = [strides[1], strides[2], strides[3]];
    (number == 1).then_some((x, [head, key]))
}

/// The tensor of a kernel's output.
pub(crate) fn tensor<const D: usize>(x: CubeTensor) -> Tensor<D> {
    Tensor::from_primitive::<Cube>(x)
}

/// The tensor of integers of a kernel's output.
pub(crate) fn integer_tensor<const D: usize>(x: CubeTensor) -> Tensor<D, Int> {
    Tensor::from_primitive::<Cube>(x)
}

/// Allocates an output on the device of `like`.
pub(crate) fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let shape = shape.into();
    let buffer = like.client.empty(shape.num_elements() * dtype.size());
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), shape, buffer, dtype)
}

/// Numbers per load: 16 bytes, or what the device's vectors hold, such that loads divide a row of `width` numbers.
pub(crate) fn vector_size(client: &Client, dtype: DType, width: usize) -> usize {
    let widest = (16 / dtype.size()).min(client.properties().hardware.max_vector_size);
    (1..=widest).rev().find(|size| size.is_power_of_two() && width.is_multiple_of(*size)).unwrap_or(1)
}

/// Numbers per load of rows that are widened to f32: at most as many as a load of f32 has.
pub(crate) fn load_size(client: &Client, dtype: DType, width: usize) -> usize {
    vector_size(client, DType::F32, width).min(vector_size(client, dtype, width))
}

/// Spreads cubes over the axes of the grid, each of which is limited. There may be some more than asked for.
pub(crate) fn grid(client: &Client, cubes: usize) -> CubeCount {
    cubecl::calculate_cube_count_elemwise(client, cubes, CubeDim::new_1d(1))
}
