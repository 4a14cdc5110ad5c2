//! The product of many rows with a weight, as in a linear layer.
//!
//! The scheme is the usual one of fast matrix products (Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication"): both operands are copied, block by block, into the order in which the innermost loop reads them; that loop
//! keeps a tile of results in registers. The weight is copied each time it is used, which costs a few percent for some dozens
//! of rows and nothing to speak of for more, and leaves it in memory as it lies in the file.

#![allow(unsafe_code)] // Tasks write other columns of the same rows: see `memory`.

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::elementwise::{gelu_on, gelu_tanh_on};
use crate::few::{Inputs, MANY, Product, few_rows};
#[cfg(target_arch = "x86_64")]
use crate::half_linear;
use crate::level::Processor;
use crate::memory::{Columns, aligned, prefetch, size};
use crate::tile::{Tile, VECTORS, turn};
use crate::weight::{Matrix, Weight};

/// Inputs of one pass of the innermost loop: with them, a tile's share of both operands stays in the second cache.
const DEPTH: usize = 192;
/// Rows whose copy is read again and again by one core before it goes on: 384 KiB of them.
const ROWS: usize = 256;
/// Tiles' widths that one task takes, at most; it keeps a copy of their weights.
const PANELS: usize = 4;
/// Elements of the copied rows, at most.
const COPIED: usize = 4 << 20;

/// What [`linear`] multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearShape {
    /// Rows of the input and of the output.
    pub rows: usize,
    /// Width of an input row.
    pub input: usize,
    /// Width of an output row.
    pub output: usize,
}

/// How exactly many rows are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// In single precision.
    #[default]
    Full,
    /// Both sides rounded to bf16 where the processor multiplies that faster; sums in single precision.
    Half,
}

/// What becomes of the sums of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Then {
    /// They are the outputs.
    #[default]
    Keep,
    /// They are added to what is there.
    Add,
    /// Their exact GELU is the output.
    Gelu,
    /// Their GELU by its tanh approximation is the output.
    GeluTanh,
}

impl Then {
    fn activate(self, arch: Arch, y: &mut [f32]) {
        match self {
            Then::Keep | Then::Add => {}
            Then::Gelu => gelu_on(arch, y),
            Then::GeluTanh => gelu_tanh_on(arch, y),
        }
    }
}

/// A linear layer and what follows it.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// `[output, input]`.
    pub weight: Weight<'a>,
    /// `[output]`.
    pub bias: Option<&'a [f32]>,
    /// Sizes.
    pub shape: LinearShape,
    /// How exactly many rows are multiplied.
    pub precision: Precision,
    /// What becomes of the sums.
    pub then: Then,
}

/// `y = x Wᵀ + b`.
///
/// # Shapes
/// `x` `[rows, input]`, `weight` `[output, input]`, `bias` `[output]` → `[rows, output]`, all row-major.
///
/// # Panics
/// If a slice has not the length of its shape.
pub fn linear(x: &[f32], weight: Weight, bias: Option<&[f32]>, shape: LinearShape, precision: Precision) -> Vec<f32> {
    let mut y = vec![0.0; size([shape.rows, shape.output])];
    linear_to(x, weight, bias, shape, precision, &mut y);
    y
}

/// Computes [`linear`] into memory that is there.
///
/// # Panics
/// Where [`linear`] does.
pub fn linear_to(
    x: &[f32],
    weight: Weight,
    bias: Option<&[f32]>,
    shape: LinearShape,
    precision: Precision,
    y: &mut [f32],
) {
    Affine { weight, bias, shape, precision, then: Then::Keep }.apply(x, y);
}

