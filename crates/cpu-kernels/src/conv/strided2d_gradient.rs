//! Gradients of the stack of strided convolutions, for training in f32.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::strided2d::{Conv2dWeights, DirectConv2d, TAPS, Windows2d, columns};
use crate::activation::gelu_on;
use crate::buffer::size;
use crate::gemm::{LinearShape, Precision, Weight, linear};
use crate::gradient::gelu_backward;
use crate::simd::Processor;

/// Pictures summed by one task: a fixed number, so that results do not depend on the number of threads.
const TOGETHER: usize = 8;
/// Size of a tile of the weight gradient that is summed in registers: rows, and vectors of columns.
const ROWS: usize = 4;
const VECTORS: usize = 2;
/// Windows summed at a time, so that a tile's columns stay in the L1 cache.
const WINDOWS: usize = 256;

/// What [`super::Conv2dStack`] computes in f32, with its gradients.
///
/// It works picture by picture: the windows of one fit in the cache, those of a batch take hundreds of megabytes. So the backward pass
/// gathers them again. Values before the activations are kept, because computing them again takes the convolutions' products.
#[derive(Debug, Clone)]
pub struct TrainedConv2dStack {
    layers: [DirectConv2d; 3],
}

/// Gradients of one layer.
#[derive(Debug, Clone)]
pub struct Conv2dGradients {
    /// `[output, input, 3, 3]`.
    pub weight: Vec<f32>,
    /// `[output]`.
    pub bias: Vec<f32>,
}

/// Gradients with respect to all that a stack is computed from.
#[derive(Debug, Clone)]
pub struct Conv2dStackGradients {
    /// Gradient of the pictures, `[pictures, height, width]`; empty unless it was asked for.
    pub x: Vec<f32>,
    /// Gradients of the three layers, first to last.
    pub layers: [Conv2dGradients; 3],
}

/// What the backward pass needs of one layer for one picture.
struct Seen<'a> {
    /// Geometry of the windows.
    windows: Windows2d,
    /// Windows of the input, `[count, 9 * input]`.
    gathered: Vec<f32>,
    /// Output before the activation, `[count, output]`.
    y: &'a [f32],
}

