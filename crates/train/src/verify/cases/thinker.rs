//! Cases of the thinker: cross-entropy and balance, with and without media; distillation; GSPO.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use moe_thinker::ThinkerConfig;
use omni_core::{Dtype, Positions};
use vision_encoder::PixelPatches;

use super::super::compare::{Checks, scalar, scalars};
use super::super::golden::Golden;
use super::super::model::Model;
use super::super::steps::{Limits, LossParts, Trained};
use crate::loss::{
    ClipRange, DistillLoss, advantages, distill, forward_kl_top_k, gspo, k3_divergence, log_probs, sequence_ratios,
    token_level_grpo,
};
use crate::model::{Sample, SampleMedia, ThinkerForward, ThinkerModel};
use crate::{Error, Result};

/// Weight of the balancing loss in the golden cases.
pub(super) const BALANCE: f64 = 0.5;
const TEXT: &str = "+thinker.model.* +thinker.lm_head.*";

/// Runs a case of cross-entropy and balance, training what `patterns` say.
pub(super) fn media(model: &Model, golden: &Golden, checks: &mut Checks, patterns: &str) -> Result<()> {
    let limits = Limits { after: 0.05, ..Limits::USUAL };
    // Cases that train parts of the model share their batch with the one that trains all of it.
    let inputs = match golden.has("in.input_ids") {
        true => None,
        false => Some(Golden::read(&model.golden, "thinker_media")?),
    };
    let inputs = inputs.as_ref().unwrap_or(golden);
    let samples = with_media(model, inputs)?;
    if golden.has("in.position_ids") {
        compare_positions(model, golden, checks, &samples)?;
    }
    balanced(model, golden, checks, (&samples, patterns, limits))
}

/// Runs the case of cross-entropy and balance on text.
pub(super) fn text(model: &Model, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let samples = samples(golden)?;
    balanced(model, golden, checks, (&samples, TEXT, Limits::USUAL))
}

fn balanced(
    model: &Model,
    golden: &Golden,
    checks: &mut Checks,
    (samples, patterns, limits): (&[Sample], &str, Limits),
) -> Result<()> {
    let loss = |module: &ThinkerModel| {
        let found = module.forward(samples, false)?;
        let ce = found.cross_entropy()?;
        let balance = found.balance.clone().ok_or_else(|| Error::Batch("a thinker without experts".into()))?;
        let parts = BTreeMap::from([
            ("ce", scalar(&ce)),
            ("aux", scalar(&balance)),
            ("loss_tokens", vec![found.labels.len() as f64]),
            ("per_row", means(&found)?),
            ("tokens_per_row", found.rows.iter().map(|rows| *rows as f64).collect()),
        ]);
        Ok(LossParts { loss: ce + balance * BALANCE, parts })
    };
    // Mean and deviation of the logits are taken over rows of padding as well, which are not computed here.
    trained(model, golden, patterns, limits, &["logits_mean", "logits_std"])?.run(checks, &mut { loss })
}

/// Runs the case of distillation from given logits.
pub(super) fn distillation(model: &Model, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let samples = samples(golden)?;
    let teacher = golden.matrix("in.teacher_logits", &model.device)?;
    let loss = |module: &ThinkerModel| {
        let found = module.forward(&samples, false)?;
        let ce = found.cross_entropy()?;
        let divergence = |loss, temperature| distill(found.logits.clone(), teacher.clone(), loss, temperature);
        let reverse = divergence(DistillLoss::ReverseKl, 1.0);
        let parts = BTreeMap::from([
            ("reverse_kl", scalar(&reverse)),
            ("forward_kl", scalar(&divergence(DistillLoss::ForwardKl, 1.0))),
            ("jsd_half", scalar(&divergence(DistillLoss::Jsd { beta: 0.5 }, 1.0))),
            ("forward_kl_temperature_2_times_4", scalar(&divergence(DistillLoss::ForwardKl, 2.0))),
            ("forward_kl_top16", scalar(&forward_kl_top_k(found.logits.clone(), teacher.clone(), 16))),
            ("ce", scalar(&ce)),
            ("rows", vec![found.labels.len() as f64]),
        ]);
        Ok(LossParts { loss: reverse + ce * 0.3, parts })
    };
    trained(model, golden, TEXT, Limits::USUAL, &[])?.run(checks, &mut { loss })
}

