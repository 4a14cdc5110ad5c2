//! Products of a few rows with weights as they lie in a file: reading the weights is what takes the time.
//!
//! Packed weights are multiplied as integers. The inputs are rounded to 15 bits for it, with one scale per row, which is a
//! hundred times finer than the weights, and laid in the order in which the integers come out of their words.
#![allow(unsafe_code)]

use std::ops::Range;

use rayon::prelude::*;
use smallvec::SmallVec;

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{Instructions, Lanes, PIECE, Plain, Split, Stored};
use crate::level::Processor;
use crate::linear::{Affine, LinearShape, Precision, Then};
use crate::memory::{Columns, Lines, ahead, prefetch_ahead, size};
use crate::weight::{Matrix, Packed, Scales, Weight};

/// Bytes of weights that one task reads, at least.
const TASK: usize = 32 << 10;
/// Lanes of 32 bits of the widest vector: inputs are laid so that narrower ones read parts of the same order.
const WIDE: usize = PIECE / 4;

/// A few rows of inputs, in the orders in which the products read them. Its memory is used again by the next rows.
#[derive(Debug, Default)]
pub struct Inputs {
    rows: usize,
    input: usize,
    plain: Vec<f32>,
    /// Numbers of even places, then of odd ones, by 32.
    halves: Lines<f32>,
    has_halves: bool,
    /// For 4-bit and for 8-bit weights.
    integers: [Integers; 2],
    /// A row as whole numbers.
    rounded: Vec<i16>,
}

/// Rows of whole numbers, as [`Split`] lays them.
#[derive(Debug, Default)]
struct Integers {
    laid: Lines<i8>,
    /// How they are laid, if they are those of the rows.
    split: Option<Split>,
    /// By row.
    scales: Vec<f32>,
    /// For each lane of 32 bits, its inputs' sum times the number that stands for zero, negative.
    offsets: Lines<i32>,
}

impl Inputs {
    /// Takes new rows `[rows, input]`.
    ///
    /// # Panics
    /// If the numbers are no whole rows.
    pub fn set(&mut self, x: &[f32], input: usize) {
        self.fill(x.len().checked_div(input).unwrap_or(0), input).copy_from_slice(x);
    }

