use burn::tensor::{DType, Tensor};

/// RMSNorm of the last axis: the mean square in f32, the quotient cast back *before* the multiplication, as in the reference.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    #[cfg(cube)]
    if let Some(y) = kernel::rms_norm(&x, &weight, eps) {
        return y;
    }
    plain(x, weight, eps)
}

/// An RMSNorm that is applied to rows by what reads them.
#[derive(Debug, Clone)]
pub struct PreNorm {
    /// `[D]`.
    pub weight: Tensor<1>,
    /// Added to the mean square.
    pub eps: f64,
}

impl PreNorm {
    /// Normalises rows.
    pub fn apply<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        rms_norm(x, self.weight.clone(), self.eps)
    }

    /// [`PreNorm::apply`] in plain operations.
    pub fn apply_plain<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        plain(x, self.weight.clone(), self.eps)
    }
}

/// [`rms_norm`] in plain operations.
pub fn plain<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let mean_square = x.clone().square().mean_dim(D - 1);
    let normed = (x / (mean_square + eps).sqrt()).cast(dtype);
    normed * weight.unsqueeze()
}

#[cfg(cube)]
pub(crate) mod kernel {
    use burn::backend::TensorMetadata;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::Tensor;
    use cubecl::client::Client;
    use cubecl::prelude::*;

    use crate::launch::{empty, floats, grid, tensor, vector_size};
    use crate::rows::{Rows, row_of_unit, sum_of_row};

    /// How a row is normalised, known to the compiler.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) struct Norm {
        pub loads: usize,
        width: usize,
        pub rows: Rows,
    }

    impl Norm {
        /// How rows of `width` numbers, read in `loads` vector loads, are shared among units.
        pub(crate) fn new(client: &Client, width: usize, loads: usize) -> Self {
            Self { loads, width, rows: Rows::new(client, loads) }
        }
    }

    /// One lane's part of the sum of squares of the row that begins at `at`.
    #[cube]
    fn squares<F: Float, N: Size>(x: &[Vector<F, N>], at: usize, lane: usize, #[comptime] norm: Norm) -> f32 {
        let mut squares = Vector::<f32, N>::zero();
        #[unroll]
        for step in 0..comptime!(norm.loads.div_ceil(norm.rows.lanes)) {
            let i = step * norm.rows.lanes + lane;
            if i < norm.loads {
                let values = Vector::<f32, N>::cast_from(x[at + i]);
                squares += values * values;
            }
        }
        Vector::vector_sum(squares)
    }

    /// Numbers of a row divided by the root of its mean square, times their weights.
    #[cube]
    pub(crate) fn scaled<F: Float, N: Size>(x: Vector<F, N>, root: f32, weight: Vector<F, N>) -> Vector<F, N> {
        Vector::<F, N>::cast_from(Vector::<f32, N>::cast_from(x) / Vector::<f32, N>::new(root)) * weight
    }

    #[cube(launch)]
    fn normed<F: Float, N: Size>(
        x: &[Vector<F, N>],
        weight: &[Vector<F, N>],
        out: &mut [Vector<F, N>],
        count: usize,
        eps: f32,
        #[comptime] norm: Norm,
        #[define(F)] _dtype: ElemType,
    ) {
        let row = row_of_unit(norm.rows);
        // Units past the last row compute the last one, because all must meet in the sum.
        let at = select(row < count, row, count - 1) * norm.loads;
        let lane = UNIT_POS_X as usize;
        let mut shared = Shared::<[f32]>::new_slice(comptime!(norm.rows.units()));
        let sum = sum_of_row(squares::<F, N>(x, at, lane, norm), &mut shared, norm.rows);
        let root = f32::sqrt(sum / comptime!(norm.width as f32) + eps);
        if row < count {
            #[unroll]
            for step in 0..comptime!(norm.loads.div_ceil(norm.rows.lanes)) {
                let i = step * norm.rows.lanes + lane;
                if i < norm.loads {
                    out[at + i] = scaled::<F, N>(x[at + i], root, weight[i]);
                }
            }
        }
    }

    /// The root of the mean square of the row that begins at `at`, for all units of a cube of `units`, which add up in the order of
    /// [`normed`]: each stands in for several of its lanes, or its planes for the one that has a row there.
    #[cube]
    fn root_of_cube<F: Float, N: Size>(
        x: &[Vector<F, N>],
        at: usize,
        eps: f32,
        shared: &mut Shared<[f32]>,
        #[comptime] norm: Norm,
        #[comptime] units: usize,
    ) -> f32 {
        let sum = if comptime!(norm.rows.planes) {
            plane_sum(squares::<F, N>(x, at, UNIT_POS_X as usize, norm))
        } else {
            let lanes = comptime!(norm.rows.lanes);
            #[unroll]
            for turn in 0..comptime!(lanes.div_ceil(units)) {
                let lane = turn * units + UNIT_POS as usize;
                if lane < lanes {
                    shared[lane] = squares::<F, N>(x, at, lane, norm);
                }
            }
            sync_cube();
            #[unroll]
            for halving in 0..comptime!(norm.rows.halvings()) {
                let distance = comptime!(lanes >> (halving + 1));
                #[unroll]
                for turn in 0..comptime!(distance.div_ceil(units)) {
                    let lane = turn * units + UNIT_POS as usize;
                    if lane < distance {
                        shared[lane] += shared[lane + distance];
                    }
                }
                sync_cube();
            }
            let sum = shared[0];
            sync_cube();
            sum
        };
        f32::sqrt(sum / comptime!(norm.width as f32) + eps)
    }

    /// Normalises one row into shared memory, by all units of a cube and to the bit as [`normed`] does.
    #[cube]
    pub(crate) fn normalise_row<F: Float, N: Size>(
        x: &[Vector<F, N>],
        row: usize,
        weight: &[Vector<F, N>],
        eps: f32,
        out: &mut Shared<[Vector<F, N>]>,
        shared: &mut Shared<[f32]>,
        #[comptime] norm: Norm,
        #[comptime] units: usize,
    ) {
        let at = row * norm.loads;
        let root = root_of_cube::<F, N>(x, at, eps, shared, norm, units);
        #[unroll]
        for turn in 0..comptime!(norm.loads.div_ceil(units)) {
            let i = turn * units + UNIT_POS as usize;
            if i < norm.loads {
                out[i] = scaled::<F, N>(x[at + i], root, weight[i]);
            }
        }
        sync_cube();
    }

    pub(super) fn rms_norm<const D: usize>(x: &Tensor<D>, weight: &Tensor<1>, eps: f64) -> Option<Tensor<D>> {
        let width = x.dims()[D - 1];
        let count = x.shape().num_elements() / width.max(1);
        if count == 0 || weight.dims() != [width] || weight.dtype() != x.dtype() {
            return None;
        }
        let (x, weight) = (floats(x)?, floats(weight)?);
        let (client, dtype) = (x.client.clone(), x.dtype);
        let by = vector_size(&client, dtype, width);
        let norm = Norm::new(&client, width, width / by);
        let out = empty(&x, x.shape(), dtype);
        normed::launch(
            &client,
            grid(&client, count.div_ceil(norm.rows.per_cube)),
            norm.rows.cube_dim(),
            by,
            x.into_buffer_arg(),
            weight.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count,
            eps as f32,
            norm,
            dtype_to_storage_type(dtype),
        );
        Some(tensor(out))
    }
}