impl TrainedConv2dStack {
    /// Creates the stack.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn new(layers: [Conv2dWeights; 3]) -> Self {
        Self { layers: layers.map(|(weight, bias, shape)| DirectConv2d::new(weight, bias, shape)) }
    }

    /// Convolves pictures `[pictures, height, width]` into `[pictures, columns, channels, rows of pixels]`; the second result is kept
    /// for [`Self::backward`].
    ///
    /// # Panics
    /// If `x` is not whole pictures.
    pub fn forward(&self, x: &[f32], size: [usize; 2]) -> [Vec<f32>; 2] {
        let each: Vec<_> = pictures(x, size).map(|x| self.run(x, size)).collect();
        let (rows, kept): (Vec<_>, Vec<_>) = each.into_iter().unzip();
        [rows.concat(), kept.concat()]
    }

    /// Computes the gradients of all weights and biases from that of the output, and that of `x` if it is `wanted`.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn backward(
        &self,
        x: &[f32],
        size: [usize; 2],
        kept: &[f32],
        gradient: &[f32],
        wanted: bool,
    ) -> Conv2dStackGradients {
        let counts = self.counts(size);
        let (of_picture, of_kept) = (counts[2], counts.iter().sum());
        let pictures = pictures(x, size);
        assert_eq!(gradient.len(), pictures.len() * of_picture, "gradient [pictures, columns, channels, rows]");
        assert_eq!(kept.len(), pictures.len() * of_kept, "kept by the forward pass");
        let across = self.layers.each_ref().map(DirectConv2d::transposed);
        let groups = pictures.zip(kept.par_chunks_exact(of_kept)).zip(gradient.par_chunks_exact(of_picture));
        let groups = groups.chunks(TOGETHER).map(|group| {
            let (mut sums, mut of_x) = (self.layers.each_ref().map(Sums::new), Vec::new());
            for ((x, kept), gradient) in group {
                let seen = self.seen(x, size, kept);
                of_x.extend(self.picture(&across, &seen, gradient, &mut sums, wanted));
            }
            (sums, of_x)
        });
        // Added in the order of the pictures, so that the sum does not depend on which thread computed what.
        let (mut sums, mut of_x) = (self.layers.each_ref().map(Sums::new), Vec::new());
        for (group, of_pictures) in groups.collect::<Vec<_>>() {
            sums.iter_mut().zip(&group).for_each(|(sum, more)| sum.add(more));
            of_x.extend(of_pictures);
        }
        Conv2dStackGradients { x: of_x, layers: sums.map(Sums::finish) }
    }

    /// Windows of each layer over one picture.
    fn windows(&self, mut size: [usize; 2]) -> [Windows2d; 3] {
        self.layers.each_ref().map(|layer| {
            let windows = Windows2d { pictures: 1, size, channels: layer.input };
            size = windows.output_size();
            windows
        })
    }

    /// Number of values that each layer makes of one picture.
    fn counts(&self, size_of_picture: [usize; 2]) -> [usize; 3] {
        let windows = self.windows(size_of_picture);
        std::array::from_fn(|layer| size([windows[layer].count(), self.layers[layer].output]))
    }

    /// Convolves one picture; the values of all layers before their activations come with it.
    fn run(&self, x: &[f32], size: [usize; 2]) -> (Vec<f32>, Vec<f32>) {
        let (mut x, mut kept) = (x.to_vec(), Vec::new());
        for (layer, windows) in self.layers.iter().zip(self.windows(size)) {
            let shape = LinearShape { rows: windows.count(), input: TAPS * layer.input, output: layer.output };
            x = linear(&windows.forward(&x), Weight::F32(&layer.weight), Some(&layer.bias), shape, Precision::F32);
            kept.extend_from_slice(&x);
            gelu_on(Processor::best().arch, &mut x);
        }
        let (mut y, [_, _, windows]) = (Vec::new(), self.windows(size));
        columns(&x, windows.output_size(), self.layers[2].output, &mut y);
        (y, kept)
    }

    /// Adds one picture's weight and bias gradients to `sums`; returns the gradient of the picture if it is `wanted`. `across`
    /// are the transposed weights.
    fn picture(
        &self,
        across: &[Vec<f32>; 3],
        seen: &[Seen; 3],
        gradient: &[f32],
        sums: &mut [Sums; 3],
        wanted: bool,
    ) -> Vec<f32> {
        let ([height, width], channels) = (seen[2].windows.output_size(), self.layers[2].output);
        let mut of_y = vec![0.0; gradient.len()]; // [height, width, channels]
        for (at, pixel) in of_y.chunks_exact_mut(channels).enumerate() {
            let (row, column) = (at / width, at % width);
            let from = gradient[column * channels * height..][..channels * height].iter().skip(row).step_by(height);
            pixel.iter_mut().zip(from).for_each(|(y, x)| *y = *x);
        }
        for (index, (layer, seen)) in self.layers.iter().zip(seen).enumerate().rev() {
            let before = gelu_backward(seen.y, &of_y);
            sums[index].take(&before, &seen.gathered);
            if index == 0 && !wanted {
                return Vec::new();
            }
            let shape = LinearShape { rows: seen.windows.count(), input: layer.output, output: TAPS * layer.input };
            let of_windows = linear(&before, Weight::F32(&across[index]), None, shape, Precision::F32);
            of_y = seen.windows.backward(&of_windows);
        }
        of_y
    }

    /// What the backward pass over one picture needs, from what the forward pass `kept`.
    fn seen<'a>(&self, x: &[f32], size: [usize; 2], mut kept: &'a [f32]) -> [Seen<'a>; 3] {
        let (mut x, counts, mut windows) = (x.to_vec(), self.counts(size), self.windows(size).into_iter());
        counts.map(|count| {
            let windows = windows.next().expect("three layers");
            let (y, rest) = kept.split_at(count);
            kept = rest;
            let gathered = windows.forward(&x);
            x = y.to_vec();
            gelu_on(Processor::best().arch, &mut x);
            Seen { windows, gathered, y }
        })
    }
}

/// Splits `x` into pictures of the given height and width.
fn pictures(x: &[f32], size_of_picture: [usize; 2]) -> rayon::slice::ChunksExact<'_, f32> {
    let pixels = size(size_of_picture);
    assert!(pixels > 0 && x.len().is_multiple_of(pixels), "x [pictures, height, width]");
    x.par_chunks_exact(pixels)
}

/// Sums of the gradients of one layer.
struct Sums {
    /// `[output, 9 * input]`, as the layer's weight.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Sums {
    fn new(layer: &DirectConv2d) -> Self {
        Self { weight: vec![0.0; layer.weight.len()], bias: vec![0.0; layer.output] }
    }

