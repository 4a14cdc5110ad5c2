//! Convolutions over time.

use burn::tensor::{Device, Tensor};
use gpu_kernels::{Convolution, ConvolutionKind, DepthwiseRun, Snake, reference};
use proptest::prelude::*;
use qwen3_omni_gpu_kernels as gpu_kernels;

use crate::{agree, cpu, floats, gpu, values};

type Convolve =
    fn(&Convolution, Tensor<3>, Option<Tensor<3>>, Option<Tensor<3>>, bool) -> (Tensor<3>, Option<Tensor<3>>);

/// A random convolution of some channels.
#[derive(Debug, Clone, Copy)]
struct Case {
    channels: [usize; 2],
    width: usize,
    kind: ConvolutionKind,
    activated: bool,
    seed: u64,
}

impl Case {
    fn on(&self, device: &Device) -> Convolution {
        let ([input, output], seed) = (self.channels, self.seed);
        let shape = match self.kind {
            ConvolutionKind::Causal { .. } => [output, input, self.width],
            ConvolutionKind::Transposed { .. } => [input, output, self.width],
        };
        let vector = |width: usize, at: u64| floats([width], seed + at, device);
        Convolution {
            weight: floats(shape, seed, device),
            bias: vector(output, 1),
            kind: self.kind,
            snake: self.activated.then(|| Snake { alpha: vector(input, 2), beta: vector(input, 3) }),
        }
    }

    fn x(&self, steps: usize, device: &Device) -> Tensor<3> {
        floats([1, self.channels[0], steps], self.seed + 4, device) * 2.0
    }

    /// A stream that comes in pieces: its outputs, and what is kept at its end, one behind the other. Outputs are added to others of
    /// their own shape if so asked.
    fn stream(&self, pieces: &[usize], added: bool, device: &Device, convolve: Convolve) -> Tensor<1> {
        let (conv, x) = (self.on(device), self.x(pieces.iter().sum(), device));
        let (mut past, mut start, mut outputs) = (None, 0, Vec::new());
        for length in pieces {
            let x = x.clone().narrow(2, start, *length);
            start += length;
            let residual = added.then(|| reference::convolve(&conv, x.clone(), past.clone(), None, false).0 * 0.5);
            let (y, kept) = convolve(&conv, x, past, residual, true);
            past = kept;
            outputs.push(y);
        }
        Tensor::cat(
            vec![Tensor::cat(outputs, 2).flatten(0, 2), past.map_or_else(|| conv.bias, |past| past.flatten(0, 2))],
            0,
        )
    }