    /// Room for new rows `[rows, input]`, to be written.
    ///
    /// # Panics
    /// If there is not so much memory.
    pub fn fill(&mut self, rows: usize, input: usize) -> &mut [f32] {
        self.plain.resize(size([rows, input]), 0.0);
        (self.rows, self.input) = (rows, input);
        self.has_halves = false;
        self.integers.iter_mut().for_each(|integers| integers.split = None);
        &mut self.plain
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The rows `[rows, input]`.
    pub fn plain(&self) -> &[f32] {
        &self.plain
    }

    /// The rows, to be changed: as if they were new.
    pub fn plain_mut(&mut self) -> &mut [f32] {
        self.fill(self.rows, self.input)
    }

    /// New rows of an output that gets its size while it is computed: `f` is given the memory and returns the width of a row.
    ///
    /// # Panics
    /// If the values are no whole rows.
    pub fn fill_with(&mut self, f: impl FnOnce(&mut Vec<f32>) -> usize) {
        let mut values = std::mem::take(&mut self.plain);
        let width = f(&mut values);
        let rows = values.len().checked_div(width).unwrap_or(0);
        assert_eq!(values.len(), rows * width, "whole rows");
        self.plain = values;
        self.fill(rows, width);
    }

    /// Width of a row.
    pub fn width(&self) -> usize {
        self.input
    }

    /// Values that fit without further memory.
    pub fn capacity(&self) -> usize {
        self.plain.capacity()
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        let integers = self
            .integers
            .iter()
            .map(|integers| integers.laid.bytes() + 4 * integers.scales.capacity() + integers.offsets.bytes());
        4 * self.plain.capacity() + self.halves.bytes() + integers.sum::<usize>() + 2 * self.rounded.capacity()
    }

    /// Lays the rows in the order that products with this weight need.
    pub(crate) fn prepare(&mut self, instructions: Instructions, matrix: &Matrix) {
        let split = instructions.split();
        match matrix.weight() {
            Weight::Bf16(_) if !self.has_halves => self.lay_halves(),
            Weight::Packed(packed) if self.integers[packed.bits / 8].split != Some(split) => match packed.bits {
                4 => self.lay_integers::<4>(split),
                _ => self.lay_integers::<8>(split),
            },
            _ => {}
        }
    }

    /// Otherwise they would be multiplied with the numbers of other rows, or in another order.
    fn assert_prepared(&self, instructions: Instructions, matrix: &Matrix) {
        let prepared = match matrix.weight() {
            Weight::F32(_) => true,
            Weight::Bf16(_) => self.has_halves,
            Weight::Packed(packed) => self.integers[packed.bits / 8].split == Some(instructions.split()),
        };
        assert!(prepared, "the inputs are prepared for the weight");
    }

    fn lay_halves(&mut self) {
        self.has_halves = true;
        let length = self.input / (2 * WIDE) * (2 * WIDE);
        let values = self.halves.resize(size([self.rows, length]));
        for (row, out) in self.plain.chunks_exact(self.input.max(1)).zip(values.chunks_exact_mut(length.max(1))) {
            for (piece, out) in row.as_chunks::<{ 2 * WIDE }>().0.iter().zip(out.as_chunks_mut::<{ 2 * WIDE }>().0) {
                for at in 0..WIDE {
                    (out[at], out[WIDE + at]) = (piece[2 * at], piece[2 * at + 1]);
                }
            }
        }
    }

    fn lay_integers<const BITS: usize>(&mut self, split: Split) {
        let per_word = 32 / BITS;
        let length = self.input / (WIDE * per_word) * (WIDE * per_word);
        let Integers { laid, split: laid_as, scales, offsets } = &mut self.integers[BITS / 8];
        let row_bytes = size([length, size_of::<i16>()]);
        let values = laid.resize(size([self.rows, row_bytes]));
        *laid_as = Some(split);
        scales.clear();
        let words = length / per_word;
        let offsets = offsets.resize(size([self.rows, words]));
        for (at, row) in self.plain.chunks_exact(self.input.max(1)).enumerate() {
            // Without their sign, the bits of numbers are in the numbers' order: those that are none come last, and make all
            // outputs none.
            let largest = row.iter().fold(0, |most, x| x.abs().to_bits().max(most));
            let largest = f32::from_bits(largest);
            let scale = if largest.is_finite() { largest / f32::from(split.limit()) } else { f32::NAN };
            scales.push(scale);
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            self.rounded.clear();
            self.rounded.extend(row[..length].iter().map(|x| round(x * inverse)));
            let middle = -(1 << (BITS - 1));
            let sums = self.rounded.chunks_exact(per_word).map(|x| x.iter().map(|x| i32::from(*x)).sum::<i32>());
            offsets[at * words..][..words].iter_mut().zip(sums).for_each(|(offset, sum)| *offset = middle * sum);
            let pieces = values[at * row_bytes..][..row_bytes].chunks_exact_mut(2 * WIDE * per_word);
            for (x, piece) in self.rounded.chunks_exact(WIDE * per_word).zip(pieces) {
                lay_piece::<BITS>(split, x, piece);
            }
        }
    }
}

#[inline(always)]
fn round(x: f32) -> i16 {
    // Adding this rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i16
}

/// Lays the inputs of [`WIDE`] words.
#[inline(always)]
fn lay_piece<const BITS: usize>(split: Split, x: &[i16], piece: &mut [i8]) {
    let (per_word, vectors) = (32 / BITS, 16 / BITS);
    for (word, x) in x.chunks_exact(per_word).enumerate() {
        match split {
            Split::Shorts => {
                for vector in 0..vectors {
                    let ([a, b], [c, d]) = (x[vector].to_le_bytes(), x[vector + vectors].to_le_bytes());
                    let lane = [a, b, c, d].map(|byte| byte as i8);
                    piece[vector * PIECE + 4 * word..][..4].copy_from_slice(&lane);
                }
            }
            Split::Bytes => {
                for (at, x) in x.iter().enumerate() {
                    let upper = x.wrapping_add(64) >> 7;
                    let (vector, byte) = (at % (vectors / 2), at / (vectors / 2));
                    piece[vector * PIECE + 4 * word + byte] = upper as i8;
                    piece[(vector + vectors / 2) * PIECE + 4 * word + byte] = x.wrapping_sub(upper << 7) as i8;
                }
            }
        }
    }
}

/// One of the products that share their inputs.
pub struct Product<'a> {
    /// `[output, input]`.
    pub weight: Weight<'a>,
    /// Width of an output row.
    pub output: usize,
    /// `[output]`.
    pub bias: Option<&'a [f32]>,
    /// `[rows, output]`, overwritten.
    pub y: &'a mut [f32],
}