/// Runs the case of group sequence policy optimisation.
pub(super) fn policy(model: &Model, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let (samples, answers) = answers(golden)?;
    let [old, reference] = ["in.old_logps", "in.ref_logps"].map(|name| answers.of(golden, name));
    let (old, reference) = (old?, reference?);
    let (rewards, groups) = (golden.values("in.rewards")?, golden.values("in.group")?);
    let advantages: Vec<f64> = groups
        .chunk_by(|a, b| a == b)
        .scan(0, |start, group| {
            *start += group.len();
            Some(advantages(&rewards[*start - group.len()..*start]))
        })
        .flatten()
        .collect();
    let loss = |module: &ThinkerModel| {
        let found = module.forward(&samples, false)?;
        let policy =
            found.of_each().map(|(logits, labels)| log_probs(logits, labels)).collect::<Result<Vec<Tensor<1>>>>()?;
        let (ratios, range) = (sequence_ratios(&policy, &old), ClipRange::default());
        let loss = gspo(ratios.clone(), &advantages, range);
        let ratio = scalar(&ratios);
        let held = |ratio: f64| ratio.clamp(1.0 - range.low, 1.0 + range.high);
        let is_clipped = |(ratio, advantage): (&f64, &f64)| f64::from(held(*ratio) * advantage < ratio * advantage);
        let token_range = ClipRange { low: 0.2, high: 0.2 };
        let parts = BTreeMap::from([
            ("gspo", scalar(&loss)),
            ("clipped", ratio.iter().zip(&advantages).map(is_clipped).collect()),
            ("ratio", ratio),
            ("advantage", advantages.clone()),
            ("kl_k3_to_reference", scalar(&k3_divergence(&policy, &reference))),
            ("grpo_token_level_eps_0_2", scalar(&token_level_grpo(&policy, &old, &advantages, token_range))),
            ("rewards", rewards.to_vec()),
            ("group", groups.to_vec()),
            ("tokens", found.rows.iter().map(|rows| *rows as f64).collect()),
            ("logp_sum", scalars(policy.iter().map(|policy| policy.clone().sum()))),
        ]);
        Ok(LossParts { loss, parts })
    };
    trained(model, golden, TEXT, Limits::USUAL, &[])?.run(checks, &mut { loss })
}

fn trained<'a>(
    model: &'a Model,
    golden: &'a Golden,
    patterns: &str,
    limits: Limits,
    ignored: &'static [&'static str],
) -> Result<Trained<'a, ThinkerModel>> {
    let module = ThinkerModel::from_checkpoint(&model.checkpoint, &model.device.clone().autodiff(), Dtype::F32)?;
    Ok(Trained { golden, names: &model.names, model: module, patterns: patterns.parse()?, limits, ignored })
}

/// Mean cross-entropy of each conversation.
fn means(found: &ThinkerForward) -> Result<Vec<f64>> {
    let each = found.of_each().map(|(logits, labels)| Ok(log_probs(logits, labels)?.mean().neg()));
    Ok(scalars(each.collect::<Result<Vec<Tensor<1>>>>()?))
}

/// The rows of a right-padded batch, without padding, with the labels stored.
fn samples(golden: &Golden) -> Result<Vec<Sample>> {
    let labels = golden.values("in.labels")?;
    let columns = golden.shape("in.labels")?[1];
    let rows = unpadded(golden)?.into_iter().zip(labels.chunks(columns));
    let each = rows.map(|(ids, labels)| {
        let labels = labels[..ids.len()].iter().map(|label| (*label >= 0.0).then_some(*label as u32)).collect();
        Sample { ids, labels, ..Sample::default() }
    });
    Ok(each.collect())
}

/// Ids of each row of a right-padded batch, without the padding.
fn unpadded(golden: &Golden) -> Result<Vec<Vec<u32>>> {
    let columns = golden.shape("in.input_ids")?[1];
    let mask = golden.values("in.attention_mask")?;
    let rows = golden.rows_of_ids("in.input_ids")?.into_iter().zip(mask.chunks(columns));
    let each = rows.map(|(mut ids, mask)| {
        ids.truncate(mask.iter().filter(|valid| **valid != 0.0).count());
        ids
    });
    Ok(each.collect())
}

