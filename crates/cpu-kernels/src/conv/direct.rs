//! Convolutions along time in f32 by direct sums, on every processor.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::stream::{ConvShape, ConvStream};
use crate::activation::Snake;
use crate::simd::Processor;

/// Rows of weights and columns of the output whose sums stay in registers.
const ROWS: usize = 4;
const COLUMNS: usize = 32;

/// A convolution along time in f32.
#[derive(Debug, Clone)]
pub struct DirectConv {
    /// `[rows / 4, input, taps, 4]`; a transposed convolution has one row per output and position within the stride.
    weight: Vec<f32>,
    bias: Vec<f32>,
    pub(super) shape: ConvShape,
}

impl DirectConv {
    pub(super) fn new(weight: &[f32], bias: &[f32], shape: ConvShape) -> Self {
        Self { weight: laid(weight, shape), bias: bias.to_vec(), shape }
    }

    pub(super) fn run(
        &self,
        streams: &mut [ConvStream],
        x: &[f32],
        activation: Option<Snake>,
        add: bool,
        y: &mut Vec<f32>,
    ) -> Vec<usize> {
        let inputs = self.shape.begin(streams, x, activation);
        let past = self.shape.past();
        let steps: Vec<usize> = inputs.iter().map(|inputs| inputs.saturating_sub(past)).collect();
        let lengths = self.shape.size_outputs(&steps, add, y);
        let starts = inputs.iter().scan(0, |end, inputs| {
            *end += inputs;
            Some(*end - inputs)
        });
        let (starts, columns) = (starts.collect::<Vec<_>>(), inputs.iter().sum::<usize>());
        let blocks = starts.iter().zip(&steps).flat_map(|(start, steps)| {
            (0..*steps).step_by(COLUMNS).map(move |at| [start + at, COLUMNS.min(steps - at)])
        });
        let (blocks, total) = (blocks.collect::<Vec<_>>(), steps.iter().sum());
        // A block may begin at the last column.
        let width = columns + COLUMNS;
        let gathered = self.gathered(streams, x, activation, &starts, [columns, width]);
        self.multiply(&gathered, width, &blocks, total, add, y);
        self.shape.keep(streams, x);
        lengths
    }

    /// Gathers all streams' inputs `[input, width]`, each after its history, and activates the columns in use.
    fn gathered(
        &self,
        streams: &[ConvStream],
        x: &[f32],
        activation: Option<Snake>,
        starts: &[usize],
        [columns, width]: [usize; 2],
    ) -> Vec<f32> {
        let mut gathered = vec![0.0; self.shape.input * width];
        let arch = Processor::best().arch;
        gathered.par_chunks_exact_mut(width).enumerate().for_each(|(channel, row)| {
            self.shape.gather(channel, streams, x, starts, row);
            if let Some(activation) = activation {
                activation.channel(arch, channel, &mut row[..columns]);
            }
        });
        gathered
    }

    /// Multiplies the blocks of columns; `steps` is the number of columns in all blocks.
    fn multiply(&self, x: &[f32], width: usize, blocks: &[[usize; 2]], steps: usize, add: bool, y: &mut [f32]) {
        let ConvShape { input, taps, dilation, stride, .. } = self.shape;
        let arch = Processor::best().arch;
        // The rows of one channel, or the channels of one group of rows, belong to one task.
        let sums: Vec<Vec<f32>> = self
            .weight
            .par_chunks_exact(input * taps * ROWS)
            .map(|weight| {
                let mut sums = vec![0.0; ROWS * steps];
                let mut at = 0;
                for [start, count] in blocks {
                    let block =
                        arch.dispatch(Block { x, width, weight: weight.as_chunks().0, taps, dilation, start: *start });
                    for (sums, block) in sums.chunks_exact_mut(steps).zip(&block) {
                        sums[at..at + count].copy_from_slice(&block[..*count]);
                    }
                    at += count;
                }
                sums
            })
            .collect();
        let row_of = |row: usize| &sums[row / ROWS][row % ROWS * steps..][..steps];
        y.par_chunks_exact_mut((steps * stride).max(1)).enumerate().for_each(|(channel, y)| {
            let bias = self.bias[channel];
            for place in 0..stride {
                let row = row_of(channel * stride + place);
                for (y, sum) in y[place..].iter_mut().step_by(stride).zip(row) {
                    *y = if add { *y + sum + bias } else { sum + bias };
                }
            }
        });
    }
}

/// Sums of four rows of weights for the columns from `start` on.
struct Block<'a> {
    /// `[input, width]`.
    x: &'a [f32],
    width: usize,
    /// `[input, taps]` of four rows.
    weight: &'a [[f32; ROWS]],
    taps: usize,
    dilation: usize,
    start: usize,
}

/// Vectors of columns whose sums stay in registers.
const VECTORS: usize = 2;

impl WithSimd for Block<'_> {
    type Output = [[f32; COLUMNS]; ROWS];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [[f32; COLUMNS]; ROWS] {
        let mut block = [[0.0; COLUMNS]; ROWS];
        let wide = VECTORS * S::F32_LANES;
        for first in (0..COLUMNS).step_by(wide) {
            let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
            let mut weight = self.weight.iter();
            for row in self.x.chunks_exact(self.width) {
                for tap in 0..self.taps {
                    let at = self.start + first + tap * self.dilation;
                    let (Some(x), Some(weight)) = (row.get(at..at + wide), weight.next()) else { continue };
                    let [x, y] = S::as_simd_f32s(x).0 else { continue };
                    for r in 0..ROWS {
                        let weight = simd.splat_f32s(weight[r]);
                        sums[r][0] = simd.mul_add_e_f32s(weight, *x, sums[r][0]);
                        sums[r][1] = simd.mul_add_e_f32s(weight, *y, sums[r][1]);
                    }
                }
            }
            for (block, sums) in block.iter_mut().zip(sums) {
                S::as_mut_simd_f32s(&mut block[first..first + wide]).0.copy_from_slice(&sums);
            }
        }
        block
    }
}

/// Packs the weights as `[rows / 4, input, taps, 4]`; padding rows are zero.
fn laid(values: &[f32], shape: ConvShape) -> Vec<f32> {
    let ConvShape { input, taps, .. } = shape;
    let rows = shape.rows();
    let mut weight = Vec::with_capacity(rows.next_multiple_of(ROWS) * input * taps);
    for first in (0..rows).step_by(ROWS) {
        for (channel, tap) in (0..input).flat_map(|channel| (0..taps).map(move |tap| (channel, tap))) {
            let of_row = |row| if row < rows { shape.at(values, row, channel, tap) } else { 0.0 };
            weight.extend((first..first + ROWS).map(of_row));
        }
    }
    weight
}