/// From so many rows on, multiplying takes longer than reading the weight. Fewer are computed each as if it were alone.
pub const MANY: usize = 9;

/// `y = x Wᵀ + b` for several weights at once, which are read once for all rows.
///
/// # Panics
/// If a slice has not the length of its shape.
pub fn products(inputs: &mut Inputs, precision: Precision, products: &mut [Product]) {
    products_on(Processor::best(), inputs, precision, products);
}

fn products_on(processor: Processor, inputs: &mut Inputs, precision: Precision, products: &mut [Product]) {
    let (rows, input) = (inputs.rows, inputs.input);
    if rows < MANY {
        return few_rows(processor.instructions, inputs, products);
    }
    for Product { weight, output, bias, y } in products {
        let shape = LinearShape { rows, input, output: *output };
        let affine = Affine { weight: *weight, bias: *bias, shape, precision, then: Then::Keep };
        affine.apply_on(processor, &inputs.plain, y);
    }
}

/// Computes [`products`] for rows that take less time than reading the weights.
pub(crate) fn few_rows(instructions: Instructions, inputs: &mut Inputs, products: &mut [Product]) {
    let products: SmallVec<[_; 4]> = products
        .iter_mut()
        .map(|Product { weight, output, bias, y }| {
            let matrix = Matrix::new(*weight, [*output, inputs.input]);
            assert_eq!(y.len(), size([inputs.rows, *output]), "y [rows, output]");
            assert!(bias.is_none_or(|bias| bias.len() == *output), "bias [output]");
            inputs.prepare(instructions, &matrix);
            (pieces(weight.bytes(), *output), matrix, *bias, *output, Columns::new(y, *output))
        })
        .collect();
    if inputs.rows == 0 {
        return;
    }
    let inputs = &*inputs;
    let rows: &[usize] = &(0..inputs.rows).collect::<SmallVec<[usize; 16]>>();
    let total: usize = products.iter().map(|(parts, ..)| parts).sum();
    (0..total).into_par_iter().for_each(|mut task| {
        let mut products = products.iter();
        let (parts, matrix, bias, output, y) = loop {
            let product = products.next().expect("there are as many tasks as parts");
            if task < product.0 {
                break product;
            }
            task -= product.0;
        };
        let range = output * task / parts..output * (task + 1) / parts;
        multiply(instructions, inputs, rows, matrix, range, |row, at, sum| {
            // SAFETY: these outputs are this task's alone, and the piece is dropped at once.
            let y = unsafe { y.piece(row, at..at + 1) };
            y[0] = sum + bias.map_or(0.0, |bias| bias[at]);
        });
    });
}

/// Tasks for a matrix: small enough to be shared out evenly, large enough to be worth it.
pub(crate) fn pieces(bytes: usize, output: usize) -> usize {
    (bytes / TASK).clamp(1, 8 * rayon::current_num_threads()).min(output.max(1))
}

/// Most rows and outputs that are computed before they are handed on.
const ROWS: usize = MANY - 1;
const OUTPUTS: usize = 64;

