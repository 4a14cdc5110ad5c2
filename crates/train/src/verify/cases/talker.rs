//! Cases of the talker: its loss, preferences, and a new speaker with adapters.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use moe_talker::{TalkerConfig, Turns};
use moe_thinker::{Thinker, ThinkerConfig, media_ids};
use omni_core::{Dtype, Place};
use tm_rope::{MediaItem, MediaLayout};
use vision_encoder::VisionConfig;

use super::super::compare::{Checks, deviation, scalar, scalars, worse};
use super::super::golden::Golden;
use super::super::model::Model;
use super::super::steps::{Limits, LossParts, Trained};
use super::thinker::BALANCE;
use crate::lora::{LoraFactors, attach, lora_names};
use crate::loss::{DpoOptions, Preference, dpo, indices, ipo};
use crate::model::{SpokenAnswer, TalkerForward, TalkerModel, end_of_turn, split_answer};
use crate::{Error, ParamNames, Result};

/// `α` of the golden adapters.
const ALPHA: f64 = 8.0;

/// Runs the case of the talker's own loss.
pub(super) fn spoken(model: &Model, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let conversations = Conversations::read(model, golden, None)?;
    let mut first = true;
    let mut loss = |module: &TalkerModel, checks: &mut Checks| {
        let found = module.forward(&conversations.answers())?;
        if std::mem::take(&mut first) {
            compare_inputs(golden, checks, &found)?;
        }
        talker_loss(&found)
    };
    let module = TalkerModel::from_checkpoint(&model.checkpoint, &model.device.clone().autodiff(), Dtype::F32)?;
    let mut inputs = Checks::default();
    trained(golden, &model.names, module, "+talker.*")?.run(checks, &mut |module| loss(module, &mut inputs))?;
    checks.0.extend(inputs.0);
    Ok(())
}

fn talker_loss(found: &TalkerForward) -> Result<LossParts> {
    let (first, books) = (found.first_codes()?, found.residual_codes()?);
    let residual = Tensor::cat(books.clone(), 0).mean();
    let balance = found.balance.clone().ok_or_else(|| Error::Batch("a talker without experts".into()))?;
    let residual_logits = Tensor::cat(found.residual_logits.clone(), 0);
    let parts = BTreeMap::from([
        ("first_code_and_end", scalar(&first)),
        ("residual", scalar(&residual)),
        ("aux", scalar(&balance)),
        ("per_group", scalars(books)),
        ("rows", vec![found.labels.len() as f64]),
        ("frames", vec![(found.labels.len() - found.rows.len()) as f64]),
        ("logits_mean", scalar(&found.logits.clone().mean())),
        ("logits_std", vec![deviation(&found.logits)]),
        ("residual_logits_std", vec![deviation(&residual_logits)]),
    ]);
    Ok(LossParts { loss: first + residual + balance * BALANCE, parts })
}

/// Runs the case of direct preference optimisation.
pub(super) fn preferences(model: &Model, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let stored = Golden::read(&model.golden, "talker")?;
    let conversations = Conversations::read(model, &stored, None)?;
    let pairs = conversations.rows.len();
    let codes = (0..pairs).flat_map(|pair| ["chosen", "rejected"].map(|side| format!("in.pair{pair}.{side}")));
    let codes = codes.map(|name| golden.rows_of_ids(&name)).collect::<Result<Vec<_>>>()?;
    let reference = |part: &str| {
        let values = golden.json["parts"][part].as_array();
        values.map(|all| all.iter().filter_map(|v| v.as_f64()).collect::<Vec<f64>>()).ok_or_else(|| golden.lacks(part))
    };
    let (first_reference, residual_reference) = (reference("reference_first")?, reference("reference_residual")?);
    let both: Vec<f64> = first_reference.iter().zip(&residual_reference).map(|(a, b)| a + b).collect();
    let answers: Vec<SpokenAnswer> =
        codes.iter().enumerate().map(|(at, codes)| conversations.answer(at / 2, codes)).collect();
    let options = DpoOptions::default();
    let loss = |module: &TalkerModel| {
        let found = module.forward(&answers)?;
        let [first, residual] = found.log_probs()?;
        let margin = Preference::alternating(&(first.clone() + residual.clone())).margin(&both);
        let first_margin = Preference::alternating(&first).margin(&first_reference);
        let loss = dpo(margin.clone(), options);
        let chosen: Vec<usize> = found.rows.iter().step_by(2).copied().collect();
        let smoothed = DpoOptions { label_smoothing: 0.1, ..options };
        let parts = BTreeMap::from([
            ("dpo_all_groups", scalar(&loss)),
            ("dpo_first_code_only", scalar(&dpo(first_margin, options))),
            ("smoothing_0_1", scalar(&dpo(margin.clone(), smoothed))),
            ("ipo", scalar(&ipo(margin.clone(), &chosen, options.beta))),
            ("logp_first", scalar(&first)),
            ("logp_residual", scalar(&residual)),
            ("reference_first", first_reference.clone()),
            ("reference_residual", residual_reference.clone()),
            ("margin", scalar(&(margin * options.beta))),
            ("rows", found.rows.iter().map(|rows| *rows as f64).collect()),
        ]);
        Ok(LossParts { loss, parts })
    };
    let module = TalkerModel::from_checkpoint(&model.checkpoint, &model.device.clone().autodiff(), Dtype::F32)?;
    trained(golden, &model.names, module, "+talker.*")?.run(checks, &mut { loss })
}