    /// Adds the products of the gradients `[count, output]` and the windows `[count, depth]`.
    fn take(&mut self, gradient: &[f32], windows: &[f32]) {
        let (output, arch) = (self.bias.len(), Processor::best().arch);
        let depth = self.weight.len() / output;
        for (a, b) in gradient.chunks(WINDOWS * output).zip(windows.chunks(WINDOWS * depth)) {
            arch.dispatch(Outer { a, b, widths: [output, depth], sums: &mut self.weight });
        }
        for row in gradient.chunks_exact(output) {
            self.bias.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }

    fn add(&mut self, more: &Self) {
        for (sums, more) in [(&mut self.weight, &more.weight), (&mut self.bias, &more.bias)] {
            sums.iter_mut().zip(more).for_each(|(sum, x)| *sum += x);
        }
    }

    /// Reorders the weight gradient to the checkpoint's layout, taps last.
    fn finish(self) -> Conv2dGradients {
        let Self { weight, bias } = self;
        let depth = weight.len() / bias.len();
        let of_row = |row: &[f32]| -> Vec<f32> {
            (0..depth / TAPS).flat_map(|channel| row[channel..].iter().step_by(depth / TAPS).copied()).collect()
        };
        Conv2dGradients { weight: weight.chunks_exact(depth).flat_map(of_row).collect(), bias }
    }
}

/// `sums[i, j] += Σ a[row, i] · b[row, j]`.
struct Outer<'a> {
    a: &'a [f32],
    b: &'a [f32],
    widths: [usize; 2],
    sums: &'a mut [f32],
}

impl WithSimd for Outer<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { a, b, widths: [height, width], sums } = self;
        let step = VECTORS * S::F32_LANES;
        for start in (0..width).step_by(step) {
            let columns = step.min(width - start);
            for first in (0..height).step_by(ROWS) {
                // Rows past the end repeat the last one and are not stored.
                let rows: [usize; ROWS] = std::array::from_fn(|row| (first + row).min(height - 1));
                let tile = tile(simd, [a, b], [height, width], rows, start..start + columns);
                for (row, tile) in (first..height.min(first + ROWS)).zip(tile) {
                    let sums = &mut sums[row * width + start..][..columns];
                    for (sums, more) in sums.chunks_mut(S::F32_LANES).zip(tile) {
                        let sum = simd.add_f32s(simd.partial_load_f32s(sums), more);
                        simd.partial_store_f32s(sums, sum);
                    }
                }
            }
        }
    }
}