/// Some outputs of some rows; `emit` is told the row's place in `rows`, the output and the sum.
///
/// # Panics
/// If the inputs are not of the matrix's width or not prepared for it, or a row or output is not there.
pub(crate) fn multiply(
    instructions: Instructions,
    inputs: &Inputs,
    rows: &[usize],
    matrix: &Matrix,
    outputs: Range<usize>,
    mut emit: impl FnMut(usize, usize, f32),
) {
    let [output, input] = matrix.shape();
    assert!(inputs.input == input && outputs.end <= output, "outputs {outputs:?} of a matrix {:?}", matrix.shape());
    assert!(rows.iter().all(|row| *row < inputs.rows), "rows {rows:?} of {}", inputs.rows);
    inputs.assert_prepared(instructions, matrix);
    let mut sums = [[0.0; OUTPUTS]; ROWS];
    for start in outputs.clone().step_by(OUTPUTS) {
        let block = Block { inputs, weight: matrix.weight(), outputs: start..outputs.end.min(start + OUTPUTS) };
        let mut done = 0;
        while done < rows.len() {
            let taken = block.sums(instructions, &rows[done..], &mut sums);
            for (row, sums) in sums[..taken].iter().enumerate() {
                block.outputs.clone().zip(sums).for_each(|(output, sum)| emit(done + row, output, *sum));
            }
            done += taken;
        }
    }
}

/// At most [`OUTPUTS`] outputs, of what [`multiply`] has checked. Its code is long, and the same for everything that is done with
/// the sums.
struct Block<'a> {
    inputs: &'a Inputs,
    weight: &'a Weight<'a>,
    outputs: Range<usize>,
}

type Sums = [[f32; OUTPUTS]; ROWS];

impl Block<'_> {
    /// The sums of the first rows; returns how many were taken.
    fn sums(&self, instructions: Instructions, rows: &[usize], sums: &mut Sums) -> usize {
        match rows {
            [a, b, c, d, e, f, g, h, ..] => self.run(instructions, [*a, *b, *c, *d, *e, *f, *g, *h], sums),
            [a, b, c, d, ..] => self.run(instructions, [*a, *b, *c, *d], sums),
            [a, b, ..] => self.run(instructions, [*a, *b], sums),
            [a, ..] => self.run(instructions, [*a], sums),
            [] => 0,
        }
    }

    fn run<const R: usize>(&self, instructions: Instructions, rows: [usize; R], sums: &mut Sums) -> usize {
        match instructions {
            // SAFETY: the instructions were found, or there would be no `Found`.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(_) => unsafe { self.avx512(rows, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(_) => unsafe { self.avx2(rows, sums) },
            // SAFETY: needs nothing.
            Instructions::Plain => unsafe { self.each::<Plain, R>(rows, sums) },
        }
        R
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn avx512<const R: usize>(&self, rows: [usize; R], sums: &mut Sums) {
        // SAFETY: this function has the instructions.
        unsafe { self.each::<Avx512, R>(rows, sums) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const R: usize>(&self, rows: [usize; R], sums: &mut Sums) {
        // SAFETY: this function has the instructions.
        unsafe { self.each::<Avx2, R>(rows, sums) }
    }

    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    unsafe fn each<V: Lanes, const R: usize>(&self, rows: [usize; R], sums: &mut Sums) {
        let mut output = self.outputs.start;
        // Several outputs at once share what is read of the inputs; as many as leave room for the sums.
        if R == 1 {
            while output + 4 <= self.outputs.end {
                // SAFETY: passed on.
                unsafe { self.group::<V, R, 4>(rows, output, sums) };
                output += 4;
            }
        }
        if R <= 2 {
            while output + 2 <= self.outputs.end {
                // SAFETY: passed on.
                unsafe { self.group::<V, R, 2>(rows, output, sums) };
                output += 2;
            }
        }
        while output < self.outputs.end {
            // SAFETY: passed on.
            unsafe { self.group::<V, R, 1>(rows, output, sums) };
            output += 1;
        }
    }

    /// `O` outputs from `output` on.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    unsafe fn group<V: Lanes, const R: usize, const O: usize>(&self, rows: [usize; R], output: usize, out: &mut Sums) {
        let Self { inputs, weight, outputs } = self;
        // SAFETY: the caller has the instructions; packed weights come from a `Matrix`, which has checked their lengths.
        let (mut sums, done) = unsafe {
            match weight {
                Weight::F32(values) => dot_f32::<V, R, O>(values, output, inputs, rows),
                Weight::Bf16(values) => dot_bf16::<V, R, O>(values, output, inputs, rows),
                Weight::Packed(packed) => match packed.bits {
                    4 => dot_packed::<V, 4, R, O>(packed, output, inputs, rows),
                    _ => dot_packed::<V, 8, R, O>(packed, output, inputs, rows),
                },
            }
        };
        for at in 0..O {
            if done < inputs.input {
                add_rest(weight, output + at, inputs, rows, done, &mut sums[at]);
            }
            for row in 0..R {
                out[row][output - outputs.start + at] = sums[at][row];
            }
        }
    }
}

/// Inputs that no whole vector takes.
#[cold]
fn add_rest<const R: usize>(
    weight: &Weight,
    output: usize,
    inputs: &Inputs,
    rows: [usize; R],
    mut done: usize,
    sums: &mut [f32; R],
) {
    let mut values = [0.0; 64];
    while done < inputs.input {
        let values = &mut values[..64.min(inputs.input - done)];
        weight.read(output, inputs.input, done, values);
        for (row, sum) in rows.into_iter().zip(sums.iter_mut()) {
            let x = &inputs.plain[row * inputs.input + done..][..values.len()];
            *sum += x.iter().zip(values.iter()).map(|(x, w)| x * w).sum::<f32>();
        }
        done += values.len();
    }
}

/// The sum of each vector, four at a time.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn add_up<V: Lanes, const R: usize, const O: usize>(vectors: [[V::Float; R]; O]) -> [[f32; R]; O] {
    let mut sums = [[0.0; R]; O];
    // Loops of constant length, no closures: these would not be compiled with the instructions.
    for first in (0..R * O).step_by(4) {
        // SAFETY: passed on.
        unsafe {
            let mut four = [V::zero(); 4];
            for at in 0..4 {
                if first + at < R * O {
                    four[at] = vectors[(first + at) / R][(first + at) % R];
                }
            }
            let four = V::sums(four);
            for at in 0..4 {
                if first + at < R * O {
                    sums[(first + at) / R][(first + at) % R] = four[at];
                }
            }
        }
    }
    sums
}

