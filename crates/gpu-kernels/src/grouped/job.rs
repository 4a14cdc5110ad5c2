//! The launches of many rows of experts.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::products::{self, COLUMNS, Sizes};
use super::sort::{MOST_EXPERTS, Sorting, UNITS, sort};
use crate::launch::{MOST_CUBES, empty, floats, integers, load_size, tensor};
use crate::packed::buffers;
use crate::packed::tiles::Form;
use crate::tiles::Tile;
use crate::{Matrices, PackedMatrices};

/// A matrix of all experts as the kernels read it.
struct Stacked {
    numbers: CubeTensor,
    /// Words, scales and zeros.
    packed: [CubeTensor; 3],
    form: Form,
}

/// Rows, their choice, and where the result goes.
struct Job {
    residual: CubeTensor,
    x: CubeTensor,
    index: CubeTensor,
    weights: CubeTensor,
    count: usize,
    top_k: usize,
    experts: usize,
    inner: usize,
    width: usize,
}

impl Job {
    fn new(
        residual: &Tensor<2>,
        x: &Tensor<2>,
        (index, weights): (&Tensor<2, Int>, &Tensor<2>),
        [experts, inner]: [usize; 2],
    ) -> Option<Self> {
        let ([count, top_k], [_, width]) = (index.dims(), x.dims());
        let shapes = residual.dims() == [count, width]
            && x.dims() == [count, width]
            && weights.dims() == [count, top_k]
            && (1..=MOST_EXPERTS).contains(&experts);
        let dtypes = residual.dtype() == x.dtype() && weights.dtype() == x.dtype();
        if !shapes || !dtypes || count * top_k * inner * width == 0 {
            return None;
        }
        let (residual, x, index, weights) = (floats(residual)?, floats(x)?, integers(index)?, floats(weights)?);
        let job = Self { residual, x, index, weights, count, top_k, experts, inner, width };
        job.fits().then_some(job)
    }

    fn pairs(&self) -> usize {
        self.count * self.top_k
    }

    /// Whether the outputs of all pairs fit into one buffer, with indices of 32 bits, and the device runs as many cubes of that size.
    fn fits(&self) -> bool {
        let properties = self.x.client.properties();
        let bytes = self.pairs() * self.width.max(self.inner) * size_of::<f32>();
        bytes as u64 <= properties.memory.max_page_size.min(u32::MAX.into())
            && UNITS <= properties.hardware.max_units_per_cube as usize
            && self.slots() <= MOST_CUBES
    }

    /// Pairs of a tile: more of them where experts have more pairs.
    fn tile(&self) -> usize {
        if self.pairs() <= 16 * self.experts { 16 } else { 32 }
    }

    /// Most tiles that the pairs can make: each expert has at most one that is not full.
    fn slots(&self) -> usize {
        self.pairs() / self.tile() + self.experts.min(self.pairs())
    }

    /// What a launch of products needs: the grid, the cube, numbers per load, and sizes.
    fn products(&self, [outputs, width]: [usize; 2], by: usize, form: Form) -> (CubeCount, CubeDim, usize, Sizes) {
        let tile = Tile::new([self.tile(), COLUMNS], [2, 4], by);
        let grid = CubeCount::Static(outputs.div_ceil(COLUMNS) as u32, self.slots() as u32, 1);
        let sizes = Sizes { top_k: self.top_k, outputs, loads: width / by, tile, form };
        (grid, CubeDim::new_1d(tile.units() as u32), by, sizes)
    }

