use burn::tensor::Tensor;
use checkpoint::Component;
use moe_thinker::{MediaRows, Thinker, media_ids, merge};
use omni_core::{DecoderInput, ModalityEncoder, Positions, Result, Stage, Thinker as _, VisualRows};
use tm_rope::MediaLayout;

use super::case::{Case, NEAR, STATES};
use super::positions::{self, Rows};
use super::recorder::{Recorder, host_ints};
use super::{Model, audio, vision};

/// A prompt through its encoders and every layer, then greedy decoding.
pub(super) fn run(model: &Model, case: &mut Case) -> Result<()> {
    let thinker = Thinker::load(&model.checked(Component::Thinker)?, model.config())?;
    let rows = Rows::read(case)?;
    let media = encode(model, case)?;
    let layout = layout(model, &media, has_joint_sound(model, &rows));
    let (positions, deltas) = left_padded_positions(&layout, &rows)?;
    positions::compare(case, &rows, &positions, &deltas);

    let ids: Vec<u32> = case.ints("input_ids")?.iter().map(|id| *id as u32).collect();
    let embeds = thinker.embed(case.int_tensor("input_ids", &model.device)?);
    let (embeds, visual) = merge(embeds, &ids, &layout.ids, media)?;
    compare_visual(case, visual.as_ref(), ids.len());
    case.compare("inputs_embeds", embeds.clone(), if layout.items.is_empty() { NEAR } else { STATES });
    let mut state = thinker.start();
    let input = DecoderInput { embeds, positions, left_padding: rows.padding.clone(), visual };
    let mut recorder = Recorder::default();
    let (hidden, _) = thinker.hidden(&mut state, input, &mut recorder)?;
    recorder.compare(case, "");
    case.compare("final_norm", hidden.clone(), STATES);
    let logits = thinker.logits(hidden); // [B, T, V]
    compare_logits(case, &rows, logits.clone());
    let last = logits.dims()[1] - 1;
    let logits = logits.narrow(1, last, 1).squeeze_dim::<2>(1);
    // A row's next position: its own tokens, without padding, plus its delta.
    let ahead = rows.padding.iter().zip(&deltas).map(|(padding, delta)| delta - *padding as f32).collect();
    decode(model, case, &thinker, Prefilled { state, logits, ahead })
}

/// What decoding goes on from.
struct Prefilled {
    state: moe_thinker::ThinkerState,
    /// `[B, V]`.
    logits: Tensor<2>,
    /// What each row's next position is ahead of the cache's length.
    ahead: Vec<f32>,
}

/// What the encoders make of the media of a case; none if it has none.
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

/// A vision start directly before an audio start only stands in a prompt with sound in video.
fn has_joint_sound(model: &Model, rows: &Rows) -> bool {
    let ids = media_ids(&model.config().thinker);
    let joint = [ids.vision_start, ids.audio_start];
    rows.valid.iter().any(|row| row.windows(2).any(|pair| pair == joint))
}

pub(super) fn layout(model: &Model, media: &MediaRows, audio_in_video: bool) -> MediaLayout {
    let config = &model.config().thinker;
    let ids_per_second = config.position_id_per_seconds;
    MediaLayout { ids: media_ids(config), items: media.items(), audio_in_video, ids_per_second }
}

/// Positions of left-padded rows; media only in a batch of one.
fn left_padded_positions(layout: &MediaLayout, rows: &Rows) -> Result<(Positions, Vec<f32>)> {
    let each: Vec<_> = rows.valid.iter().map(|row| layout.positions(row)).collect::<Result<_>>()?;
    let (positions, deltas): (Vec<_>, Vec<_>) = each.into_iter().unzip();
    Ok((tm_rope::left_padded(&positions).0, deltas))
}

fn compare_visual(case: &mut Case, visual: Option<&VisualRows>, tokens: usize) {
    let Some(visual) = visual else { return };
    let mut mask = vec![0; tokens];
    host_ints(visual.indices.clone()).0.iter().for_each(|at| mask[*at as usize] = 1);
    case.compare_ints("visual_pos_mask", &mask, &[1, tokens]);
    for (index, feature) in visual.deepstack.iter().enumerate() {
        case.compare(&format!("deepstack_{index}"), feature.clone(), STATES);
    }
}

