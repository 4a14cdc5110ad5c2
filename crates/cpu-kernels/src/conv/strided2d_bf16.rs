//! Strided convolutions over pictures with bf16 operands: a 3 × 3 kernel, stride 2, zero padding of 1, and exact GELU behind it.
//!
//! A convolution is the sum of one GEMM per tap. The channels of a pixel lie side by side, the pixels in four planes, by even and
//! odd rows and columns: within a plane a stride of 2 becomes 1, so that a tap is a shift and nothing is copied for it.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_imports, unused_variables))] // Only x86-64 has code here.
#![allow(unsafe_code)] // Raw bf16 operands, and tasks that write disjoint pixels of the same picture.

use rayon::prelude::*;

use crate::activation::exact;
use crate::buffer::{DisjointCols, aligned, size, total};
#[cfg(target_arch = "x86_64")]
use crate::gemm::{Block, PairColumns, Shift, Tiles, WeightRows, block, round_pairs};
use crate::gemm::{SIDE, join};
#[cfg(target_arch = "x86_64")]
use crate::simd::Bf16Instructions;
use crate::simd::Processor;

/// Taps of the kernel.
const TAPS: usize = 9;
/// Most pixels of the output that one task computes: their inputs stay in the L2 cache.
const PIXELS: usize = 288;

/// Pictures of one size in the layout that [`Bf16Conv2d`] reads. The buffer is reused by the next pictures.
#[derive(Debug, Default)]
pub struct Planes {
    pictures: usize,
    channels: usize,
    size: [usize; 2],
    values: Vec<f32>,
}

/// Positions of a picture's pixels in the planes.
#[derive(Clone, Copy)]
struct Geometry {
    /// Rows and columns of the output.
    out: [usize; 2],
    /// Pixels of a plane's row, which begins with a column of zeros.
    row: usize,
    /// Pixels of a plane, including what is read beyond its end.
    plane: usize,
}

impl Geometry {
    /// # Panics
    /// If the size overflows.
    fn new(picture: [usize; 2]) -> Self {
        let out = picture.map(|n| n.div_ceil(2));
        let row = out[1] + 1;
        // Checked with room for rounding up.
        size([out[0] + 3, row, 128]);
        let plane = (out[0] * row).next_multiple_of(32) + row + 1;
        Self { out, row, plane }
    }

    /// Pixels of all planes.
    fn pixels(&self) -> usize {
        4 * self.plane
    }

    fn pixel(&self, y: usize, x: usize) -> usize {
        (2 * (y % 2) + x % 2) * self.plane + (y / 2 + 1) * self.row + x / 2 + 1
    }

    /// Offset of each tap's pixel from the output's position. The last column of a row of outputs is padding.
    fn shifts(&self) -> [usize; TAPS] {
        std::array::from_fn(|tap| {
            let ([odd_y, odd_x], [past_y, past_x]) =
                ([tap / 3, tap % 3].map(|at| at != 1), [tap / 3, tap % 3].map(|at| at > 0));
            let plane = 2 * usize::from(odd_y) + usize::from(odd_x);
            plane * self.plane + usize::from(past_y) * self.row + usize::from(past_x)
        })
    }
}

impl Planes {
    /// Makes room for `pictures` pictures of `channels` channels and size `[height, width]`.
    ///
    /// # Panics
    /// If the size overflows.
    pub fn shape(&mut self, pictures: usize, channels: usize, size_of_picture: [usize; 2]) {
        let shape = Self { pictures, channels, size: size_of_picture, values: Vec::new() };
        let (former, needed) = ((self.channels, self.size), shape.length());
        // The zeros around the pixels are written once.
        if former != (channels, size_of_picture) || self.values.len() < total([needed, 16]) {
            // Until there is room, these are no pictures.
            *self = Self { values: std::mem::take(&mut self.values), ..Self::default() };
            self.values.clear();
            aligned(&mut self.values, needed);
        }
        *self = Self { values: std::mem::take(&mut self.values), ..shape };
    }

    /// Sets the pixels of a one-channel picture.
    ///
    /// # Panics
    /// If there is no such picture, or it has more channels.
    pub fn set(&mut self, picture: usize, pixel: impl Fn(usize, usize) -> f32) {
        assert!(self.channels == 1 && picture < self.pictures, "a picture of one channel");
        let ([height, width], geometry, of_picture) = (self.size, Geometry::new(self.size), self.of_picture());
        let pixels = &mut self.pairs()[picture * of_picture..][..of_picture];
        let pixels = pixels.as_chunks_mut::<{ SIDE / 2 }>().0;
        for y in 0..height {
            (0..width).for_each(|x| pixels[geometry.pixel(y, x)][0] = join(pixel(y, x), 0.0));
        }
    }

