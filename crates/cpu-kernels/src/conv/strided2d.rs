//! A stack of three strided convolutions over pictures, in either precision.

use rayon::prelude::*;

use super::strided2d_bf16::{Bf16Conv2d, Planes};
use crate::buffer::size;
use crate::gemm::{Epilogue, LinearArgs, LinearShape, Precision, Weight};

/// Taps of the kernel over pictures.
pub(super) const TAPS: usize = 9;
/// Windows that are gathered at a time.
const WINDOWS: usize = 1024;

/// Three convolutions in sequence, each with a 3 × 3 kernel, stride 2, zero padding of 1, and exact GELU behind it.
#[derive(Debug, Clone)]
pub enum Conv2dStack {
    /// Both operands rounded to bf16.
    Bf16(Box<[Bf16Conv2d; 3]>),
    /// In f32.
    F32(Box<[DirectConv2d; 3]>),
}

/// One layer: weight `[output, input, 3, 3]`, bias `[output]`, and the channels `[output, input]`.
pub type Conv2dWeights<'a> = (&'a [f32], &'a [f32], [usize; 2]);

impl Conv2dStack {
    /// Creates the stack, with bf16 operands where that was asked for and the processor has the instructions.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn new(layers: [Conv2dWeights; 3], precision: Precision) -> Self {
        if precision == Precision::Bf16 {
            let half = layers.map(|(weight, bias, shape)| Bf16Conv2d::new(weight, bias, shape));
            if let [Some(a), Some(b), Some(c)] = half {
                return Conv2dStack::Bf16(Box::new([a, b, c]));
            }
        }
        Conv2dStack::F32(Box::new(layers.map(|(weight, bias, shape)| DirectConv2d::new(weight, bias, shape))))
    }

    /// Output channels of the last convolution.
    pub fn output(&self) -> usize {
        match self {
            Conv2dStack::Bf16(layers) => layers[2].channels()[1],
            Conv2dStack::F32(layers) => layers[2].output,
        }
    }

    /// Convolves one-channel pictures of one `size` `[height, width]` into `y` `[pictures, columns, channels, rows of pixels]`;
    /// `pixel(picture, row, column)` gives the input.
    pub fn columns(
        &self,
        (pictures, size): (usize, [usize; 2]),
        pixel: impl Fn(usize, usize, usize) -> f32,
        y: &mut Vec<f32>,
    ) {
        match self {
            Conv2dStack::Bf16(layers) => {
                let [conv1, conv2, conv3] = &**layers;
                let [mut first, mut second, mut third] = std::array::from_fn(|_| Planes::default());
                first.shape(pictures, 1, size);
                (0..pictures).for_each(|picture| first.set(picture, |row, column| pixel(picture, row, column)));
                conv1.pictures(&mut first, &mut second);
                conv2.pictures(&mut second, &mut third);
                conv3.columns(&mut third, y);
            }
            Conv2dStack::F32(layers) => {
                let [height, width] = size;
                let at = |(picture, place): (usize, usize)| pixel(picture, place / width, place % width);
                let places = (0..pictures).flat_map(|picture| (0..height * width).map(move |place| (picture, place)));
                let run = |(x, size): (Vec<f32>, [usize; 2]), layer: &DirectConv2d| layer.run(&x, pictures, size);
                let (x, size) = layers.iter().fold((places.map(at).collect(), size), run);
                columns(&x, size, layers[2].output, y);
            }
        }
    }
}

/// Reorders pictures `[pictures, height, width, channels]` into `y` `[pictures, columns, channels, rows of pixels]`.
pub(super) fn columns(x: &[f32], [height, width]: [usize; 2], channels: usize, y: &mut Vec<f32>) {
    y.resize(x.len(), 0.0);
    for (at, values) in x.chunks_exact(channels).enumerate() {
        let (picture, row, column) = (at / (height * width), at / width % height, at % width);
        let start = (picture * width + column) * channels * height + row;
        values.iter().enumerate().for_each(|(channel, value)| y[start + channel * height] = *value);
    }
}

