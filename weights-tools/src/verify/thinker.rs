use burn::tensor::Tensor;
use checkpoint::Component;
use moe_thinker::Thinker;
use nn::id_row;
use omni_core::{DecoderInput, Positions, Result, SpanLayout, Stage, Thinker as _};

use super::Model;
use super::case::{Case, NEAR, STATES};
use super::positions::{self, Rows};
use super::recorder::{Recorder, host_ints};

/// Tensors that only a case with media has.
pub(super) const MEDIA: [&str; 3] = ["input_features", "pixel_values", "pixel_values_videos"];

/// A text prompt through every layer, then greedy decoding.
pub(super) fn run(model: &Model, case: &mut Case) -> Result<()> {
    if MEDIA.iter().any(|name| case.has(name)) {
        case.not_covered("the prompt holds media, whose encoders this version does not have");
        return Ok(());
    }
    let thinker = Thinker::load(&model.checked(Component::Thinker)?, model.config())?;
    let rows = Rows::read(case)?;
    let (positions, deltas) = text_positions(model, &rows);
    positions::compare(case, &rows, &positions, &deltas);

    let embeds = thinker.embed(case.int_tensor("input_ids", &model.device)?);
    case.compare("inputs_embeds", embeds.clone(), NEAR);
    let mut state = thinker.start();
    let input = DecoderInput { embeds, positions, left_padding: rows.padding.clone(), visual: None };
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

/// Positions of left-padded text rows.
fn text_positions(model: &Model, rows: &Rows) -> (Positions, Vec<f32>) {
    let per_second = model.config().thinker.position_id_per_seconds;
    let each =
        rows.valid.iter().map(|row| tm_rope::positions(&[SpanLayout::Sequence { tokens: row.len() }], per_second));
    let (positions, deltas): (Vec<_>, Vec<_>) = each.unzip();
    (tm_rope::left_padded(&positions).0, deltas)
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

/// Greedy answer to a text prompt.
pub(super) fn answer(model: &Model, thinker: &Thinker, prompt: &[u32], limit: usize) -> Result<Answer> {
    let mut sequence = prompt.to_vec();
    let mut state = thinker.start();
    let mut ids = id_row(prompt, &model.device);
    let (mut embeds, mut taps) = (Vec::new(), Vec::new());
    for _ in 0..limit {
        let rows = thinker.embed(ids);
        let positions = Positions::sequence(state.tokens() as f32, rows.dims()[1]);
        embeds.push(rows.clone());
        let output = thinker.step(&mut state, DecoderInput::text(rows, positions))?;
        taps.extend(output.tap);
        ids = output.logits.argmax(1);
        let id = ids.clone().into_scalar::<i64>() as u32;
        sequence.push(id);
        if id == model.config().im_end_token_id {
            break;
        }
    }
    let tap = (!taps.is_empty()).then(|| Tensor::cat(taps, 1));
    Ok(Answer { sequence, embeds: Tensor::cat(embeds, 1), tap })
}