    /// Pairs of channels per pixel.
    fn of_pixel(&self) -> usize {
        total([self.channels, SIDE - 1]) / SIDE * (SIDE / 2)
    }

    /// Pairs of channels per picture.
    fn of_picture(&self) -> usize {
        size([Geometry::new(self.size).pixels(), self.of_pixel()])
    }

    /// Pairs of channels in all pictures.
    fn length(&self) -> usize {
        size([self.pictures, self.of_picture()])
    }

    /// All pairs of channels `[pictures, pixels, pairs of channels]`.
    fn pairs(&mut self) -> &mut [f32] {
        let length = self.length();
        aligned(&mut self.values, length)
    }
}

/// A convolution with a 3 × 3 kernel, stride 2, zero padding of 1, and exact GELU behind it, with bf16 operands.
#[derive(Debug, Clone)]
pub struct Bf16Conv2d {
    /// Detected when this was made.
    instructions: Bf16Instructions,
    /// Pairs of input channels `[output / 16, taps, input / 2, 16]`; outputs and inputs are padded to multiples of 32.
    weight: Vec<f32>,
    /// Padded like the outputs.
    bias: Vec<f32>,
    input: usize,
    output: usize,
}

#[cfg(not(target_arch = "x86_64"))]
type Bf16Instructions = std::convert::Infallible;

impl Bf16Conv2d {
    /// Packs a weight `[output, input, 3, 3]`; `None` on a processor without the instructions.
    ///
    /// # Panics
    /// If the lengths do not agree, or there are no channels.
    pub fn new(weight: &[f32], bias: &[f32], channels: [usize; 2]) -> Option<Self> {
        Self::new_on(Processor::best(), weight, bias, channels)
    }

    fn new_on(processor: Processor, weight: &[f32], bias: &[f32], [output, input]: [usize; 2]) -> Option<Self> {
        let length = size([output, input, TAPS]);
        assert!(weight.len() == length && bias.len() == output, "weight [output, input, 3, 3], bias");
        assert!(length > 0, "a convolution of {input} channels into {output}");
        #[cfg(target_arch = "x86_64")]
        let instructions = processor.bf16?;
        #[cfg(not(target_arch = "x86_64"))]
        let instructions = None?;
        let (pairs, outputs) = (input.next_multiple_of(SIDE) / 2, output.next_multiple_of(SIDE));
        let at = |row: usize, tap: usize, channel: usize| match row < output && channel < input {
            true => weight[(row * input + channel) * TAPS + tap],
            false => 0.0,
        };
        let mut values = Vec::with_capacity(outputs * TAPS * pairs);
        for first in (0..outputs).step_by(SIDE / 2) {
            for (tap, pair) in (0..TAPS).flat_map(|tap| (0..pairs).map(move |pair| (tap, pair))) {
                let of_row = |row| join(at(row, tap, 2 * pair), at(row, tap, 2 * pair + 1));
                values.extend((first..first + SIDE / 2).map(of_row));
            }
        }
        let mut padded = bias.to_vec();
        padded.resize(outputs, 0.0);
        Some(Self { instructions, weight: values, bias: padded, input, output })
    }

    /// Channels `[input, output]`.
    pub fn channels(&self) -> [usize; 2] {
        [self.input, self.output]
    }