    fn agrees(&self, pieces: &[usize], added: bool) {
        agree(
            |device| self.stream(pieces, added, device, gpu_kernels::convolve),
            |device| self.stream(pieces, added, device, reference::convolve),
        );
        let whole = [pieces.iter().sum()];
        let [apart, together] =
            [pieces, &whole].map(|pieces| self.stream(pieces, false, &gpu(), gpu_kernels::convolve));
        assert_eq!(values(&apart), values(&together), "in pieces {pieces:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn causal_convolutions(
        input in 1usize..40, output in 1usize..70, width in 1usize..8, dilation in 1usize..10,
        activated: bool, added: bool, pieces in prop::collection::vec(1usize..80, 1..4), seed in 0u64..1000,
    ) {
        let kind = ConvolutionKind::Causal { dilation };
        Case { channels: [input, output], width, kind, activated, seed }.agrees(&pieces, added);
    }

    #[test]
    fn transposed_convolutions(
        input in 1usize..40, output in 1usize..20, stride in 1usize..9, overlaps: bool,
        activated: bool, added: bool, first in 2usize..40, rest in prop::collection::vec(1usize..40, 0..3), seed in 0u64..1000,
    ) {
        // A first piece of one input has no outputs where they overlap.
        let pieces: Vec<usize> = std::iter::once(first).chain(rest).collect();
        let (kind, width) = (ConvolutionKind::Transposed { stride }, stride << u32::from(overlaps));
        Case { channels: [input, output], width, kind, activated, seed }.agrees(&pieces, added);
    }

    #[test]
    fn depthwise_convolutions(
        channels in 1usize..70, width in 1usize..9, pieces in prop::collection::vec(1usize..20, 1..4), runs in 1usize..4,
        seed in 0u64..1000,
    ) {
        type Depthwise = fn(Tensor<2>, Tensor<3>, Tensor<1>, Vec<DepthwiseRun>) -> (Tensor<2>, Vec<Option<Tensor<3>>>);
        // Streams of one length, piece by piece; then what is kept of each.
        let run = |pieces: &[usize], device: &Device, depthwise: Depthwise| {
            let all: usize = pieces.iter().sum();
            let streams = floats([runs, all, channels], seed, device);
            let (weight, bias) = (floats([channels, 1, width], seed + 1, device), floats([channels], seed + 2, device));
            let (mut pasts, mut start, mut outputs) = (vec![None; runs], 0, Vec::new());
            for rows in pieces {
                let x = streams.clone().narrow(1, start, *rows).reshape([runs * rows, channels]);
                start += rows;
                let step = std::mem::take(&mut pasts).into_iter().map(|past| DepthwiseRun { past, rows: *rows, keeps: true });
                let (y, kept) = depthwise(x, weight.clone(), bias.clone(), step.collect());
                outputs.push(y.reshape([runs, *rows, channels]));
                pasts = kept;
            }
            let kept = pasts.into_iter().flatten().map(|past| past.flatten(0, 2));
            Tensor::cat(std::iter::once(Tensor::cat(outputs, 1).flatten(0, 2)).chain(kept).collect::<Vec<Tensor<1>>>(), 0)
        };
        agree(|device| run(&pieces, device, gpu_kernels::depthwise), |device| run(&pieces, device, reference::depthwise));
        let whole = [pieces.iter().sum()];
        let [apart, together] = [&pieces[..], &whole].map(|pieces| run(pieces, &gpu(), gpu_kernels::depthwise));
        prop_assert_eq!(values(&apart), values(&together));
    }

    #[test]
    fn upsampled_rows(rows in 1usize..40, input in 1usize..70, output in 1usize..70, factor in 1usize..5, seed in 0u64..1000) {
        let inputs = |device: &Device| {
            let weight = floats([input, output, factor], seed + 1, device);
            (floats([rows, input], seed, device), weight, floats([output], seed + 2, device))
        };
        agree(
            |device| { let (x, weight, bias) = inputs(device); gpu_kernels::upsample(x, weight, bias) },
            |device| { let (x, weight, bias) = inputs(device); reference::upsample(x, weight, bias) },
        );
    }
}

/// Many channels are shared among more units, few steps among fewer.
#[test]
fn wide_convolutions() {
    let causal = |dilation| ConvolutionKind::Causal { dilation };
    let case = |channels, width, kind| Case { channels, width, kind, activated: true, seed: 7 };
    case([400, 40], 7, causal(9)).agrees(&[1, 4, 32], true);
    case([400, 1], 7, causal(1)).agrees(&[130, 2], false);
    case([400, 12], 16, ConvolutionKind::Transposed { stride: 8 }).agrees(&[4, 3], false);
    case([384, 40], 1, causal(1)).agrees(&[3, 40], true);
}

/// A transposed signal, as rows of steps are, and a part of a longer one.
#[test]
fn a_signal_is_read_where_it_lies() {
    let case =
        Case { channels: [128, 30], width: 3, kind: ConvolutionKind::Causal { dilation: 2 }, activated: true, seed: 1 };
    let run = |device: &Device, convolve: Convolve| {
        let x = case.x(70, device).swap_dims(1, 2).reshape([70, 128]); // [T, C]
        // Offset by a multiple of 512 bytes: burn keeps an aligned slice as a view instead of copying it.
        let x = x.narrow(0, 64, 5).transpose().unsqueeze::<3>();
        convolve(&case.on(device), x, None, None, false).0
    };
    agree(|device| run(device, gpu_kernels::convolve), |device| run(device, reference::convolve));
}

#[test]
fn gradients_reach_the_activation() {
    let case =
        Case { channels: [3, 2], width: 3, kind: ConvolutionKind::Causal { dilation: 2 }, activated: true, seed: 1 };
    let gradients = |device: Device| {
        let mut conv = case.on(&device);
        let snake = conv.snake.as_mut().unwrap();
        snake.alpha = snake.alpha.clone().require_grad();
        let alpha = snake.alpha.clone();
        let y = gpu_kernels::convolve(&conv, case.x(9, &device), None, None, false).0;
        alpha.grad(&y.square().sum().backward()).unwrap()
    };
    agree(|_| gradients(gpu().autodiff()), |_| gradients(cpu().autodiff()));
}