impl Affine<'_> {
    /// Multiplies rows `x` `[rows, input]` into `y` `[rows, output]`.
    ///
    /// # Panics
    /// If a slice has not the length of its shape.
    pub fn apply(&self, x: &[f32], y: &mut [f32]) {
        self.apply_on(Processor::best(), x, y);
    }

    pub(crate) fn apply_on(&self, processor: Processor, x: &[f32], y: &mut [f32]) {
        let Self { weight, bias, shape: LinearShape { rows, input, output }, precision, then } = *self;
        assert_eq!(x.len(), size([rows, input]), "x [rows, input]");
        assert_eq!(y.len(), size([rows, output]), "y [rows, output]");
        let matrix = Matrix::new(weight, [output, input]);
        if let Some(bias) = bias {
            assert_eq!(bias.len(), output, "bias [output]");
        }
        if y.is_empty() {
            return;
        }
        if rows < MANY || input == 0 {
            return self.few(processor, x, y);
        }
        #[cfg(target_arch = "x86_64")]
        if let (Precision::Half, Some(instructions)) = (precision, processor.half) {
            return half_linear::linear(instructions, x, &matrix, bias, then, y);
        }
        let _ = precision;
        processor.arch.dispatch(Linear { x, matrix: &matrix, bias, y, add: then == Then::Add });
        then.activate(processor.arch, y);
    }

    /// Rows that take less time than reading the weights.
    fn few(&self, processor: Processor, x: &[f32], y: &mut [f32]) {
        let Self { weight, bias, shape: LinearShape { input, output, .. }, then, .. } = *self;
        let former = (then == Then::Add).then(|| y.to_vec());
        if input == 0 {
            y.fill(0.0);
            if let Some(bias) = bias {
                y.chunks_exact_mut(output).for_each(|row| row.copy_from_slice(bias));
            }
        } else {
            let mut inputs = INPUTS.take();
            inputs.set(x, input);
            few_rows(processor.instructions, &mut inputs, &mut [Product { weight, output, bias, y }]);
            INPUTS.set(inputs);
        }
        if let Some(former) = former {
            y.iter_mut().zip(former).for_each(|(y, former)| *y += former);
        }
        then.activate(processor.arch, y);
    }
}

struct Linear<'a> {
    x: &'a [f32],
    matrix: &'a Matrix<'a>,
    bias: Option<&'a [f32]>,
    y: &'a mut [f32],
    /// Whether to add to what is there.
    add: bool,
}

impl WithSimd for Linear<'_> {
    type Output = ();

    /// Chooses the height of a tile: with its accumulators, one row of weights and one input fill the registers.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 { self.run::<S, 8>(simd) } else { self.run::<S, 4>(simd) }
    }
}

thread_local! {
    /// Copies of rows and of weights: kept, since fresh memory costs as much time as filling it.
    static ROW_COPY: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static WEIGHT_COPY: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static INPUTS: RefCell<Inputs> = RefCell::default();
}

impl Linear<'_> {
    fn run<S: Simd, const HEIGHT: usize>(self, simd: S) {
        let Self { x, matrix, bias, y, add } = self;
        let ([output, input], weight) = (matrix.shape(), matrix.weight());
        let at_once = (COPIED / input).max(ROWS) / HEIGHT * HEIGHT;
        let width = VECTORS * S::F32_LANES;
        let panels = output.div_ceil(width);
        let tasks = panels.div_ceil(PANELS).max(panels.min(4 * rayon::current_num_threads()));
        // Taken out of its cell: while this thread waits for the others it may begin another product.
        let mut copy = ROW_COPY.take();
        for (x, y) in x.chunks(at_once * input).zip(y.chunks_mut(at_once * output)) {
            let rows = Rows::<HEIGHT>::copy(x, input, &mut copy);
            // The tasks take other columns.
            let y = Columns::new(y, output);
            (0..tasks).into_par_iter().for_each(|task| {
                let panels = panels * task / tasks..panels * (task + 1) / tasks;
                let columns = panels.start * width..(panels.end * width).min(output);
                let mut copy = WEIGHT_COPY.take();
                let task = Task { simd, rows: &rows, weight, bias, columns, y: &y, add, copy: &mut copy };
                simd.vectorize(task);
                WEIGHT_COPY.set(copy);
            });
        }
        ROW_COPY.set(copy);
    }
}

