#[cfg(cube)]
mod kernel;

use burn::tensor::module::{conv_transpose1d, conv1d};
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
use burn::tensor::{Device, Tensor};

/// Snake activation `x + sin²(x·e^α) / (e^β + 1e-9)` with a frequency and an amplitude of each channel, given by their logarithms.
#[derive(Debug, Clone)]
pub struct Snake {
    /// `[C]`: logarithm of the frequency.
    pub alpha: Tensor<1>,
    /// `[C]`: logarithm of the inverse amplitude.
    pub beta: Tensor<1>,
}

impl Snake {
    /// Keeps the amplitude finite.
    pub const AMPLITUDE_EPS: f32 = 1e-9;

    /// Applies the activation in plain operations.
    ///
    /// # Shapes
    /// `[1, C, T]` → `[1, C, T]`.
    pub fn apply(&self, x: Tensor<3>) -> Tensor<3> {
        let channels = self.alpha.dims()[0];
        let frequency = self.alpha.clone().exp().reshape([1, channels, 1]);
        let amplitude = (self.beta.clone().exp() + Self::AMPLITUDE_EPS).recip().reshape([1, channels, 1]);
        x.clone() + (x * frequency).sin().square() * amplitude
    }
}

/// The kind of a causal convolution over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConvolutionKind {
    /// An output for each input, which sees the inputs before it.
    Causal {
        /// Inputs from one tap to the next.
        dilation: usize,
    },
    /// `stride` outputs for each input, by a kernel as wide as the stride or twice as wide. The wider one overlaps: its outputs need the
    /// input before as well, so a stream's first input gives none.
    Transposed {
        /// Outputs of an input.
        stride: usize,
    },
}

/// A causal convolution over time, of the activated input if there is an activation.
#[derive(Debug, Clone)]
pub struct Convolution {
    /// `[out, in, K]`, for a transposed convolution `[in, out, K]`.
    pub weight: Tensor<3>,
    /// `[out]`.
    pub bias: Tensor<1>,
    /// Its kind.
    pub kind: ConvolutionKind,
    /// Activation of the input.
    pub snake: Option<Snake>,
}

impl Convolution {
    /// Number of inputs before a step that its outputs need.
    pub fn past(&self) -> usize {
        let width = self.weight.dims()[2];
        match self.kind {
            ConvolutionKind::Causal { dilation } => (width - 1) * dilation,
            ConvolutionKind::Transposed { stride } => usize::from(width != stride),
        }
    }

    fn check(&self, past: Option<&Tensor<3>>) {
        let width = self.weight.dims()[2];
        if let ConvolutionKind::Transposed { stride } = self.kind {
            assert!(width == stride || width == 2 * stride, "a transposed kernel of {width} with a stride of {stride}");
        }
        let (expected, found) = (self.past(), past.map(|past| past.dims()[2]));
        assert!(found.is_none_or(|found| found == expected), "{found:?} inputs before a step, expected {expected}");
    }
}

/// Convolves the next inputs of a stream, in one launch, and adds other rows if there are any. `past` are the inputs before them; at the
/// beginning of a stream there are none. With `keeps`, also returns what the next call needs as its past.
///
/// # Shapes
/// `x` `[1, C, T]`, `past` `[1, C, P]` with [`Convolution::past`], `residual` like the result → `[1, out, T]`, transposed
/// `[1, out, T * stride]`, at the beginning of a stream whose outputs overlap `[1, out, (T - 1) * stride]`.
///
/// # Panics
/// If a transposed kernel is neither as wide as its stride nor twice as wide, if `past` has another length, or if a stream whose outputs
/// overlap begins with a single input, which has no outputs.
pub fn convolve(
    conv: &Convolution,
    x: Tensor<3>,
    past: Option<Tensor<3>>,
    residual: Option<Tensor<3>>,
    keeps: bool,
) -> (Tensor<3>, Option<Tensor<3>>) {
    conv.check(past.as_ref());
    #[cfg(cube)]
    if let Some(found) = kernel::convolve(conv, &x, past.as_ref(), residual.as_ref(), keeps) {
        return found;
    }
    plain(conv, x, past, residual, keeps)
}

/// Upsamples rows in one launch: a transposed convolution whose kernel `[in, out, K]` is as wide as its stride makes `K` rows of each.
///
/// # Shapes
/// `x` `[N, in]`, `bias` `[out]` → `[N * K, out]`.
pub fn upsample(x: Tensor<2>, weight: Tensor<3>, bias: Tensor<1>) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = kernel::upsample(&x, &weight, &bias) {
        return y;
    }
    plain_upsample(x, weight, bias)
}

/// [`convolve`] in plain operations.
pub fn plain(
    conv: &Convolution,
    x: Tensor<3>,
    past: Option<Tensor<3>>,
    residual: Option<Tensor<3>>,
    keeps: bool,
) -> (Tensor<3>, Option<Tensor<3>>) {
    let x = with_past(conv, x, past);
    let (count, past) = (x.dims()[2], conv.past());
    let kept = (keeps && past > 0).then(|| x.clone().narrow(2, count - past, past));
    let x = conv.snake.as_ref().map_or_else(|| x.clone(), |snake| snake.apply(x.clone()));
    let (weight, bias) = (conv.weight.clone(), Some(conv.bias.clone()));
    let y = match conv.kind {
        ConvolutionKind::Causal { dilation } => conv1d(x, weight, bias, ConvOptions::new([1], [0], [dilation], 1)),
        ConvolutionKind::Transposed { stride } => {
            let y = conv_transpose1d(x, weight, bias, ConvTransposeOptions::new([stride], [0], [0], [1], 1));
            // Where outputs overlap, the first and the last lack an input.
            y.narrow(2, past * stride, (count - past) * stride)
        }
    };
    (residual.into_iter().fold(y, |y, residual| residual + y), kept)
}

/// The past and the inputs. At the beginning of a stream a causal convolution is padded with zeros; a transposed one has fewer outputs.
fn with_past(conv: &Convolution, x: Tensor<3>, past: Option<Tensor<3>>) -> Tensor<3> {
    let zeros = || -> Option<Tensor<3>> {
        let causal = matches!(conv.kind, ConvolutionKind::Causal { .. }) && conv.past() > 0;
        let like: (&Device, _) = (&x.device(), x.dtype());
        causal.then(|| Tensor::zeros([1, x.dims()[1], conv.past()], like))
    };
    match past.or_else(zeros) {
        Some(past) => Tensor::cat(vec![past, x], 2),
        None => x,
    }
}

/// [`upsample`] in plain operations.
pub fn plain_upsample(x: Tensor<2>, weight: Tensor<3>, bias: Tensor<1>) -> Tensor<2> {
    let ([rows, _], [input, output, factor]) = (x.dims(), weight.dims());
    let y = x.matmul(weight.reshape([input, output * factor])); // [N, out * factor]
    y.reshape([rows, output, factor]).swap_dims(1, 2).reshape([rows * factor, output]) + bias.unsqueeze()
}