fn compare_logits(case: &mut Case, rows: &Rows, logits: Tensor<3>) {
    let shape = logits.dims();
    let values: Vec<f32> = logits.into_data().try_to_vec_as().expect("a float tensor");
    let mask = rows.mask.clone();
    case.compare_where("logits", &values, &shape, STATES, |i| mask[i / shape[2]] != 0);
}

/// Greedy decoding over as many steps as the case has.
fn decode(model: &Model, case: &mut Case, thinker: &Thinker, prefilled: Prefilled) -> Result<()> {
    if !case.has("greedy_ids") {
        return Ok(());
    }
    let Prefilled { mut state, mut logits, ahead } = prefilled;
    let batch = ahead.len();
    let steps = *case.shape("greedy_ids")?.last().unwrap_or(&0);
    let (mut ids, mut scores, mut taps) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..steps {
        let next = logits.clone().argmax(1); // [B, 1]
        scores.push(logits);
        ids.push(host_ints(next.clone()).0);
        if step + 1 == steps {
            break;
        }
        let at = ahead.iter().map(|ahead| state.tokens() as f32 + ahead).collect();
        let input = DecoderInput::text(thinker.embed(next), Positions::uniform(batch, at));
        let output = thinker.step(&mut state, input)?;
        logits = output.logits;
        taps.extend(output.tap);
    }
    compare_ids(model, case, &ids)?;
    if batch == 1 {
        let scores = Tensor::cat(scores, 0); // [steps, V]
        let best = scores.clone().topk(2, 1); // [steps, 2]
        let margin = best.clone().narrow(1, 0, 1) - best.narrow(1, 1, 1);
        case.compare("greedy_logits", scores, STATES);
        case.compare("greedy_margin", margin, STATES);
        match taps.is_empty() {
            false => case.compare("decode_hidden_accept", Tensor::cat(taps, 1), STATES),
            true => case.compare_values("decode_hidden_accept", &[], &[0], STATES),
        }
    }
    Ok(())
}

/// After a row's end token the reference writes padding; only what comes before counts.
fn compare_ids(model: &Model, case: &mut Case, steps: &[Vec<i64>]) -> Result<()> {
    let end = i64::from(model.config().im_end_token_id);
    let golden = case.ints("greedy_ids")?;
    let batch = steps.first().map_or(1, Vec::len);
    let mut rows = Vec::new();
    for row in 0..batch {
        let expected = &golden[row * steps.len()..(row + 1) * steps.len()];
        let ended = expected.iter().position(|id| *id == end).unwrap_or(steps.len());
        let found = steps.iter().map(|step| step[row]).enumerate();
        rows.extend(found.map(|(step, id)| if step > ended { expected[step] } else { id }));
    }
    case.compare_ints("greedy_ids", &rows, &[batch, steps.len()]);
    Ok(())
}

/// A prompt and its greedy answer of at most `limit` tokens.
pub(super) struct Answer {
    /// Ids of prompt and answer, the end token included.
    pub(super) sequence: Vec<u32>,
    /// `[1, P + n - 1, D]`: stack inputs of everything that was fed.
    pub(super) embeds: Tensor<3>,
    /// `[1, P + n - 1, D]`: states of the accepted layer.
    pub(super) tap: Option<Tensor<3>>,
}

/// Greedy answer to a prompt that is already laid out; `ids` are the prompt's.
pub(super) fn answer(model: &Model, thinker: &Thinker, ids: &[u32], prompt: Prompt, limit: usize) -> Result<Answer> {
    let Prompt { mut input, delta } = prompt;
    let mut sequence = ids.to_vec();
    let mut state = thinker.start();
    let (mut embeds, mut taps) = (Vec::new(), Vec::new());
    for _ in 0..limit {
        embeds.push(input.embeds.clone());
        let output = thinker.step(&mut state, input)?;
        taps.extend(output.tap);
        let next = output.logits.argmax(1);
        let id = next.clone().into_scalar::<i64>() as u32;
        sequence.push(id);
        if id == model.config().im_end_token_id {
            break;
        }
        let position = Positions::sequence(state.tokens() as f32 + delta, 1);
        input = DecoderInput::text(thinker.embed(next), position);
    }
    let tap = (!taps.is_empty()).then(|| Tensor::cat(taps, 1));
    Ok(Answer { sequence, embeds: Tensor::cat(embeds, 1), tap })
}

/// A prompt, ready for the thinker.
pub(super) struct Prompt {
    pub(super) input: DecoderInput,
    /// What a later token's position is ahead of the cache's length.
    pub(super) delta: f32,
}
