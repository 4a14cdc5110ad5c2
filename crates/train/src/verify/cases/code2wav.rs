//! The case of the vocoder: waves of given codes against a target.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use code2wav::{Code2Wav, SAMPLE_RATE};
use omni_core::{Dtype, Place};

use super::super::compare::{Checks, scalar, worse};
use super::super::golden::Golden;
use super::super::model::Model;
use super::super::steps::{Limits, LossParts, Trained};
use crate::Result;
use crate::loss::WaveLoss;

pub(super) fn run(model: &Model, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let device = model.device.clone().autodiff();
    let target = golden.matrix("in.target", &device)?;
    let streams = streams(golden)?;
    let losses = WaveLoss::new(SAMPLE_RATE, &device);
    compare_filters(golden, checks, &losses)?;
    let mut waves = None;
    let loss = |module: &Code2Wav| {
        let wave = Tensor::stack::<2>(module.waves(&streams)?, 0); // [B, T]
        waves.get_or_insert_with(|| nn::to_f32_vec(&wave));
        let parts = losses.parts(&wave, &target);
        let values = BTreeMap::from([
            ("stft_linear", scalar(&parts.linear)),
            ("stft_log", scalar(&parts.log)),
            ("mel", scalar(&parts.mel)),
            ("wave", scalar(&parts.wave)),
            ("samples", vec![wave.dims()[1] as f64]),
        ]);
        Ok(LossParts { loss: parts.total(), parts: values })
    };
    let limits = Limits { gradient: 1e-3, later_loss: 5e-3, after: 0.15 };
    let module = Code2Wav::from_checkpoint(&model.checkpoint, &Place::Device(device.clone()), Dtype::F32)?;
    let patterns = "+code2wav.*".parse()?;
    let case = Trained { golden, names: &model.names, model: module, patterns, limits, ignored: &[] };
    case.run(checks, &mut { loss })?;
    let stored = golden.values("in.wave")?;
    let found = waves.unwrap_or_default();
    let largest = found.iter().zip(stored).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, worse);
    checks.compare("wave of the codes", if found.len() == stored.len() { largest } else { f64::INFINITY }, 1e-4);
    Ok(())
}

/// The mel filters are the loss's own, not read from the file.
fn compare_filters(golden: &Golden, checks: &mut Checks, losses: &WaveLoss) -> Result<()> {
    let stored = golden.values("in.mel_filters")?;
    let found = nn::to_f32_vec(&losses.mel_filters().clone().transpose());
    checks.list("filters of the mel bins", &found.into_iter().map(f64::from).collect::<Vec<_>>(), stored, 1e-7);
    Ok(())
}

/// Frames `[F, Q]` of each stream, out of `[streams, Q, F]`.
fn streams(golden: &Golden) -> Result<Vec<Vec<Vec<u32>>>> {
    let [_, books, frames] = golden.shape("in.codes")? else { return Err(golden.lacks("in.codes")) };
    let ids = golden.ids("in.codes")?;
    let stream = |codes: &[u32]| {
        let frame = |frame: usize| (0..*books).map(|book| codes[book * frames + frame]).collect();
        (0..*frames).map(frame).collect()
    };
    Ok(ids.chunks(books * frames).map(stream).collect())
}
