//! The case of the audio encoder with a text decoder.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use moe_thinker::ThinkerConfig;
use omni_core::Dtype;

use super::super::compare::{Checks, deviation, scalar, worse};
use super::super::golden::Golden;
use super::super::model::Model;
use super::super::steps::{Limits, LossParts, Trained};
use crate::loss::{cross_entropy, indices};
use crate::model::{AutDecoderConfig, AutModel, Transcript};
use crate::{ParamNames, Result};

pub(super) fn run(model: &Model, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let device = model.device.clone().autodiff();
    let thinker: ThinkerConfig = model.checkpoint.config().section()?;
    let layers = golden.names("in.decoder.layers.").filter_map(|name| name.split('.').next()?.parse::<usize>().ok());
    let layers = layers.max().map_or(0, |last| last + 1);
    let config = AutDecoderConfig { vocab_size: thinker.text.vocab_size, layers };
    let start: BTreeMap<String, Vec<f32>> = golden
        .names("in.decoder.")
        .map(|name| Ok((format!("decoder.{name}"), golden.floats(&format!("in.decoder.{name}"))?)))
        .collect::<Result<_>>()?;
    let names = ParamNames::new(model.checkpoint.tensors().keys().cloned().chain(start.keys().cloned()));
    let start = start.into_iter().map(|(name, values)| {
        let count = values.len();
        (name, Tensor::from_data(TensorData::new(values, [count]), &model.device))
    });
    let module = names
        .with_values(AutModel::from_checkpoint(&model.checkpoint, &config, (&device, Dtype::F32))?, start.collect())?;

    let sounds = sounds(golden, &device)?;
    let ids = golden.rows_of_ids("in.decoder_ids")?;
    let batch: Vec<Transcript> = sounds.into_iter().zip(&ids).map(|(sound, ids)| Transcript { sound, ids }).collect();
    let columns = ids.first().map_or(0, Vec::len);
    // A label at `t` is predicted one row earlier.
    let stored = golden.values("in.labels")?;
    let labelled: Vec<usize> = (0..stored.len()).filter(|at| at % columns > 0 && stored[*at] >= 0.0).collect();
    let labels: Vec<u32> = labelled.iter().map(|at| stored[*at] as u32).collect();
    let places: Vec<usize> = labelled.iter().map(|at| at - 1).collect();
    let mut first = None;
    let loss = |module: &AutModel| {
        let rows = module.encode(&batch, None)?;
        let logits = module.logits(&module.hidden_states(&rows, &batch)?); // [N, V]
        first.get_or_insert_with(|| (nn::to_f32_vec(&rows.rows), nn::to_f32_vec(&logits)));
        let chosen = logits.clone().select(0, indices(places.clone(), &logits.device()));
        let loss = cross_entropy(chosen, &labels)? / labels.len() as f64;
        let best = logits.clone().narrow(0, 0, columns).argmax(1).into_data();
        let parts = BTreeMap::from([
            ("ce", scalar(&loss)),
            ("loss_tokens", vec![labels.len() as f64]),
            ("logits_std", vec![deviation(&logits)]),
            ("greedy", best.iter::<i64>().map(|id| id as f64).collect()),
        ]);
        Ok(LossParts { loss, parts })
    };
    let patterns = "+thinker.audio_tower.* -thinker.audio_tower.proj1.* -thinker.audio_tower.proj2.* +decoder.*";
    let limits = Limits { after: 0.05, ..Limits::USUAL };
    let case = Trained { golden, names: &names, model: module, patterns: patterns.parse()?, limits, ignored: &[] };
    case.run(checks, &mut { loss })?;
    let (rows, logits) = first.unwrap_or_default();
    for (quantity, found) in [("encoder_rows", rows), ("logits", logits)] {
        let stored = golden.values(&format!("in.{quantity}"))?;
        let largest = found.iter().zip(stored).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, worse);
        checks.compare(quantity, if found.len() == stored.len() { largest } else { f64::INFINITY }, 1e-4);
    }
    Ok(())
}

/// Log-mel frames `[T, M]` of each sound, out of `[M, all frames]`.
fn sounds(golden: &Golden, device: &Device) -> Result<Vec<Tensor<2>>> {
    let all = golden.matrix("in.input_features", device)?;
    let mut start = 0;
    let each = golden.sizes("in.feature_lens")?.into_iter().map(|frames| {
        start += frames;
        all.clone().narrow(1, start - frames, frames).transpose()
    });
    Ok(each.collect())
}