/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn dot_f32<V: Lanes, const R: usize, const O: usize>(
    weight: &[f32],
    output: usize,
    inputs: &Inputs,
    rows: [usize; R],
) -> ([[f32; R]; O], usize) {
    let input = inputs.input;
    let weight = &weight[output * input..][..O * input];
    let (steps, ahead) = (input / V::LANES, ahead(size_of_val(weight)));
    let x: [&[f32]; R] = std::array::from_fn(|r| &inputs.plain[rows[r] * input..][..input]);
    // SAFETY: every vector lies in the slices just taken.
    unsafe {
        let mut sums = [[V::zero(); R]; O];
        for step in 0..steps {
            let x: [V::Float; R] = std::array::from_fn(|r| V::load(x[r].as_ptr().add(step * V::LANES)));
            for o in 0..O {
                let w = weight.as_ptr().add(o * input + step * V::LANES);
                prefetch_ahead(w, ahead);
                let w = V::load(w);
                for r in 0..R {
                    sums[o][r] = V::multiply_add(w, x[r], sums[o][r]);
                }
            }
        }
        (add_up::<V, R, O>(sums), steps * V::LANES)
    }
}

/// # Safety
/// The processor has the instructions of `V`; the inputs are prepared for bf16.
#[inline(always)]
unsafe fn dot_bf16<V: Lanes, const R: usize, const O: usize>(
    weight: &[u16],
    output: usize,
    inputs: &Inputs,
    rows: [usize; R],
) -> ([[f32; R]; O], usize) {
    let input = inputs.input;
    let weight = &weight[output * input..][..O * input];
    let length = input / (2 * WIDE) * (2 * WIDE);
    let (steps, ahead) = (length / (2 * V::LANES), ahead(size_of_val(weight)));
    let x: [&[f32]; R] = std::array::from_fn(|r| &inputs.halves[rows[r] * length..][..length]);
    // SAFETY: every vector lies in the slices just taken: a step's weights are `2 * LANES` numbers, its inputs `LANES` of
    // even and as many of odd places, both within the same 32.
    unsafe {
        let mut sums = [[[V::zero(); 2]; R]; O];
        for step in 0..steps {
            let at = step * V::LANES / WIDE * 2 * WIDE + step * V::LANES % WIDE;
            let x: [[V::Float; 2]; R] = std::array::from_fn(|r| {
                let x = x[r].as_ptr().add(at);
                [V::load(x), V::load(x.add(WIDE))]
            });
            for o in 0..O {
                let w = weight.as_ptr().add(o * input + step * 2 * V::LANES);
                prefetch_ahead(w, ahead);
                let w = V::load_int(w.cast());
                let (even, odd) = (V::lower(w), V::upper(w));
                for r in 0..R {
                    sums[o][r][0] = V::multiply_add(even, x[r][0], sums[o][r][0]);
                    sums[o][r][1] = V::multiply_add(odd, x[r][1], sums[o][r][1]);
                }
            }
        }
        let mut both = [[V::zero(); R]; O];
        for o in 0..O {
            for r in 0..R {
                both[o][r] = V::add(sums[o][r][0], sums[o][r][1]);
            }
        }
        (add_up::<V, R, O>(both), length)
    }
}