/// Input rows in blocks of [`DEPTH`] inputs, each of them in groups of `HEIGHT` rows, each of those by input: the order in
/// which a tile reads them. Rows that are missing in the last group are arbitrary.
struct Rows<'a, const HEIGHT: usize> {
    values: &'a [f32],
    rows: usize,
    input: usize,
}

impl<'a, const HEIGHT: usize> Rows<'a, HEIGHT> {
    fn copy(x: &[f32], input: usize, copy: &'a mut Vec<f32>) -> Self {
        let rows = x.len() / input;
        let padded = rows.next_multiple_of(HEIGHT);
        let values = aligned(copy, padded * input);
        values.par_chunks_mut(padded * DEPTH).enumerate().for_each(|(block, values)| {
            let depth = values.len() / padded;
            values.par_chunks_mut(HEIGHT * depth).enumerate().with_min_len(4).for_each(|(group, values)| {
                let (values, _) = values.as_chunks_mut::<HEIGHT>();
                let from = group * HEIGHT;
                for row in 0..HEIGHT.min(rows - from) {
                    let x = &x[(from + row) * input + block * DEPTH..][..depth];
                    values.iter_mut().zip(x).for_each(|(values, x)| values[row] = *x);
                }
            });
        });
        Self { values, rows, input }
    }

    /// `HEIGHT` rows from `row` on, by input, over the block of inputs that begins at `start`.
    #[inline(always)]
    fn group(&self, row: usize, start: usize, depth: usize) -> &[[f32; HEIGHT]] {
        let padded = self.rows.next_multiple_of(HEIGHT);
        self.values[start * padded + row * depth..][..HEIGHT * depth].as_chunks().0
    }
}

/// Some columns of the output, for all rows.
struct Task<'a, S, const HEIGHT: usize> {
    simd: S,
    rows: &'a Rows<'a, HEIGHT>,
    weight: &'a Weight<'a>,
    bias: Option<&'a [f32]>,
    columns: Range<usize>,
    y: &'a Columns<'a>,
    add: bool,
    copy: &'a mut Vec<f32>,
}