/// Runs the case of a new speaker: one row of the table, and adapters.
pub(super) fn speaker(model: &Model, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let config: TalkerConfig = model.checkpoint.config().section()?;
    // The first row behind those that are taken.
    let new = config.speaker_id.values().max().map_or(0, |last| last + 1);
    let stored = Golden::read(&model.golden, "talker")?;
    let conversations = Conversations::read(model, &stored, Some(new))?;
    let device = model.device.clone().autodiff();
    let (module, row) =
        TalkerModel::from_checkpoint(&model.checkpoint, &device, Dtype::F32)?.with_speaker(new, &[new])?;
    let mut factors = BTreeMap::new();
    for name in golden.names("in.lora.").filter_map(|name| name.strip_suffix(".lora_A.weight")) {
        let [a, b] = lora_names(name).map(|name| golden.matrix(&format!("in.lora.{name}"), &device));
        factors.insert(name.to_owned(), LoraFactors { a: a?, b: b? });
    }
    let rank = factors.values().next().map_or(1, |factors| factors.a.dims()[0]);
    let added = factors.keys().flat_map(|name| lora_names(name)).chain([row.clone()]);
    let names = ParamNames::new(model.checkpoint.tensors().keys().cloned().chain(added));
    let module = attach(module, &names, factors, ALPHA / rank as f64)?;
    let loss = |module: &TalkerModel| talker_loss(&module.forward(&conversations.answers())?);
    trained(golden, &names, module, &format!("+*.lora_A.weight +*.lora_B.weight +{row}"))?.run(checks, &mut { loss })
}

fn trained<'a>(
    golden: &'a Golden,
    names: &'a ParamNames,
    model: TalkerModel,
    patterns: &str,
) -> Result<Trained<'a, TalkerModel>> {
    Ok(Trained { golden, names, model, patterns: patterns.parse()?, limits: Limits::USUAL, ignored: &[] })
}

/// Compares what the talker read: rows and positions of each answer, and its labels.
fn compare_inputs(golden: &Golden, checks: &mut Checks, found: &TalkerForward) -> Result<()> {
    let stored = golden.values("in.inputs_embeds")?;
    let [_, columns, width] = golden.shape("in.inputs_embeds")? else { return Err(golden.lacks("in.inputs_embeds")) };
    for (embeds, stored) in found.embeds.iter().zip(stored.chunks(columns * width)) {
        let values = nn::to_f32_vec(embeds);
        let largest = values.iter().zip(stored).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, worse);
        checks.compare("inputs embeds", largest, 2e-5);
    }
    let [_, rows, columns] = golden.shape("in.position_ids")? else { return Err(golden.lacks("in.position_ids")) };
    let positions: Vec<_> = found.positions.iter().collect();
    super::super::compare::positions(checks, &positions, golden.values("in.position_ids")?, [*rows, *columns]);
    let labels: Vec<f64> = golden.values("in.labels")?.iter().filter(|label| **label >= 0.0).copied().collect();
    checks.list("labels", &found.labels.iter().map(|label| f64::from(*label)).collect::<Vec<_>>(), &labels, 0.0);
    Ok(())
}