/// # Safety
/// The processor has the instructions of `V`; the inputs are prepared for these weights, whose lengths were checked.
#[inline(always)]
unsafe fn dot_packed<V: Lanes, const BITS: usize, const R: usize, const O: usize>(
    packed: &Packed,
    output: usize,
    inputs: &Inputs,
    rows: [usize; R],
) -> ([[f32; R]; O], usize) {
    // SAFETY: passed on.
    unsafe {
        match packed.scales {
            Scales::Bf16(scales) => dot_scaled::<V, u16, BITS, R, O>(packed, scales, output, inputs, rows),
            Scales::F32(scales) => dot_scaled::<V, f32, BITS, R, O>(packed, scales, output, inputs, rows),
        }
    }
}

/// # Safety
/// As [`dot_packed`].
#[inline(always)]
unsafe fn dot_scaled<V: Lanes, S: Stored, const BITS: usize, const R: usize, const O: usize>(
    packed: &Packed,
    scales: &[S],
    output: usize,
    inputs: &Inputs,
    rows: [usize; R],
) -> ([[f32; R]; O], usize) {
    let step = V::LANES * 32 / BITS;
    let group = packed.group;
    // SAFETY: passed on.
    unsafe {
        if group.is_multiple_of(step) || group >= inputs.input {
            return dot_groups::<V, S, BITS, R, O, 1>(packed, scales, output, inputs, rows);
        }
        match (step.is_multiple_of(group), step / group) {
            (true, 2) => dot_groups::<V, S, BITS, R, O, 2>(packed, scales, output, inputs, rows),
            (true, 4) => dot_groups::<V, S, BITS, R, O, 4>(packed, scales, output, inputs, rows),
            // Left to `add_rest`, as plain numbers.
            _ => ([[0.0; R]; O], 0),
        }
    }
}