    /// Convolves all pictures into the pictures `y`.
    ///
    /// # Panics
    /// If the pictures have another number of channels.
    pub fn pictures(&self, x: &mut Planes, y: &mut Planes) {
        let geometry = Geometry::new(x.size);
        y.shape(x.pictures, self.output, geometry.out);
        let to = Geometry::new(geometry.out);
        let places = places(geometry, |y, x| to.pixel(y, x));
        let of_pixel = y.of_pixel();
        let out = DisjointCols::new(y.pairs(), of_pixel);
        self.run(x, |picture, channel, first, values| {
            for (values, place) in values.iter().zip(&places[first..]) {
                let Some(place) = place else { continue };
                let (row, channels) = (picture * to.pixels() + place, channel / 2..(channel + SIDE) / 2);
                // SAFETY: these channels of a pixel are one task's alone, and the piece is dropped at once. All features that the
                // bf16 kernels are compiled with were found, or there would be no `Bf16Conv2d`.
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    round_pairs(values, out.piece(row, channels));
                }
            }
        });
    }

    /// Convolves all pictures into rows `[pictures, columns, channels, rows of pixels]`.
    ///
    /// # Panics
    /// If the pictures have another number of channels.
    pub fn columns(&self, x: &mut Planes, y: &mut Vec<f32>) {
        let geometry = Geometry::new(x.size);
        let [height, width] = geometry.out;
        let row = size([self.output, height]);
        y.resize(size([x.pictures, width, row]), 0.0);
        let places = places(geometry, |y, x| x * row + y);
        let out = DisjointCols::new(y, width * row);
        self.run(x, |picture, channel, first, values| {
            for (values, place) in values.iter().zip(&places[first..]) {
                let Some(place) = place else { continue };
                for (channel, value) in (channel..self.output).zip(values) {
                    // SAFETY: a channel of a pixel is one task's alone; nothing else holds it.
                    unsafe { out.set(picture, place + channel * height, *value) };
                }
            }
        });
    }

    /// Calls `emit(picture, first channel, first pixel, values)` for every 32 pixels and 32 channels of the output; a row has one
    /// more pixel than the picture.
    ///
    /// # Panics
    /// If the pictures have another number of channels.
    fn run(&self, x: &mut Planes, emit: impl Fn(usize, usize, usize, &[[f32; SIDE]; SIDE]) + Sync) {
        assert_eq!(x.channels, self.input, "channels");
        let geometry = Geometry::new(x.size);
        let pixels = geometry.out[0] * geometry.row;
        let (of_picture, pictures, pieces) = (x.of_picture(), x.pictures, pixels.div_ceil(PIXELS));
        let values = &*x.pairs();
        #[cfg(target_arch = "x86_64")]
        (0..pictures * pieces).into_par_iter().for_each(|task| {
            let (picture, piece) = (task / pieces, task % pieces);
            let values = &values[picture * of_picture..][..of_picture];
            let range = piece * PIXELS..pixels.min((piece + 1) * PIXELS);
            let emit = |channel, at, values: &_| emit(picture, channel, at, values);
            // SAFETY: all features that the bf16 kernels are compiled with were found, or there would be no
            // `Bf16Conv2d`.
            unsafe { self.piece(values, geometry, range, emit) };
        });
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn piece(
        &self,
        values: &[f32],
        geometry: Geometry,
        pixels: std::ops::Range<usize>,
        emit: impl Fn(usize, usize, &[[f32; SIDE]; SIDE]),
    ) {
        let pairs = self.input.next_multiple_of(SIDE) / 2;
        let behind = geometry.shifts();
        let shifts: [Shift; TAPS] =
            std::array::from_fn(|tap| Shift { rows: 2 * behind[tap] * pairs, columns: tap * pairs * (SIDE / 2) });
        let of_tile = TAPS * pairs * (SIDE / 2);
        let last = pixels.end.next_multiple_of(SIDE) + behind.into_iter().max().unwrap_or(0);
        assert!(last <= geometry.pixels() && values.len() == geometry.pixels() * pairs, "pixels {pixels:?}");
        assert!(pixels.start.is_multiple_of(SIDE), "pixels {pixels:?}");
        let tiles = Tiles::new(self.instructions);
        let mut results = Block([0.0; SIDE * SIDE]);
        for first in (0..self.output).step_by(SIDE) {
            let at = self.weight[first / (SIDE / 2) * of_tile..][..2 * of_tile].as_ptr().cast();
            let bias: &[f32; SIDE] = self.bias[first..].first_chunk().expect("the bias is padded");
            let steps = pairs / (SIDE / 2);
            let columns = PairColumns { at, stride: SIDE / 2, second: of_tile, shifts: &shifts, steps };
            for pixel in pixels.clone().step_by(SIDE) {
                let rows = WeightRows::new(values[pixel * pairs..].as_ptr().cast(), 2 * pairs);
                // SAFETY: two tiles of weights of all taps were just taken. The picture goes on as far as its taps read for pixels
                // rounded up to 32 (asserted above), and all channels of a pixel, `2 * pairs`, are read.
                unsafe { block(&tiles, rows, columns, &mut results) };
                let pixels = results.0.as_chunks_mut::<SIDE>().0;
                pixels.iter_mut().for_each(|pixel| (0..SIDE).for_each(|at| pixel[at] += bias[at]));
                pixels.as_flattened_mut().iter_mut().for_each(|value| *value = exact::<true>(*value));
                emit(first, pixel, pixels.first_chunk().expect("32 pixels"));
            }
        }
    }
}