/// Looks up rows of a table: `[T]` → `[T, D]`.
type Embed = dyn Fn(&[u32]) -> Tensor<2>;

/// The stored conversations and the thinker that their text is embedded by.
struct Conversations {
    rows: Vec<Row>,
    /// Rows of the thinker's embedding table, which is not trained.
    embed: Box<Embed>,
    speaker: u32,
}

/// One conversation that ends in a spoken answer.
struct Row {
    prompt: Vec<u32>,
    answer: Vec<u32>,
    layout: MediaLayout,
    tap: Option<Tensor<2>>,
    codes: Vec<Vec<u32>>,
}

impl Conversations {
    /// Reads the conversations; without a speaker, the first one in the config that the golden data was made with.
    fn read(model: &Model, golden: &Golden, speaker: Option<u32>) -> Result<Self> {
        let talker: TalkerConfig = model.checkpoint.config().section()?;
        let device = model.device.clone().autodiff();
        let count = (0..).take_while(|row| golden.has(&format!("in.row{row}.codes"))).count();
        let rows = (0..count).map(|row| Row::read(model, golden, row, &device)).collect::<Result<_>>()?;
        let place = Place::Device(model.device.clone());
        let thinker = Thinker::from_checkpoint(&model.checkpoint, &place, Dtype::F32)?;
        let embed = Box::new(move |ids: &[u32]| Tensor::from_inner(thinker.embed(ids)));
        let speaker = match speaker {
            Some(speaker) => speaker,
            None => moe_talker::speaker_id(&talker.speaker_id, "ethan")?,
        };
        Ok(Self { rows, embed, speaker })
    }

    /// The answers with their stored codes.
    fn answers(&self) -> Vec<SpokenAnswer<'_>> {
        self.rows.iter().enumerate().map(|(at, row)| self.answer(at, &row.codes)).collect()
    }

    /// An answer with other codes.
    fn answer<'a>(&'a self, at: usize, codes: &'a [Vec<u32>]) -> SpokenAnswer<'a> {
        let Row { prompt, answer, layout, tap, .. } = &self.rows[at];
        let (layout, tap, embed) = (layout.clone(), tap.clone(), &*self.embed);
        SpokenAnswer { prompt, answer, layout, tap, embed, speaker: self.speaker, codes, ends: true }
    }
}

impl Row {
    fn read(model: &Model, golden: &Golden, row: usize, device: &Device) -> Result<Self> {
        let name = |part: &str| format!("in.row{row}.{part}");
        let ids = golden.ids(&name("thinker_ids"))?;
        let turns: Turns = model.checkpoint.config().section()?;
        let (prompt, answer) = split_answer(&ids, &turns, end_of_turn(&model.checkpoint)?)?;
        let media: Vec<usize> = (0..prompt.len()).filter(|at| turns.placeholders.contains(&prompt[*at])).collect();
        let hidden = golden.matrix(&name("thinker_hidden"), device)?;
        let tap = (!media.is_empty()).then(|| hidden.select(0, indices(media, device)));
        Ok(Self {
            prompt: prompt.to_vec(),
            answer: answer.to_vec(),
            layout: layout(model, golden, row)?,
            tap,
            codes: golden.rows_of_ids(&name("codes"))?,
        })
    }
}

/// Media of a conversation, from the sizes stored.
fn layout(model: &Model, golden: &Golden, row: usize) -> Result<MediaLayout> {
    let thinker: ThinkerConfig = model.checkpoint.config().section()?;
    let vision: VisionConfig = model.checkpoint.config().section()?;
    let audio: aut_encoder::AudioConfig = model.checkpoint.config().section()?;
    let (merge, mut items) = (vision.spatial_merge_size, Vec::new());
    let (frames, grid) = (format!("in.row{row}.audio_frames"), format!("in.row{row}.image_grid_thw"));
    if golden.has(&frames) {
        items.extend(golden.sizes(&frames)?.into_iter().map(|frames| MediaItem::Audio(audio.tokens(frames))));
    }
    if golden.has(&grid) {
        items.extend(golden.sizes(&grid)?.chunks(3).map(|grid| MediaItem::Image([grid[1] / merge, grid[2] / merge])));
    }
    let (ids, ids_per_second) = (media_ids(&thinker), thinker.position_id_per_seconds);
    Ok(MediaLayout { ids, items, audio_in_video: Vec::new(), ids_per_second })
}
