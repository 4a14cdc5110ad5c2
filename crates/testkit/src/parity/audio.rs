use aut_encoder::{AutEncoder, AutProbe};
use burn::tensor::{Tensor, TensorData};
#[cfg(feature = "parity-media")]
use media::audio::{AudioInput, Mel, SAMPLE_RATE, log_mel, mel_filters, window};
use omni_core::{Error, Result};

use super::case::{Case, NEAR, STATES};
use super::model::Model;

/// Mel bins of a frame.
const BINS: usize = 128;

/// Compares log-mel frames of samples, or the constants of the transform.
#[cfg(feature = "parity-media")]
pub(super) fn mel(_: &Model, case: &mut Case) -> Result<()> {
    if case.has("mel_filters") {
        case.compare_values("mel_filters", &mel_filters(), &[201, BINS], NEAR);
        case.compare_values("window", &window(), &[400], NEAR);
        return Ok(());
    }
    let names: Vec<String> = case.names().into_iter().filter(|name| name.starts_with("waveform")).collect();
    let mut waveforms = Vec::new();
    for name in names {
        waveforms.push(case.ints(&name)?.iter().map(|sample| *sample as f32 / 32768.0).collect());
    }
    compare_mel(case, waveforms)?;
    Ok(())
}

/// Compares the log-mel frames of one call, where a frame is valid.
#[cfg(feature = "parity-media")]
pub(super) fn compare_mel(case: &mut Case, waveforms: Vec<Vec<f32>>) -> Result<Vec<Mel>> {
    let inputs: Vec<_> = waveforms.into_iter().map(|samples| AudioInput::samples(samples, SAMPLE_RATE, 1)).collect();
    let items = log_mel(&inputs).map_err(|error| error.source.in_part(case.name()))?;
    let frames = items.iter().map(Mel::frames).max().unwrap_or(0);
    let mask: Vec<i64> = items.iter().flat_map(|item| (0..frames).map(|f| i64::from(f < item.frames()))).collect();
    let mut values = Vec::with_capacity(items.len() * BINS * frames);
    for item in &items {
        for bin in 0..BINS {
            values.extend((0..frames).map(|f| item.values().get(f * BINS + bin).copied().unwrap_or(0.0)));
        }
    }
    let valid = |i: usize| mask[i / (BINS * frames) * frames + i % frames] != 0;
    case.compare_where("input_features", &values, &[items.len(), BINS, frames], STATES, valid);
    for name in ["attention_mask", "feature_attention_mask"] {
        // Whole prompts have a token mask of the first name.
        if name == "feature_attention_mask" || !case.has("input_ids") {
            case.compare_ints(name, &mask, &[items.len(), frames]);
        }
    }
    Ok(items)
}

/// Reads the valid frames of a case as encoder items `[T, M]`; `input_features` is `[M, all frames]` or `[items, M, frames]`.
pub(super) fn items(model: &Model, case: &mut Case) -> Result<Vec<Tensor<2>>> {
    let shape = case.shape("input_features")?;
    let values = case.floats("input_features")?;
    let item = |columns: Vec<usize>, row: usize, stride: usize| {
        let at = |frame: &usize, bin: usize| values[row * BINS * stride + bin * stride + frame];
        let frames: Vec<f32> = columns.iter().flat_map(|frame| (0..BINS).map(move |bin| at(frame, bin))).collect();
        Tensor::from_data(TensorData::new(frames, [columns.len(), BINS]), &model.device)
    };
    match shape.as_slice() {
        [_, total] => {
            let mut start = 0;
            let lengths = case.ints("feature_lens")?;
            Ok(lengths
                .iter()
                .map(|length| {
                    let columns = (start..start + *length as usize).collect();
                    start += *length as usize;
                    item(columns, 0, *total)
                })
                .collect())
        }
        [count, _, frames] => {
            let mask = case.ints("feature_attention_mask")?;
            let valid = |row: usize| (0..*frames).filter(|frame| mask[row * frames + frame] != 0).collect();
            Ok((0..*count).map(|row| item(valid(row), row, *frames)).collect())
        }
        _ => Err(Error::Request("input_features should have 2 or 3 axes".into())),
    }
}

/// Compares the audio encoder, step by step.
pub(super) fn encoder(model: &Model, case: &mut Case) -> Result<()> {
    let encoder = load(model)?;
    let mut recorder = AutRecorder::default();
    let items = items(model, case)?;
    let encoded = encoder.encode_with(&items, &mut recorder)?;
    recorder.compare(case);
    case.compare("output", encoded.embeds, STATES);
    Ok(())
}

pub(super) fn load(model: &Model) -> Result<AutEncoder> {
    AutEncoder::from_checkpoint(&model.checkpoint, &model.place, model.dtype)
}

/// Records the encoder's intermediate results; batches are joined.
#[derive(Default)]
struct AutRecorder {
    conv: Vec<Tensor<4>>,
    conv_out: Vec<Tensor<3>>,
    input: Vec<Tensor<2>>,
    windows: Vec<usize>,
    layers: Vec<Vec<Tensor<2>>>,
    norm: Vec<Tensor<2>>,
}

impl AutProbe for AutRecorder {
    fn conv(&mut self, x: &Tensor<4>) {
        self.conv.push(x.clone());
    }

    fn conv_out(&mut self, x: &Tensor<3>) {
        self.conv_out.push(x.clone());
    }

    fn input(&mut self, x: &Tensor<2>, windows: &[usize]) {
        self.input.push(x.clone());
        self.windows.extend_from_slice(windows);
    }

    fn layer(&mut self, index: usize, x: &Tensor<2>) {
        self.layers.resize(self.layers.len().max(index + 1), Vec::new());
        self.layers[index].push(x.clone());
    }

    fn norm(&mut self, x: &Tensor<2>) {
        self.norm.push(x.clone());
    }
}

impl AutRecorder {
    fn compare(self, case: &mut Case) {
        case.compare("after_conv3_gelu", Tensor::cat(self.conv, 0), STATES);
        case.compare("after_conv_out", Tensor::cat(self.conv_out, 0), STATES);
        case.compare("encoder_input", Tensor::cat(self.input, 0), STATES);
        let bounds = cumulated(&self.windows);
        case.compare_ints("cu_seqlens", &bounds, &[bounds.len()]);
        for (index, batches) in self.layers.into_iter().enumerate() {
            case.compare(&format!("layer_{index}"), Tensor::cat(batches, 0), STATES);
        }
        case.compare("ln_post", Tensor::cat(self.norm, 0), STATES);
    }
}

/// Cumulated lengths: the bounds of windows.
pub(super) fn cumulated(lengths: &[usize]) -> Vec<i64> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += *length as i64;
        Some(*end)
    });
    [0].into_iter().chain(ends).collect()
}