/// A convolution with a 3 × 3 kernel, stride 2, zero padding of 1, and exact GELU behind it, in f32.
#[derive(Debug, Clone)]
pub struct DirectConv2d {
    /// `[output, 3, 3, input]`.
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) input: usize,
    pub(super) output: usize,
}

impl DirectConv2d {
    pub(super) fn new(weight: &[f32], bias: &[f32], [output, input]: [usize; 2]) -> Self {
        assert!(weight.len() == output * input * TAPS && bias.len() == output, "weight [output, input, 3, 3], bias");
        let channels = |row: usize, tap: usize| (0..input).map(move |c| weight[(row * input + c) * TAPS + tap]);
        let weight = (0..output).flat_map(|row| (0..TAPS).flat_map(move |tap| channels(row, tap))).collect();
        Self { weight, bias: bias.to_vec(), input, output }
    }

    /// Convolves `[pictures, height, width, input]` into `[pictures, height / 2, width / 2, output]`, halves rounded up.
    fn run(&self, x: &[f32], pictures: usize, size: [usize; 2]) -> (Vec<f32>, [usize; 2]) {
        let all = Windows2d { pictures, size, channels: self.input };
        let (depth, mut y) = (TAPS * self.input, vec![0.0; all.count() * self.output]);
        let mut windows = Vec::new();
        for (block, y) in y.chunks_mut(WINDOWS * self.output).enumerate() {
            let rows = y.len() / self.output;
            windows.clear();
            windows.resize(rows * depth, 0.0);
            all.gather(x, block * WINDOWS, &mut windows);
            let shape = LinearShape { rows, input: depth, output: self.output };
            let (weight, bias) = (Weight::F32(&self.weight), Some(&self.bias[..]));
            LinearArgs { weight, bias, shape, precision: Precision::F32, epilogue: Epilogue::Gelu }.apply(&windows, y);
        }
        (y, all.output_size())
    }

    /// Transposes the weight to `[3, 3, input, output]`.
    pub(super) fn transposed(&self) -> Vec<f32> {
        let depth = TAPS * self.input;
        (0..depth).flat_map(|at| self.weight[at..].iter().step_by(depth).copied()).collect()
    }
}

/// The windows of 3 × 3 pixels that a convolution with stride 2 and zero padding of 1 sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows2d {
    /// Number of pictures.
    pub(super) pictures: usize,
    /// Height and width of a picture.
    pub(super) size: [usize; 2],
    /// Values of a pixel.
    pub(super) channels: usize,
}

impl Windows2d {
    /// Height and width after the convolution: halves, rounded up.
    pub(super) fn output_size(&self) -> [usize; 2] {
        self.size.map(|side| side.div_ceil(2))
    }

    /// Windows of all pictures.
    pub(super) fn count(&self) -> usize {
        let [height, width] = self.output_size();
        size([self.pictures, height, width])
    }

    /// Gathers the windows `[count, 9 * channels]`, channels fastest, of pictures `[pictures, height, width, channels]`.
    ///
    /// # Panics
    /// If the pictures have other sizes.
    pub(super) fn forward(&self, x: &[f32]) -> Vec<f32> {
        self.check(x);
        let mut windows = vec![0.0; size([self.count(), TAPS, self.channels])];
        self.gather(x, 0, &mut windows);
        windows
    }

    /// Adds the gradient of each window to those of its pixels.
    ///
    /// # Panics
    /// If the windows have other sizes.
    pub(super) fn backward(&self, windows: &[f32]) -> Vec<f32> {
        let depth = TAPS * self.channels;
        assert_eq!(windows.len(), size([self.count(), depth]), "windows [count, 9 * channels]");
        let [height, width] = self.size;
        let mut x = vec![0.0; size([self.pictures, height, width, self.channels])];
        let of_picture = self.count() / self.pictures.max(1);
        x.par_chunks_exact_mut((height * width * self.channels).max(1)).enumerate().for_each(|(picture, x)| {
            let first = picture * of_picture;
            for (at, window) in windows[first * depth..][..of_picture * depth].chunks_exact(depth).enumerate() {
                for (pixel, values) in self.pixels(first + at).into_iter().zip(window.chunks_exact(self.channels)) {
                    let Some(pixel) = pixel else { continue };
                    let pixel = &mut x[(pixel - picture * height * width) * self.channels..][..self.channels];
                    pixel.iter_mut().zip(values).for_each(|(sum, x)| *sum += x);
                }
            }
        });
        x
    }

