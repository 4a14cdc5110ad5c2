use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::mel::{MEL_BINS, MEL_WINDOW, mel_filters};
use super::stft::Stft;

/// Sizes of the short-time Fourier transforms that waves are compared in; the hop is a quarter.
pub(crate) const WINDOWS: [usize; 4] = [256, 512, 1024, 2048];

/// Distance of two waves in several short-time Fourier transforms, in mel bins and in samples (the codec's reconstruction loss).
#[derive(Debug, Clone)]
pub struct WaveLoss {
    transforms: Vec<Stft>,
    /// `[bins, mel]`.
    mel: Tensor<2>,
}

/// The terms of a [`WaveLoss`], `[1]` each.
#[derive(Debug, Clone)]
pub struct WaveLossParts {
    /// Difference of magnitudes.
    pub linear: Tensor<1>,
    /// Difference of the logarithms of magnitudes.
    pub log: Tensor<1>,
    /// Difference of log-mel bins.
    pub mel: Tensor<1>,
    /// Difference of samples.
    pub wave: Tensor<1>,
}

/// Weights of the terms of a [`WaveLoss`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WaveWeights {
    /// Weight of the difference of magnitudes.
    pub linear: f64,
    /// Weight of the difference of their logarithms.
    pub log: f64,
    /// Weight of the difference of log-mel bins.
    pub mel: f64,
    /// Weight of the difference of samples.
    pub wave: f64,
}

impl Default for WaveWeights {
    fn default() -> Self {
        Self { linear: 1.0, log: 1.0, mel: 2.0, wave: 3.0 }
    }
}

impl WaveLossParts {
    /// `linear + log + 2 mel + 3 wave`.
    pub fn total(&self) -> Tensor<1> {
        self.weighted(&WaveWeights::default())
    }

    /// The sum of the terms by their weights.
    pub fn weighted(&self, weights: &WaveWeights) -> Tensor<1> {
        let WaveWeights { linear, log, mel, wave } = *weights;
        self.linear.clone() * linear + self.log.clone() * log + self.mel.clone() * mel + self.wave.clone() * wave
    }

    /// The values of the terms, for the log.
    pub(crate) fn values(&self) -> BTreeMap<&'static str, f64> {
        let value = |tensor: &Tensor<1>| f64::from(tensor.clone().into_scalar::<f32>());
        BTreeMap::from([
            ("stft_linear", value(&self.linear)),
            ("stft_log", value(&self.log)),
            ("mel", value(&self.mel)),
            ("wave", value(&self.wave)),
        ])
    }
}

impl WaveLoss {
    /// Makes the transforms for sound of `rate` samples per second.
    pub fn new(rate: u32, device: &Device) -> Self {
        let mel = mel_filters(f64::from(rate), MEL_WINDOW);
        let bins = MEL_WINDOW / 2 + 1;
        Self {
            transforms: WINDOWS.iter().map(|window| Stft::new(*window, device)).collect(),
            mel: Tensor::from_data(TensorData::new(mel, [bins, MEL_BINS]), device),
        }
    }

    /// The mel filters, `[bins, mel]`.
    pub fn mel_filters(&self) -> &Tensor<2> {
        &self.mel
    }

    /// Compares waves of one length.
    ///
    /// # Shapes
    /// `wave` and `target` `[B, T]`, `T` more than 1,024.
    ///
    /// # Panics
    /// If the shapes differ, or the waves are too short to be padded by reflection.
    pub fn parts(&self, wave: &Tensor<2>, target: &Tensor<2>) -> WaveLossParts {
        let (mut linear, mut log, mut mel) = (Vec::new(), Vec::new(), None);
        for transform in &self.transforms {
            let [a, b] = [wave, target].map(|x| transform.magnitudes(x)); // [B * frames, bins]
            let scale = (transform.window() as f64).powf(-0.5);
            linear.push((a.clone() - b.clone()).abs().mean() * (4.0 * scale));
            let level = |x: &Tensor<2>| (x.clone() * scale + FLOOR).log();
            log.push((level(&a) - level(&b)).abs().mean());
            if transform.window() == MEL_WINDOW {
                let level = |x: Tensor<2>| (x.matmul(self.mel.clone()) + FLOOR).log() / std::f64::consts::LN_10;
                mel = Some((level(a) - level(b)).abs().mean());
            }
        }
        let wave = (wave.clone() - target.clone()).abs().mean();
        let mean = |terms: Vec<Tensor<1>>| Tensor::cat(terms, 0).mean();
        WaveLossParts { linear: mean(linear), log: mean(log), mel: mel.expect("one of the windows"), wave }
    }
}

/// Keeps logarithms of silence finite.
pub(crate) const FLOOR: f64 = 1e-3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_waves_have_no_distance() {
        let device = Device::flex();
        let tone: Vec<f32> = (0..4096).map(|i| (2.0 * std::f32::consts::PI * 32.0 * i as f32 / 512.0).sin()).collect();
        let tone = Tensor::<2>::from_data(TensorData::new(tone, [1, 4096]), &device);
        let total = WaveLoss::new(24_000, &device).parts(&tone, &tone).total().into_scalar::<f32>();
        assert_eq!(total, 0.0);
    }
}