/// With `GROUPS` groups in one vector of words.
///
/// # Safety
/// As [`dot_packed`].
#[inline(always)]
unsafe fn dot_groups<V: Lanes, S: Stored, const BITS: usize, const R: usize, const O: usize, const GROUPS: usize>(
    packed: &Packed,
    scales: &[S],
    output: usize,
    inputs: &Inputs,
    rows: [usize; R],
) -> ([[f32; R]; O], usize) {
    let (input, per_word) = (inputs.input, 32 / BITS);
    let length = input / (WIDE * per_word) * (WIDE * per_word);
    let steps = length / (V::LANES * per_word);
    let per_row = packed.words_per_row(input);
    let words = &packed.words[output * per_row..][..O * per_row];
    let ahead = ahead(size_of_val(words));
    let groups = input.div_ceil(packed.group);
    let scales = &scales[output * groups..][..O * groups];
    let zeros = packed.zeros.map(|zeros| &zeros[output * groups..][..O * groups]);
    let Integers { laid, scales: row_scales, offsets, .. } = &inputs.integers[BITS / 8];
    let x: [&[i8]; R] = std::array::from_fn(|r| &laid[rows[r] * 2 * length..][..2 * length]);
    let offsets: [&[i32]; R] = std::array::from_fn(|r| &offsets[rows[r] * (length / per_word)..][..length / per_word]);
    // SAFETY: every vector lies in the slices just taken. A step's words hold `LANES * per_word` integers; their inputs lie in
    // the same piece. The groups of all steps are groups of the row.
    unsafe {
        let mut sums = [[V::zero(); R]; O];
        // A division in the loop would take as long as the rest of it.
        let (per_group, mut left, mut group) = (packed.group / (V::LANES * per_word), 0, 0);
        for step in 0..steps {
            let at = step * V::LANES;
            let place = at / WIDE * (2 * WIDE * per_word) + 4 * (at % WIDE);
            for o in 0..O {
                let w = words.as_ptr().add(o * per_row + at);
                prefetch_ahead(w, ahead);
                let w = V::load_int(w.cast());
                let scale = V::scales::<S, GROUPS>(scales.as_ptr().add(o * groups + group));
                for r in 0..R {
                    let mut sum = V::load_int(offsets[r].as_ptr().add(at));
                    if let Some(zeros) = zeros {
                        let zeros = V::zeros::<GROUPS>(zeros.as_ptr().add(o * groups + group));
                        sum = if BITS == 4 { V::grow::<3>(sum, zeros) } else { V::grow::<7>(sum, zeros) };
                    }
                    sum = V::dot_words::<BITS>(sum, w, x[r].as_ptr().add(place));
                    sums[o][r] = V::multiply_add(V::to_float(sum), scale, sums[o][r]);
                }
            }
            if GROUPS > 1 {
                group += GROUPS;
            } else {
                left += 1;
                if left == per_group {
                    (left, group) = (0, group + 1);
                }
            }
        }
        let mut sums = add_up::<V, R, O>(sums);
        for sums in &mut sums {
            for r in 0..R {
                sums[r] *= row_scales[rows[r]];
            }
        }
        (sums, length)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::level::tests::{cases, up_to};
    use crate::weight::tests::Sample;
    use crate::weight::{narrow, widen};
    use proptest::prelude::*;

    pub(crate) fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    /// Largest distance from the product in f64, as a share of the largest output.
    fn error(instructions: Instructions, weight: Weight, rows: usize, input: usize, output: usize) -> f64 {
        let x = numbers(rows * input, 1);
        let mut inputs = Inputs::default();
        inputs.set(&x, input);
        let matrix = Matrix::new(weight, [output, input]);
        inputs.prepare(instructions, &matrix);
        let mut y = vec![0.0; rows * output];
        let all: Vec<usize> = (0..rows).collect();
        multiply(instructions, &inputs, &all, &matrix, 0..output, |row, at, sum| y[row * output + at] = sum);
        let (mut worst, mut largest) = (0.0_f64, 1e-9_f64);
        let mut w = vec![0.0; input];
        for out in 0..output {
            weight.read(out, input, 0, &mut w);
            for row in 0..rows {
                let x = &x[row * input..][..input];
                let expected: f64 = x.iter().zip(&w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let size: f64 = x.iter().zip(&w).map(|(x, w)| (f64::from(*x) * f64::from(*w)).abs()).sum();
                largest = largest.max(size);
                worst = worst.max((expected - f64::from(y[row * output + out])).abs());
            }
        }
        worst / largest
    }

    proptest! {
        #![proptest_config(cases(256))]
        #[test]
        fn packed_weights_of_any_shape_are_right(
            rows in 1..8usize, input in 1..400usize, output in 1..6usize, bits in prop::sample::select(vec![4, 8]),
            group in prop::sample::select(vec![8, 16, 32, 48, 64, 128, 1000]), zeros: bool, halved: bool,
        ) {
            let sample = Sample::new(bits, group, [output, input], zeros, halved);
            for Processor { instructions, .. } in Processor::all() {
                let error = error(instructions, sample.weight(), rows, input, output);
                prop_assert!(error < 3e-5, "{instructions:?}: {error}");
            }
        }

        #[test]
        fn plain_weights_of_any_shape_are_right(rows in 1..8usize, input in 1..200usize, output in 1..6usize) {
            let wide = numbers(output * input, 5);
            let half: Vec<u16> = wide.iter().map(|w| narrow(*w)).collect();
            for Processor { instructions, .. } in Processor::all() {
                for weight in [Weight::F32(&wide), Weight::Bf16(&half)] {
                    let error = error(instructions, weight, rows, input, output);
                    prop_assert!(error < 1e-6, "{instructions:?}: {error}");
                }
            }
        }
    }

    #[test]
    fn inputs_are_laid_anew_for_other_instructions() {
        let sample = Sample::new(4, 32, [2, 128], true, true);
        let matrix = Matrix::new(sample.weight(), [2, 128]);
        let mut inputs = Inputs::default();
        inputs.set(&numbers(128, 1), 128);
        let outputs: Vec<[f32; 2]> = Processor::all()
            .map(|Processor { instructions, .. }| {
                inputs.prepare(instructions, &matrix);
                let mut y = [0.0; 2];
                multiply(instructions, &inputs, &[0], &matrix, 0..2, |_, at, sum| y[at] = sum);
                y
            })
            .collect();
        assert!(
            outputs.iter().flatten().zip(outputs[0].iter().cycle()).all(|(a, b)| (a - b).abs() < 1e-3),
            "{outputs:?}"
        );
    }

    #[test]
    #[should_panic(expected = "prepared for the weight")]
    fn inputs_that_are_not_prepared_are_a_bug() {
        let mut inputs = Inputs::default();
        inputs.set(&[0.0; 64], 64);
        let matrix = Matrix::new(Weight::Bf16(&[0; 64]), [1, 64]);
        multiply(Instructions::Plain, &inputs, &[0], &matrix, 0..1, |_, _, _| {});
    }

    #[test]
    #[should_panic(expected = "outputs 0..3 of a matrix [2, 64]")]
    fn outputs_that_are_not_there_are_a_bug() {
        let mut inputs = Inputs::default();
        inputs.set(&[0.0; 64], 64);
        let matrix = Matrix::new(Weight::F32(&[0.0; 128]), [2, 64]);
        multiply(Instructions::Plain, &inputs, &[0], &matrix, 0..3, |_, _, _| {});
    }

    #[test]
    #[should_panic(expected = "are too large")]
    fn more_rows_than_memory_has_are_a_bug() {
        Inputs::default().fill(usize::MAX / 2 + 1, 2);
    }

    #[test]
    fn several_products_share_their_inputs() {
        Processor::all().for_each(|processor| several_products(processor, 3));
        Processor::all().for_each(|processor| several_products(processor, MANY + 1));
    }

    fn several_products(processor: Processor, rows: usize) {
        let many = up_to(500);
        let (x, a, b) = (numbers(rows * 300, 1), numbers(many * 300, 2), numbers(7 * 300, 3));
        let half: Vec<u16> = b.iter().map(|w| narrow(*w)).collect();
        let bias = numbers(7, 4);
        let (mut ya, mut yb) = (vec![0.0; rows * many], vec![0.0; rows * 7]);
        let mut inputs = Inputs::default();
        inputs.set(&x, 300);
        products_on(
            processor,
            &mut inputs,
            Precision::Full,
            &mut [
                Product { weight: Weight::F32(&a), output: many, bias: None, y: &mut ya },
                Product { weight: Weight::Bf16(&half), output: 7, bias: Some(&bias), y: &mut yb },
            ],
        );
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
        for row in 0..rows {
            let x = &x[row * 300..][..300];
            assert!((dot(x, &a[(many - 1) * 300..]) - ya[(row + 1) * many - 1]).abs() < 1e-3);
            let w: Vec<f32> = half[6 * 300..].iter().map(|w| widen(*w)).collect();
            assert!((dot(x, &w) + bias[6] - yb[row * 7 + 6]).abs() < 1e-3);
        }
    }

    #[test]
    fn an_input_that_is_no_number_is_not_hidden() {
        let sample = Sample::new(4, 32, [2, 128], false, true);
        let mut inputs = Inputs::default();
        let mut x = numbers(128, 1);
        x[5] = f32::INFINITY;
        inputs.set(&x, 128);
        let mut y = [0.0; 2];
        products(
            &mut inputs,
            Precision::Full,
            &mut [Product { weight: sample.weight(), output: 2, bias: None, y: &mut y }],
        );
        assert!(y.iter().all(|y| y.is_nan()));
    }
}
