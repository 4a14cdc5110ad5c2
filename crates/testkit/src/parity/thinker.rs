use burn::tensor::{Tensor, TensorData};
use moe_thinker::{MediaRows, Thinker, ThinkerConfig, ThinkerInput, ThinkerRun, ThinkerState, media_ids, merge};
use omni_core::{ModalityEncoder, Positions, Result, VisualRows};
use tm_rope::MediaLayout;

use super::case::{Case, NEAR, STATES};
use super::model::Model;
use super::positions::{self, Rows};
use super::recorder::Recorder;
use super::{audio, vision};

/// Compares a prompt through its encoders and every layer, then greedy decoding with the stored ids forced.
pub(super) fn run(model: &Model, case: &mut Case) -> Result<()> {
    let thinker = Thinker::from_checkpoint(&model.checkpoint, &model.place, model.dtype)?;
    let rows = Rows::read(case)?;
    let mut media = encode(model, case)?;
    let config: ThinkerConfig = model.section()?;
    let layout = layout(&config, &media, has_joint_sound(&config, &rows));
    let each: Vec<_> = rows.valid.iter().map(|row| layout.positions(row)).collect::<Result<_>>()?;
    let (positions, deltas): (Vec<_>, Vec<_>) = each.into_iter().unzip();
    positions::compare(case, &rows, &tm_rope::left_padded(&positions).0, &deltas);

    let mut prefilled = Vec::new();
    for (row, positions) in rows.valid.iter().zip(positions) {
        // Only a batch of one has media.
        let (embeds, visual) = merge(thinker.embed(row), row, &layout.ids, std::mem::take(&mut media))?;
        prefilled.push(prefill(case, &thinker, ThinkerInput { embeds, positions, visual, tap: false }, &rows)?);
    }
    let tokens = rows.mask.len() / rows.valid.len();
    let width = prefilled[0].logits.dims()[1];
    // Padding is neither computed nor compared.
    let mut logits = Vec::with_capacity(rows.mask.len() * width);
    for (row, padding) in prefilled.iter().zip(&rows.padding) {
        logits.extend(std::iter::repeat_n(0.0, padding * width));
        logits.extend(nn::to_f32_vec(&row.logits));
    }
    let mask = rows.mask.clone();
    case.compare_where("logits", &logits, &[rows.valid.len(), tokens, width], STATES, |i| mask[i / width] != 0);
    decode(model, case, &thinker, prefilled, &deltas)
}

/// State that decoding continues from.
struct Prefilled {
    state: ThinkerState,
    /// `[T, V]`.
    logits: Tensor<2>,
}

/// Prefills one row of a batch, recording every layer.
fn prefill(case: &mut Case, thinker: &Thinker, input: ThinkerInput, rows: &Rows) -> Result<Prefilled> {
    let (mut state, mut recorder) = (thinker.start(), Recorder::default());
    let alone = rows.valid.len() == 1;
    if alone {
        compare_visual(case, input.visual.as_ref(), input.positions.tokens());
        case.compare("inputs_embeds", input.embeds.clone(), if input.visual.is_none() { NEAR } else { STATES });
    }
    let run = ThinkerRun { state: &mut state, input: &input, probe: Some(&mut recorder) };
    let states = thinker.states(run)?;
    if alone {
        recorder.compare(case, "", &["prompt", "text prompt"]);
        case.compare("final_norm", states.hidden, STATES);
    }
    Ok(Prefilled { state, logits: states.logits })
}

/// Encodes the media of a case; empty if it has none.
pub(super) fn encode(model: &Model, case: &mut Case) -> Result<MediaRows> {
    let mut rows = MediaRows::default();
    if case.has("input_features") {
        let encoded = audio::load(model)?.encode(audio::items(model, case)?)?;
        case.compare("audio_features", encoded.embeds.clone(), STATES);
        rows.audio = Some(encoded);
    }
    if case.has("pixel_values") {
        let items = vision::items(model, case, ["pixel_values", "image_grid_thw"])?;
        rows.image = Some(vision::load(model)?.encode(items)?);
    }
    if case.has("pixel_values_videos") {
        let mut items = vision::items(model, case, ["pixel_values_videos", "video_grid_thw"])?;
        let seconds = case.floats("video_second_per_grid")?;
        items.iter_mut().zip(seconds).for_each(|(item, seconds)| item.seconds_per_step = seconds);
        rows.video = Some(vision::load(model)?.encode(items)?);
    }
    Ok(rows)
}

/// Whether the prompt has audio in video: only there a vision start stands directly before an audio start.
fn has_joint_sound(config: &ThinkerConfig, rows: &Rows) -> bool {
    let ids = media_ids(config);
    let joint = [ids.vision_start, ids.audio_start];
    rows.valid.iter().any(|row| row.windows(2).any(|pair| pair == joint))
}

pub(super) fn layout(config: &ThinkerConfig, media: &MediaRows, audio_in_video: bool) -> MediaLayout {
    let ids_per_second = config.position_id_per_seconds;
    let items = media.items();
    let audio_in_video = vec![audio_in_video; items.len()];
    MediaLayout { ids: media_ids(config), items, audio_in_video, ids_per_second }
}