/// Sums of the products of `rows` of `a` with at most [`VECTORS`] vectors of `columns` of `b`.
#[inline(always)]
fn tile<S: Simd>(
    simd: S,
    [a, b]: [&[f32]; 2],
    [height, width]: [usize; 2],
    rows: [usize; ROWS],
    columns: std::ops::Range<usize>,
) -> [[S::f32s; VECTORS]; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    let whole = columns.len() == VECTORS * S::F32_LANES;
    for (a, b) in a.chunks_exact(height).zip(b.chunks_exact(width)) {
        let b = &b[columns.clone()];
        let vectors = match (whole, S::as_simd_f32s(b).0) {
            (true, [first, second]) => [*first, *second],
            _ => {
                let (first, second) = b.split_at(b.len().min(S::F32_LANES));
                [simd.partial_load_f32s(first), simd.partial_load_f32s(second)]
            }
        };
        for (sums, row) in sums.iter_mut().zip(rows) {
            let x = simd.splat_f32s(a[row]);
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = simd.mul_add_e_f32s(x, vector, *sum);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::Conv2dStack;
    use crate::gemm::tests::numbers;
    use proptest::prelude::*;

    struct Values {
        x: Vec<f32>,
        layers: [(Vec<f32>, Vec<f32>); 3],
    }

    impl Values {
        fn new(pictures: usize, [height, width]: [usize; 2], channels: usize) -> Self {
            let smaller = |values: Vec<f32>| values.iter().map(|x| x / 3.0).collect::<Vec<_>>();
            let layer = |index: usize| {
                let weight = numbers(channels * inputs(index, channels) * TAPS, index + 2);
                (smaller(weight), numbers(channels, index + 5))
            };
            Self { x: numbers(pictures * height * width, 1), layers: [layer(0), layer(1), layer(2)] }
        }

        fn lent(&self, channels: usize) -> [Conv2dWeights<'_>; 3] {
            let layer = |index: usize| {
                let (weight, bias) = &self.layers[index];
                (&weight[..], &bias[..], [channels, inputs(index, channels)])
            };
            [layer(0), layer(1), layer(2)]
        }

        /// All values, one after the other.
        fn each(&mut self) -> Vec<&mut Vec<f32>> {
            let layers = self.layers.iter_mut().flat_map(|(weight, bias)| [weight, bias]);
            std::iter::once(&mut self.x).chain(layers).collect()
        }
    }

    fn inputs(index: usize, channels: usize) -> usize {
        if index == 0 { 1 } else { channels }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn gradients_of_a_stack_are_its_slopes(
            pictures in 1..4usize, size in [1..12usize, 1..12], channels in 1..6usize,
        ) {
            let mut values = Values::new(pictures, size, channels);
            let both = |values: &Values| TrainedConv2dStack::new(values.lent(channels)).forward(&values.x, size);
            let y = |values: &Values| both(values)[0].clone();
            let g = numbers(y(&values).len(), 9);
            let sum = |values: &Values| y(values).iter().zip(&g).map(|(y, g)| f64::from(y * g)).sum::<f64>();
            let [_, kept] = both(&values);
            let found = TrainedConv2dStack::new(values.lent(channels)).backward(&values.x, size, &kept, &g, true);
            let found: Vec<Vec<f32>> = std::iter::once(found.x)
                .chain(found.layers.into_iter().flat_map(|layer| [layer.weight, layer.bias]))
                .collect();
            let mut pairs = Vec::new();
            for (part, found) in found.iter().enumerate() {
                prop_assert_eq!(found.len(), values.each()[part].len());
                for (at, found) in found.iter().enumerate() {
                    let mut moved = |step: f32| {
                        values.each()[part][at] += step;
                        let sum = sum(&values);
                        values.each()[part][at] -= step;
                        sum
                    };
                    let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                    pairs.push((f64::from(*found), slope));
                }
            }
            let largest = pairs.iter().map(|(_, slope)| slope.abs()).fold(1.0, f64::max);
            for (found, slope) in pairs {
                prop_assert!((found - slope).abs() < 5e-3 * largest, "{} instead of {}", found, slope);
            }
        }

        #[test]
        fn a_trained_stack_is_the_one_that_answers(pictures in 1..4usize, size in [1..20usize, 1..20], channels in 1..5usize) {
            let values = Values::new(pictures, size, channels);
            let [found, _] = TrainedConv2dStack::new(values.lent(channels)).forward(&values.x, size);
            let mut expected = Vec::new();
            let pixel = |picture: usize, row: usize, column: usize| values.x[(picture * size[0] + row) * size[1] + column];
            Conv2dStack::new(values.lent(channels), Precision::F32).columns((pictures, size), pixel, &mut expected);
            prop_assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                prop_assert!((found - expected).abs() < 1e-5, "{} {}", found, expected);
            }
        }

        #[test]
        fn sums_of_products_take_every_row_and_column(count in 1..40usize, height in 1..11usize, width in 1..70usize) {
            let (a, b) = (numbers(count * height, 1), numbers(count * width, 2));
            let before = numbers(height * width, 3);
            let expected: Vec<f64> = (0..height * width)
                .map(|at| {
                    let products = (0..count).map(|row| a[row * height + at / width] * b[row * width + at % width]);
                    f64::from(before[at]) + products.map(f64::from).sum::<f64>()
                })
                .collect();
            for processor in Processor::all() {
                let mut sums = before.clone();
                processor.arch.dispatch(Outer { a: &a, b: &b, widths: [height, width], sums: &mut sums });
                for (sum, expected) in sums.iter().zip(&expected) {
                    prop_assert!((f64::from(*sum) - expected).abs() < 1e-4 * (1.0 + expected.abs()), "{} {}", sum, expected);
                }
            }
        }
    }

    #[test]
    fn gradients_of_many_pictures_are_those_of_each() {
        let (size, channels, pictures) = ([9, 14], 3, 2 * TOGETHER + 3);
        let values = Values::new(pictures, size, channels);
        let stack = TrainedConv2dStack::new(values.lent(channels));
        let [y, kept] = stack.forward(&values.x, size);
        let g = numbers(y.len(), 4);
        let all = stack.backward(&values.x, size, &kept, &g, false);
        assert!(all.x.is_empty());
        let (pixels, of_picture) = (size[0] * size[1], g.len() / pictures);
        let each = values.x.chunks_exact(pixels).zip(g.chunks_exact(of_picture));
        let each = each.zip(kept.chunks_exact(kept.len() / pictures));
        let each: Vec<_> = each.map(|((x, g), kept)| stack.backward(x, size, kept, g, false)).collect();
        for layer in 0..3 {
            for (at, found) in all.layers[layer].weight.iter().enumerate() {
                let expected: f32 = each.iter().map(|one| one.layers[layer].weight[at]).sum();
                assert!(
                    (found - expected).abs() < 1e-3 * (1.0 + expected.abs()),
                    "layer {layer}, {at}: {found} {expected}"
                );
            }
        }
    }
}
