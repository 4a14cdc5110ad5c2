use burn::module::{Module, Param};
use burn::tensor::activation::leaky_relu;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData};
use checkpoint::param_id;

use crate::loss::{FLOOR, Stft};
use crate::random::normal;

/// Sizes of the short-time Fourier transforms that are judged.
const WINDOWS: [usize; 3] = [512, 1024, 2048];
/// Kernel, over frames and frequencies, and stride over frequencies of each layer but the last.
const LAYERS: [([usize; 2], usize); 4] = [([3, 9], 1), ([3, 9], 2), ([3, 9], 2), ([3, 3], 1)];
const LAST: [usize; 2] = [3, 3];
const SLOPE: f64 = 0.2;
/// Part of its usual size that the last layer begins with: first verdicts are near 0, and the vocoder's loss makes no jump.
const LAST_SIZE: f64 = 0.1;
/// Log-magnitudes lie between −7 and 1; scaled and moved, they lie around 0.
const LEVEL_SCALE: f64 = 0.25;
const LEVEL_SHIFT: f64 = 1.0;

/// Discriminator of waves by their spectra in several resolutions: convolutions over log-magnitudes (UnivNet's multi-resolution
/// discriminator).
#[derive(Module, Debug)]
pub(crate) struct Discriminator {
    judges: Vec<Judge>,
}

#[derive(Module, Debug)]
struct Judge {
    layers: Vec<Conv>,
    last: Conv,
    #[module(skip)]
    stft: Stft,
}

#[derive(Module, Debug)]
struct Conv {
    /// `[out, in, frames, frequencies]`.
    weight: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
    stride: usize,
}

/// What a discriminator says about waves.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    /// Verdicts `[B, 1, frames, frequencies]`, one tensor per resolution: 1 for a recording, 0 for what a vocoder made.
    verdicts: Vec<Tensor<4>>,
    /// Outputs of all layers before the verdicts.
    features: Vec<Tensor<4>>,
}

/// Places of one convolution.
struct ConvSpec {
    name: String,
    channels: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    /// Part of the usual size of the first values.
    size: f64,
}

impl Conv {
    fn fresh(
        ConvSpec { name, channels: [input, output], kernel, stride, size }: ConvSpec,
        seed: u64,
        device: &Device,
    ) -> Self {
        let (count, fan) = (output * input * kernel[0] * kernel[1], input * kernel[0] * kernel[1]);
        let [weight, bias] = ["weight", "bias"].map(|part| format!("{name}.{part}"));
        let values = normal(seed, &weight, count, size * (2.0 / fan as f64).sqrt());
        let values = Tensor::from_data(TensorData::new(values, [output, input, kernel[0], kernel[1]]), device);
        Self {
            weight: Param::initialized(param_id(&weight), values.require_grad()),
            bias: Param::initialized(param_id(&bias), Tensor::zeros([output], device).require_grad()),
            stride,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, frames, frequencies] = self.weight.dims();
        let options = ConvOptions::new([1, self.stride], [frames / 2, frequencies / 2], [1, 1], 1);
        conv2d(x, self.weight.val(), Some(self.bias.val()), options)
    }
}

impl Judge {
    fn fresh(window: usize, channels: usize, seed: u64, device: &Device) -> Self {
        let spec = |index: usize, [input, output]: [usize; 2], kernel, stride| ConvSpec {
            name: format!("codec_discriminator.{window}.{index}"),
            channels: [input, output],
            kernel,
            stride,
            size: 1.0,
        };
        let layers = LAYERS.iter().enumerate().map(|(index, (kernel, stride))| {
            let input = if index == 0 { 1 } else { channels };
            Conv::fresh(spec(index, [input, channels], *kernel, *stride), seed, device)
        });
        let last = ConvSpec { size: LAST_SIZE, ..spec(LAYERS.len(), [channels, 1], LAST, 1) };
        let last = Conv::fresh(last, seed, device);
        Self { layers: layers.collect(), last, stft: Stft::new(window, device) }
    }

    fn forward(&self, waves: &Tensor<2>, judged: &mut Judged) {
        let (batch, window) = (waves.dims()[0], self.stft.window());
        let levels = (self.stft.magnitudes(waves) * (window as f64).powf(-0.5) + FLOOR).log(); // [B * frames, bins]
        let [rows, bins] = levels.dims();
        let mut x = (levels * LEVEL_SCALE + LEVEL_SHIFT).reshape([batch, 1, rows / batch, bins]);
        for layer in &self.layers {
            x = leaky_relu(layer.forward(x), SLOPE);
            judged.features.push(x.clone());
        }
        judged.verdicts.push(self.last.forward(x));
    }
}

impl Discriminator {
    /// Draws a discriminator that is to be trained; the same seed gives the same values.
    pub(crate) fn fresh(channels: usize, seed: u64, device: &Device) -> Self {
        Self { judges: WINDOWS.iter().map(|window| Judge::fresh(*window, channels, seed, device)).collect() }
    }

    /// Names of the parameters.
    pub(crate) fn names() -> impl Iterator<Item = String> {
        let of_window = |window: &usize| {
            let window = *window;
            (0..=LAYERS.len()).flat_map(move |index| {
                ["weight", "bias"].map(|part| format!("codec_discriminator.{window}.{index}.{part}"))
            })
        };
        WINDOWS.iter().flat_map(of_window)
    }

    /// Judges waves `[B, T]` of more than 1,024 samples.
    pub(crate) fn judge(&self, waves: &Tensor<2>) -> Judged {
        let mut judged = Judged { verdicts: Vec::new(), features: Vec::new() };
        self.judges.iter().for_each(|judge| judge.forward(waves, &mut judged));
        judged
    }
}

impl Judged {
    /// Mean square distance of the verdicts from what they should be (least squares), averaged over resolutions.
    pub(crate) fn distance_from(&self, verdict: f64) -> Tensor<1> {
        mean(self.verdicts.iter().map(|found| (found.clone() - verdict).square().mean()))
    }

    /// Mean distance of the features from those of other waves, averaged over layers.
    pub(crate) fn feature_distance(&self, other: &Self) -> Tensor<1> {
        mean(self.features.iter().zip(&other.features).map(|(a, b)| (a.clone() - b.clone()).abs().mean()))
    }
}

fn mean(terms: impl Iterator<Item = Tensor<1>>) -> Tensor<1> {
    Tensor::cat(terms.collect(), 0).mean()
}