fn compare_visual(case: &mut Case, visual: Option<&VisualRows>, tokens: usize) {
    let Some(visual) = visual else { return };
    let mut mask = vec![0; tokens];
    visual.indices.iter().for_each(|at| mask[*at] = 1);
    case.compare_ints("visual_pos_mask", &mask, &[1, tokens]);
    for (index, feature) in visual.deepstack.iter().enumerate() {
        case.compare(&format!("deepstack_{index}"), feature.clone(), STATES);
    }
}

/// Decodes all rows as a batch with the stored greedy ids forced; the choice of each step is compared with the stored one.
fn decode(model: &Model, case: &mut Case, thinker: &Thinker, prefilled: Vec<Prefilled>, deltas: &[f32]) -> Result<()> {
    if !case.has("greedy_ids") {
        return Ok(());
    }
    let end = model.end_id();
    let batch = prefilled.len();
    let stored: Vec<u32> = case.ints("greedy_ids")?.into_iter().map(|id| id as u32).collect();
    let steps = stored.len() / batch;
    let (mut states, mut scores): (Vec<_>, Vec<_>) = prefilled
        .into_iter()
        .map(|Prefilled { state, logits }| {
            let last = logits.dims()[0] - 1;
            (state, vec![nn::to_f32_vec(&logits.narrow(0, last, 1))])
        })
        .unzip();
    let mut taps = Vec::new();
    for step in 0..steps.saturating_sub(1) {
        let inputs = states.iter().zip(deltas).enumerate().map(|(row, (state, delta))| {
            let embeds = thinker.embed(&[stored[row * steps + step]]);
            let positions = Positions::sequence(state.tokens() as f32 + delta, 1);
            ThinkerInput { tap: true, ..ThinkerInput::text(embeds, positions) }
        });
        let inputs: Vec<_> = inputs.collect();
        let runs = states.iter_mut().zip(&inputs).map(|(state, input)| ThinkerRun::new(state, input));
        for (row, output) in thinker.forward(runs.collect()).into_iter().enumerate() {
            let output = output?;
            scores[row].push(output.logits.to_vec());
            taps.extend(output.tap.filter(|_| batch == 1));
        }
    }
    for (row, scores) in scores.iter().enumerate() {
        let stored = &stored[row * steps..(row + 1) * steps];
        // After a row's end token the reference writes padding; only what comes before counts.
        let counted = stored.iter().position(|id| Some(*id) == end).map_or(steps, |at| at + 1);
        let found: Vec<u32> = scores.iter().map(|scores| best(scores)).collect();
        let name = Case::name_of_text(row, batch);
        case.compare_choices("greedy_ids", &name, 0, &found[..counted], &stored[..counted]);
    }
    if batch == 1 {
        let (steps, width) = (scores[0].len(), scores[0][0].len());
        let values = TensorData::new(scores.concat().concat(), [steps, width]);
        let scores = Tensor::<2>::from_data(values, &model.device);
        let best = scores.clone().topk(2, 1); // [steps, 2]
        let margin = best.clone().narrow(1, 0, 1) - best.narrow(1, 1, 1);
        case.compare("greedy_logits", scores, STATES);
        case.compare("greedy_margin", margin, STATES);
        match taps.is_empty() {
            false => case.compare("decode_hidden_accept", Tensor::cat(taps, 0), STATES),
            true => case.compare_values("decode_hidden_accept", &[], &[0], STATES),
        }
    }
    Ok(())
}

/// The id with the best score; the first of equal ones.
pub fn best(scores: &[f32]) -> u32 {
    let best = (0..scores.len()).reduce(|best, at| if scores[at] > scores[best] { at } else { best });
    best.unwrap_or(0) as u32
}

/// Results of the thinker for a prompt with its stored answer.
pub(super) struct Answer {
    /// For each token of the answer, the id chosen after the prompt and the tokens before it.
    pub(super) chosen: Vec<u32>,
    /// `[P + n - 1, D]`: inputs of the decoder stack for everything that was fed.
    pub(super) embeds: Tensor<2>,
    /// `[P + n - 1, D]`: states of the accepted layer.
    pub(super) tap: Option<Tensor<2>>,
}

/// Feeds a prepared prompt, then its stored answer `ids`, one at a time.
pub(super) fn answer(thinker: &Thinker, prompt: ThinkerInput, delta: f32, ids: &[u32]) -> Result<Answer> {
    let (mut input, mut state) = (ThinkerInput { tap: true, ..prompt }, thinker.start());
    let (mut embeds, mut taps, mut chosen) = (Vec::new(), Vec::new(), Vec::new());
    for id in ids {
        embeds.push(input.embeds.clone());
        let output = thinker.forward(vec![ThinkerRun::new(&mut state, &input)]).remove(0)?;
        taps.extend(output.tap);
        chosen.push(best(&output.logits.to_vec()));
        let position = Positions::sequence(state.tokens() as f32 + delta, 1);
        input = ThinkerInput { tap: true, ..ThinkerInput::text(thinker.embed(&[*id]), position) };
    }
    let tap = (!taps.is_empty()).then(|| Tensor::cat(taps, 0));
    Ok(Answer { chosen, embeds: Tensor::cat(embeds, 0), tap })
}
