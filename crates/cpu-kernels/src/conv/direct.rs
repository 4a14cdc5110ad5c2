//! Convolutions along time in f32 by direct sums, on every processor.

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
        let ConvShape { input, taps, stride, .. } = self.shape;
        let arch = Processor::best().arch;
        // The rows of one channel, or the channels of one group of rows, belong to one task.
        let sums: Vec<Vec<f32>> = self
            .weight
            .par_chunks_exact(input * taps * ROWS)
            .map(|weight| {
                let mut sums = vec![0.0; ROWS * steps];
                let mut at = 0;
                for [start, count] in blocks {
                    let block = arch.dispatch(|| self.block(x, width, weight, *start));
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

    /// Sums of four rows of weights for the columns from `start` on.
    #[inline(always)]
    fn block(&self, x: &[f32], width: usize, weight: &[f32], start: usize) -> [[f32; COLUMNS]; ROWS] {
        let mut sums = [[0.0; COLUMNS]; ROWS];
        let mut weight = weight.as_chunks::<ROWS>().0.iter();
        for row in x.chunks_exact(width) {
            for tap in 0..self.shape.taps {
                let at = start + tap * self.shape.dilation;
                let (Some(x), Some(weight)) = (row.get(at..).and_then(<[f32]>::first_chunk::<COLUMNS>), weight.next())
                else {
                    continue;
                };
                for r in 0..ROWS {
                    for c in 0..COLUMNS {
                        sums[r][c] += weight[r] * x[c];
                    }
                }
            }
        }
        sums
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