/// Where each pixel of the output goes, for pixels rounded up to 32; `None` for padding.
fn places(geometry: Geometry, place: impl Fn(usize, usize) -> usize) -> Vec<Option<usize>> {
    let [height, width] = geometry.out;
    let pixels = (0..(height * geometry.row).next_multiple_of(32)).map(|at| (at / geometry.row, at % geometry.row));
    pixels.map(|(y, x)| (y < height && x < width).then(|| place(y, x))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;
    use crate::simd::tests::cases;
    use crate::simd::{narrow, widen};
    use proptest::prelude::*;

    /// `[channels, height, width]` → `[output, height / 2, width / 2]` in f64, from operands rounded to bf16.
    fn reference(x: &[f64], [input, height, width]: [usize; 3], weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let (out_height, out_width) = (height.div_ceil(2), width.div_ceil(2));
        let mut y = Vec::new();
        for (output, bias) in bias.iter().enumerate() {
            for at in 0..out_height * out_width {
                let (row, column) = (2 * (at / out_width), 2 * (at % out_width));
                let mut sum = f64::from(*bias);
                for (channel, tap) in (0..input).flat_map(|channel| (0..TAPS).map(move |tap| (channel, tap))) {
                    let (row, column) = (row + tap / 3, column + tap % 3);
                    if (1..=height).contains(&row) && (1..=width).contains(&column) {
                        let w = widen(narrow(weight[(output * input + channel) * TAPS + tap]));
                        sum += f64::from(w) * x[(channel * height + row - 1) * width + column - 1];
                    }
                }
                let mut gelu = [sum as f32];
                crate::gelu(&mut gelu);
                y.push(f64::from(gelu[0]));
            }
        }
        y
    }

    fn rounded(x: f64) -> f64 {
        f64::from(widen(narrow(x as f32)))
    }

    proptest! {
        #![proptest_config(cases(32))]
        #[test]
        fn two_convolutions_are_right(
            height in 1..40usize, width in 1..40usize, inner in 1..70usize, output in 1..70usize, pictures in 1..3usize,
        ) {
            let numbers = |count, seed| -> Vec<f32> { numbers(count, seed) };
            let (w1, b1) = (numbers(inner * TAPS, 1), numbers(inner, 2));
            let (w2, b2) = (numbers(output * inner * TAPS, 3), numbers(output, 4));
            for processor in Processor::all() {
                let Some(conv1) = Bf16Conv2d::new_on(processor, &w1, &b1, [inner, 1]) else { continue };
                let conv2 = Bf16Conv2d::new_on(processor, &w2, &b2, [output, inner]).unwrap();
                let x = numbers(pictures * height * width, 5);
                let [mut a, mut b] = [Planes::default(), Planes::default()];
                // Contents left by a larger picture must not show.
                for size in [[height + 3, width + 1], [height, width]] {
                    a.shape(pictures, 1, size);
                    for picture in 0..pictures {
                        a.set(picture, |y, x_| x[(picture * height + y % height) * width + x_ % width]);
                    }
                    let mut y = Vec::new();
                    conv1.pictures(&mut a, &mut b);
                    conv2.columns(&mut b, &mut y);
                    if size != [height, width] {
                        continue;
                    }
                    let (h2, w2_) = (height.div_ceil(2), width.div_ceil(2));
                    let (h4, w4) = (h2.div_ceil(2), w2_.div_ceil(2));
                    for picture in 0..pictures {
                        let x: Vec<f64> =
                            x[picture * height * width..][..height * width].iter().map(|x| rounded(f64::from(*x))).collect();
                        let inside: Vec<f64> =
                            reference(&x, [1, height, width], &w1, &b1).into_iter().map(rounded).collect();
                        let expected = reference(&inside, [inner, h2, w2_], &w2, &b2);
                        let y = &y[picture * w4 * output * h4..][..w4 * output * h4];
                        for (at, expected) in expected.iter().enumerate() {
                            let (channel, row, column) = (at / (h4 * w4), at / w4 % h4, at % w4);
                            let found = f64::from(y[(column * output + channel) * h4 + row]);
                            // A sum that lies between two bf16 numbers may be rounded to either.
                            prop_assert!((found - expected).abs() < 0.02 + 0.01 * expected.abs(), "{found} instead of {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "are too large")]
    fn pictures_that_fit_no_memory_are_a_bug() {
        Planes::default().shape(usize::MAX / 8, 1, [8, 8]);
    }

    #[test]
    #[should_panic(expected = "are too large")]
    fn a_picture_whose_size_wraps_is_a_bug() {
        Planes::default().shape(1, 1, [usize::MAX, usize::MAX]);
    }

    #[test]
    fn pictures_that_were_refused_leave_none() {
        let mut planes = Planes::default();
        planes.shape(1, 1, [8, 8]);
        let refused = std::panic::AssertUnwindSafe(|| planes.shape(1 << 50, 1, [8, 8]));
        assert!(std::panic::catch_unwind(refused).is_err() && planes.pictures <= 1);
    }
}