impl<S: Simd, const HEIGHT: usize> WithSimd for Task<'_, S, HEIGHT> {
    type Output = ();

    #[inline(always)]
    fn with_simd<T: Simd>(self, _: T) {
        let Self { simd, rows, weight, bias, columns, y, add, copy } = self;
        let (width, input) = (VECTORS * S::F32_LANES, rows.input);
        let panels = columns.len().div_ceil(width);
        let mut initial = vec![0.0; width];
        let mut partial = vec![0.0; HEIGHT * width];
        let mut wide = Vec::new();
        // Weights are kept for further rows only if there are any.
        let keeps = rows.rows > ROWS;
        let size = width * if keeps { panels * input } else { DEPTH.min(input) };
        let copy = aligned(copy, size);
        let (first, end) = (columns.start, columns.end);
        for first_row in (0..rows.rows).step_by(ROWS) {
            let end_row = (first_row + ROWS).min(rows.rows);
            for start in (0..input).step_by(DEPTH) {
                let depth = DEPTH.min(input - start);
                for panel in 0..panels {
                    let from = columns.start + panel * width;
                    let columns = from..(from + width).min(columns.end);
                    let at = if keeps { start * panels + panel * depth } else { 0 };
                    let copy = &mut copy[at * width..][..depth * width];
                    if first_row == 0 {
                        lay(weight, input, start, columns.clone(), copy, width, &mut wide);
                    }
                    match bias {
                        Some(bias) if start == 0 => initial[..columns.len()].copy_from_slice(&bias[columns.clone()]),
                        _ => initial.fill(0.0),
                    }
                    let weights = S::as_simd_f32s(copy).0.as_chunks::<VECTORS>().0;
                    let initial = &S::as_simd_f32s(&initial).0.as_chunks::<VECTORS>().0[0];
                    // While this panel is multiplied, the next one's weights come from memory.
                    let next = if first_row > 0 {
                        0..0
                    } else if panel + 1 < panels {
                        columns.end..(columns.end + width).min(end)
                    } else {
                        first..(first + width).min(end)
                    };
                    let next_start = if panel + 1 < panels { start } else { start + DEPTH };
                    let next_end = (next_start + DEPTH).min(input);
                    let share = next.len().div_ceil((end_row - first_row).div_ceil(HEIGHT));
                    for row in (first_row..end_row).step_by(HEIGHT) {
                        let ahead = next.start + (row - first_row) / HEIGHT * share;
                        for row in ahead..(ahead + share).min(next.end) {
                            if let Weight::F32(weight) = weight
                                && next_start < next_end
                            {
                                prefetch(&weight[row * input + next_start..row * input + next_end]);
                            }
                        }
                        let x = rows.group(row, start, depth);
                        let add = add || start > 0;
                        if row + HEIGHT <= end_row && columns.len() == width {
                            // SAFETY: these columns are this task's alone, and no piece is alive.
                            let y = unsafe { y.target(row, from) };
                            simd.vectorize(Tile { simd, x, weights, initial, y, add });
                            continue;
                        }
                        let tile = &Columns::new(&mut partial, width);
                        // SAFETY: the matrix was made here, for this alone.
                        let tile = unsafe { tile.target(0, 0) };
                        simd.vectorize(Tile { simd, x, weights, initial, y: tile, add: false });
                        for (row, sums) in (row..end_row).zip(partial.chunks_exact(width)) {
                            // SAFETY: these columns are this task's alone, and the piece is dropped before the next.
                            let y = unsafe { y.piece(row, columns.clone()) };
                            match add {
                                true => y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum),
                                false => y.copy_from_slice(&sums[..y.len()]),
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Some inputs of some rows of the weight, by input.
#[inline(always)]
fn lay(
    weight: &Weight,
    input: usize,
    start: usize,
    rows: Range<usize>,
    copy: &mut [f32],
    width: usize,
    wide: &mut Vec<f32>,
) {
    if let Weight::F32(weight) = weight {
        return turn(&weight[rows.start * input + start..], input, rows.len(), copy, width);
    }
    let depth = copy.len() / width;
    wide.resize(rows.len() * depth, 0.0);
    for (row, wide) in rows.clone().zip(wide.chunks_exact_mut(depth)) {
        weight.read(row, input, start, wide);
    }
    turn(wide, depth, rows.len(), copy, width);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::tests::{cases, up_to};
    use proptest::prelude::*;

    fn linear_on(
        processor: Processor,
        x: &[f32],
        weight: Weight,
        bias: Option<&[f32]>,
        shape: LinearShape,
        precision: Precision,
    ) -> Vec<f32> {
        let mut y = vec![0.0; shape.rows * shape.output];
        Affine { weight, bias, shape, precision, then: Then::Keep }.apply_on(processor, x, &mut y);
        y
    }

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    /// Largest distance from the product in f64.
    fn error(processor: Processor, shape: LinearShape, biased: bool) -> f64 {
        let LinearShape { rows, input, output } = shape;
        let (x, weight, bias) = (numbers(rows * input, 1), numbers(output * input, 2), numbers(output, 3));
        let y = linear_on(processor, &x, Weight::F32(&weight), biased.then_some(&bias), shape, Precision::Full);
        assert_eq!(y.len(), rows * output);
        let mut worst = 0.0_f64;
        for (row, y) in y.chunks(output.max(1)).enumerate() {
            for (out, y) in y.iter().enumerate() {
                let (x, w) = (&x[row * input..][..input], &weight[out * input..][..input]);
                let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let expected = sum + if biased { f64::from(bias[out]) } else { 0.0 };
                worst = worst.max((expected - f64::from(*y)).abs());
            }
        }
        worst
    }

    proptest! {
        #![proptest_config(cases(128))]
        #[test]
        fn any_shape_is_right(
            rows in 0..up_to(70), input in 0..up_to(1200), output in 0..up_to(130), biased: bool,
        ) {
            for processor in Processor::all() {
                let worst = error(processor, LinearShape { rows, input, output }, biased);
                prop_assert!(worst < 1e-3, "{processor:?}: {worst}");
            }
        }
    }

    #[test]
    fn stored_forms_agree_in_full_precision() {
        let shape = LinearShape { rows: 21, input: 300, output: 70 };
        let x = numbers(21 * 300, 1);
        let sample = crate::weight::tests::Sample::new(4, 32, [70, 300], true, true);
        let mut wide = vec![0.0; 70 * 300];
        wide.chunks_exact_mut(300).enumerate().for_each(|(row, wide)| sample.weight().read(row, 300, 0, wide));
        for processor in Processor::all() {
            let [a, b] = [Weight::F32(&wide), sample.weight()]
                .map(|weight| linear_on(processor, &x, weight, None, shape, Precision::Full));
            assert_eq!(a, b, "{processor:?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "hours")]
    fn many_rows_and_outputs_are_right() {
        for processor in Processor::all() {
            // More rows than one core keeps, more outputs than one task takes.
            let shape = LinearShape { rows: 2 * ROWS + 5, input: DEPTH + 1, output: 500 };
            assert!(error(processor, shape, true) < 1e-3, "{processor:?}");
            // More than are copied at once.
            let shape = LinearShape { rows: ROWS + 9, input: COPIED / ROWS, output: 3 };
            assert!(error(processor, shape, true) < 1e-2, "{processor:?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "hours")]
    fn what_follows_a_product_follows_it() {
        for (processor, rows, precision) in Processor::all().flat_map(|processor| {
            [(3, Precision::Full), (40, Precision::Full), (3, Precision::Half), (40, Precision::Half)]
                .map(|(rows, precision)| (processor, rows, precision))
        }) {
            let shape = LinearShape { rows, input: 1500, output: 77 };
            let LinearShape { input, output, .. } = shape;
            let (x, weight, bias) = (numbers(rows * input, 1), numbers(output * input, 2), numbers(output, 3));
            let half: Vec<u16> = weight.iter().map(|w| crate::weight::narrow(*w)).collect();
            let (weight, bias) = (Weight::Bf16(&half), Some(bias.as_slice()));
            let plain = linear_on(processor, &x, weight, bias, shape, precision);
            for then in [Then::Keep, Then::Add, Then::Gelu, Then::GeluTanh] {
                let former = numbers(rows * output, 4);
                let mut expected = plain.clone();
                if then == Then::Add {
                    expected.iter_mut().zip(&former).for_each(|(y, former)| *y += former);
                }
                then.activate(processor.arch, &mut expected);
                let mut y = former;
                Affine { weight, bias, shape, precision, then }.apply_on(processor, &x, &mut y);
                let worst = expected.iter().zip(&y).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-4, "{processor:?}, {rows} rows, {precision:?}, {then:?}: {worst}");
            }
        }
    }

    #[test]
    fn a_product_within_a_product_of_the_same_pool_is_right() {
        let input = up_to(400);
        let results: Vec<f64> = (0..up_to(16))
            .into_par_iter()
            .map(|i| error(Processor::best(), LinearShape { rows: 40 + i, input, output: input / 2 }, false))
            .collect();
        assert!(results.into_iter().all(|error| error < 1e-3));
    }

    #[test]
    #[should_panic(expected = "are too large")]
    fn sizes_whose_product_wraps_are_a_bug() {
        let shape = LinearShape { rows: usize::MAX / 2 + 1, input: 2, output: 0 };
        linear(&[], Weight::F32(&[]), None, shape, Precision::Full);
    }

    #[test]
    #[should_panic(expected = "weight [output, input]")]
    fn a_weight_of_another_shape_is_a_bug() {
        linear(&[0.0; 6], Weight::F32(&[0.0; 5]), None, LinearShape { rows: 2, input: 3, output: 2 }, Precision::Full);
    }
}