    fn run(self, into: Stacked, back: Stacked) -> Tensor<2> {
        let sorting = Sorting { experts: self.experts, tile: self.tile() };
        let [order, tiles] = sort(&self.index, self.pairs(), self.slots(), sorting);
        let (client, dtype) = (self.x.client.clone(), self.x.dtype);
        let elem = dtype_to_storage_type(dtype);
        let hidden = empty(&self.x, [self.pairs(), self.inner], DType::F32);
        let by = load_size(&client, dtype, self.width);
        let (grid, dim, by, sizes) = self.products([self.inner, self.width], by, into.form);
        let [words, scales, zeros] = into.packed;
        products::gate_up::launch(
            &client,
            grid,
            dim,
            by,
            self.x.clone().into_buffer_arg(),
            into.numbers.into_buffer_arg(),
            words.into_buffer_arg(),
            scales.into_buffer_arg(),
            zeros.into_buffer_arg(),
            order.clone().into_buffer_arg(),
            tiles.clone().into_buffer_arg(),
            hidden.clone().into_buffer_arg(),
            sizes,
            elem,
        );

        let outputs = empty(&self.x, [self.pairs(), self.width], DType::F32);
        let by = load_size(&client, dtype, self.inner);
        let (grid, dim, by, sizes) = self.products([self.width, self.inner], by, back.form);
        let [words, scales, zeros] = back.packed;
        products::down::launch(
            &client,
            grid,
            dim,
            by,
            hidden.into_buffer_arg(),
            back.numbers.into_buffer_arg(),
            words.into_buffer_arg(),
            scales.into_buffer_arg(),
            zeros.into_buffer_arg(),
            order.into_buffer_arg(),
            tiles.into_buffer_arg(),
            outputs.clone().into_buffer_arg(),
            sizes,
            elem,
        );
        self.combine(outputs)
    }

    fn combine(self, outputs: CubeTensor) -> Tensor<2> {
        let (client, dtype) = (self.x.client.clone(), self.x.dtype);
        let by = load_size(&client, dtype, self.width);
        let total = self.count * self.width / by;
        let dim = CubeDim::new_1d(UNITS as u32);
        let out = empty(&self.residual, [self.count, self.width], dtype);
        products::combined::launch(
            &client,
            cubecl::calculate_cube_count_elemwise(&client, total, dim),
            dim,
            by,
            outputs.into_buffer_arg(),
            self.weights.into_buffer_arg(),
            self.residual.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            total,
            self.top_k,
            self.width / by,
            dtype_to_storage_type(dtype),
        );
        tensor(out)
    }
}

pub(super) fn dense(
    residual: &Tensor<2>,
    x: &Tensor<2>,
    choice: (&Tensor<2, Int>, &Tensor<2>),
    Matrices { gate_up, down }: Matrices,
) -> Option<Tensor<2>> {
    let [experts, width, inner] = down.dims();
    let dtypes = gate_up.dtype() == x.dtype() && down.dtype() == x.dtype();
    if !dtypes || gate_up.dims() != [experts, 2 * inner, width] || x.dims()[1] != width {
        return None;
    }
    let job = Job::new(residual, x, choice, [experts, inner])?;
    // Every buffer must be bound; the kernel does not read those of packed matrices here.
    let stand_ins = || [&job.index, &job.x, &job.x].map(CubeTensor::clone);
    let [into, back] = [gate_up, down]
        .map(|matrix| floats(matrix).map(|numbers| Stacked { numbers, packed: stand_ins(), form: Form::DENSE }));
    Some(job.run(into?, back?))
}

pub(super) fn packed(
    residual: &Tensor<2>,
    x: &Tensor<2>,
    choice: (&Tensor<2, Int>, &Tensor<2>),
    PackedMatrices { gate_up, down }: &PackedMatrices,
) -> Option<Tensor<2>> {
    let ([rows, inner], width) = (down.shape(), x.dims()[1]);
    let experts = rows / width.max(1);
    let shapes = rows == experts * width && gate_up.shape() == [experts * 2 * inner, width];
    let dtypes = [gate_up.scales, down.scales].iter().all(|scales| scales.dtype() == x.dtype());
    let job = Job::new(residual, x, choice, [experts, inner]).filter(|_| shapes && dtypes)?;
    // A word is unpacked to loads of 4 numbers.
    let loads = [width, inner].map(|width| load_size(&job.x.client, x.dtype(), width));
    if loads != [4, 4] {
        return None;
    }
    let [into, back] = [gate_up, down].map(|matrix| {
        let (form, packed) = (Form::new(matrix)?, buffers(matrix)?);
        Some(Stacked { numbers: job.x.clone(), packed, form })
    });
    Some(job.run(into?, back?))
}