/// The rows of a batch with its media, which are listed for the whole batch.
pub(super) fn with_media(model: &Model, golden: &Golden) -> Result<Vec<Sample>> {
    let ids: ThinkerConfig = model.checkpoint.config().section()?;
    let mut sounds = sounds(model, golden)?.into_iter();
    let mut pictures = pictures(model, golden)?.into_iter();
    let mut samples = samples(golden)?;
    for Sample { ids: row, media, .. } in &mut samples {
        let items = |placeholder: u32| {
            let begins = |at: &usize| row[*at] == placeholder && (*at == 0 || row[at - 1] != placeholder);
            (0..row.len()).filter(begins).count()
        };
        *media = SampleMedia {
            sounds: sounds.by_ref().take(items(ids.audio_token_id)).collect(),
            pictures: pictures.by_ref().take(items(ids.image_token_id)).collect(),
            ..SampleMedia::default()
        };
    }
    Ok(samples)
}

/// Log-mel frames `[T, M]` of each sound, out of `[sounds, M, longest]`.
fn sounds(model: &Model, golden: &Golden) -> Result<Vec<Tensor<2>>> {
    let (name, mask) = ("in.input_features", golden.values("in.feature_attention_mask")?);
    let [count, bins, longest] = golden.shape(name)? else { return Err(golden.lacks(name)) };
    let all = golden.matrix(name, &model.device)?; // [sounds * M, longest]
    let each = (0..*count).zip(mask.chunks(*longest)).map(|(sound, mask)| {
        let frames = mask.iter().filter(|valid| **valid != 0.0).count();
        all.clone().narrow(0, sound * bins, *bins).narrow(1, 0, frames).transpose()
    });
    Ok(on_graph(model, each))
}

fn pictures(model: &Model, golden: &Golden) -> Result<Vec<PixelPatches>> {
    let all = golden.matrix("in.pixel_values", &model.device)?;
    let mut start = 0;
    let sizes = golden.sizes("in.image_grid_thw")?;
    let each = sizes.chunks(3).map(|grid| {
        let count = grid.iter().product();
        start += count;
        let patches = on_graph(model, [all.clone().narrow(0, start - count, count)]).remove(0);
        PixelPatches { patches, grid: [grid[0], grid[1], grid[2]], seconds_per_step: 0.0 }
    });
    Ok(each.collect())
}

/// Moves constants to the device that the model is trained on.
fn on_graph(model: &Model, tensors: impl IntoIterator<Item = Tensor<2>>) -> Vec<Tensor<2>> {
    let device: Device = model.device.clone().autodiff();
    tensors.into_iter().map(|tensor| tensor.to_device(&device)).collect()
}

/// Compares the positions of all rows without padding.
fn compare_positions(model: &Model, golden: &Golden, checks: &mut Checks, samples: &[Sample]) -> Result<()> {
    let module = ThinkerModel::from_checkpoint(&model.checkpoint, &model.device, Dtype::F32)?;
    let found = samples.iter().map(|sample| module.positions(sample)).collect::<Result<Vec<_>>>()?;
    let stored = golden.values("in.position_ids")?;
    let [_, rows, columns] = golden.shape("in.position_ids")? else { return Err(golden.lacks("in.position_ids")) };
    super::super::compare::positions(checks, &found.iter().collect::<Vec<&Positions>>(), stored, [*rows, *columns]);
    Ok(())
}

/// Answers of a batch: the places of their tokens.
struct Answers {
    /// Columns of each row's answer.
    columns: Vec<std::ops::Range<usize>>,
}

impl Answers {
    /// Values of the answers' tokens, out of `[rows, columns - 1]`, where column `t` belongs to token `t + 1`.
    fn of(&self, golden: &Golden, name: &str) -> Result<Vec<Vec<f32>>> {
        let width = golden.shape(name)?[1];
        let rows = golden.floats(name)?;
        let each = rows.chunks(width).zip(&self.columns);
        Ok(each.map(|(row, columns)| row[columns.start - 1..columns.end - 1].to_vec()).collect())
    }
}

/// Prompts with sampled answers, whose tokens are their own labels.
fn answers(golden: &Golden) -> Result<(Vec<Sample>, Answers)> {
    let width = golden.shape("in.answer_mask")?[1];
    let columns = golden.values("in.answer_mask")?.chunks(width).map(|mask| {
        let is_answer = |at: &usize| mask[*at] != 0.0;
        let first = (0..width).find(is_answer).ok_or_else(|| golden.lacks("in.answer_mask"))?;
        Ok(first..first + (0..width).filter(is_answer).count())
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let samples = unpadded(golden)?.into_iter().zip(&columns).map(|(ids, answer)| {
        let label = |(at, id): (usize, &u32)| answer.contains(&at).then_some(*id);
        Sample { labels: ids.iter().enumerate().map(label).collect(), ids, ..Sample::default() }
    });
    Ok((samples.collect(), Answers { columns }))
}