    fn check(&self, x: &[f32]) {
        let [height, width] = self.size;
        let expected = size([self.pictures, height, width, self.channels]);
        assert!(x.len() == expected && self.channels > 0, "x [pictures, height, width, channels]");
    }

    /// Gathers windows from the window `first` on; `windows` holds zeros.
    fn gather(&self, x: &[f32], first: usize, windows: &mut [f32]) {
        windows.par_chunks_exact_mut(TAPS * self.channels).enumerate().for_each(|(index, window)| {
            for (pixel, values) in self.pixels(first + index).into_iter().zip(window.chunks_exact_mut(self.channels)) {
                if let Some(pixel) = pixel {
                    values.copy_from_slice(&x[pixel * self.channels..][..self.channels]);
                }
            }
        });
    }

    /// The pixels of a window, tap by tap, counted over all pictures; `None` in the padding.
    #[inline(always)]
    fn pixels(&self, window: usize) -> [Option<usize>; TAPS] {
        let ([height, width], out) = (self.size, self.output_size());
        let (line, column) = (window / out[1], 2 * (window % out[1]));
        let (picture, row) = (line / out[0], 2 * (line % out[0]));
        std::array::from_fn(|tap| {
            // In the padded picture: its first row and column are zeros.
            let (row, column) = (row + tap / 3, column + tap % 3);
            let inside = (1..=height).contains(&row) && (1..=width).contains(&column);
            inside.then(|| (picture * height + row - 1) * width + column - 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;
    use proptest::prelude::*;

    proptest! {
        /// `Σ windows(x) · g = Σ x · backward(g)` for all `x` and `g`, as gathering is linear.
        #[test]
        fn gradients_of_windows_go_where_their_pixels_came_from(
            pictures in 1..3usize, size in [1..9usize, 1..9], channels in 1..4usize,
        ) {
            let windows = Windows2d { pictures, size, channels };
            let x = numbers(pictures * size[0] * size[1] * channels, 1);
            let y = windows.forward(&x);
            let g = numbers(y.len(), 2);
            let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let (found, expected) = (product(&x, &windows.backward(&g)), product(&y, &g));
            prop_assert!((found - expected).abs() < 1e-4 * (1.0 + expected.abs()), "{} {}", found, expected);
        }

        #[test]
        fn both_precisions_convolve_pictures_alike(pictures in 1..3usize, height in 1..20usize, width in 1..20usize) {
            let (channels, x) = (3, numbers(pictures * height * width, 1));
            let weights: Vec<[Vec<f32>; 2]> = [1, channels, channels]
                .map(|input| {
                    let scale = |values: Vec<f32>| values.iter().map(|x| x / 6.0).collect();
                    [scale(numbers(channels * input * TAPS, input)), scale(numbers(channels, 7))]
                })
                .into();
            let run = |precision| {
                let layer = |i: usize| {
                    let [weight, bias] = &weights[i];
                    (weight.as_slice(), bias.as_slice(), [channels, if i == 0 { 1 } else { channels }])
                };
                let stack = Conv2dStack::new([layer(0), layer(1), layer(2)], precision);
                let mut y = Vec::new();
                let pixel = |picture: usize, row: usize, column: usize| x[(picture * height + row) * width + column];
                stack.columns((pictures, [height, width]), pixel, &mut y);
                y
            };
            let (full, half) = (run(Precision::F32), run(Precision::Bf16));
            prop_assert_eq!(full.len(), half.len());
            for (a, b) in full.iter().zip(&half) {
                prop_assert!((a - b).abs() < 0.1, "{} {}", a, b);
            }
        }
    }
}
