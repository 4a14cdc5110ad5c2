use nn::sampler::{id_mask, repetition_penalty, soften, suppress, top_k, top_p};
use omni_core::Result;

use super::case::Case;
use super::model::Model;

/// Compares sampling from logits in the reference's order, with the settings of the case.
pub(super) fn run(model: &Model, case: &mut Case) -> Result<()> {
    const TOLERANCE: f64 = 1e-5;
    let device = &model.device;
    let scores = case.float_tensor::<2>("scores", device)?; // [B, V]
    let [batch, vocabulary] = scores.dims();
    let previous = case.ints("previous_ids")?;
    let per_row = previous.len() / batch;
    let seen = previous.chunks(per_row).map(|ids| id_mask(vocabulary, device, |id| ids.contains(&(id as i64))));
    let seen = burn::tensor::Tensor::cat(seen.collect(), 0);
    let hidden = id_mask(vocabulary, device, |id| (120..160).contains(&id) && id != 150);

    let scores = repetition_penalty(scores, seen, 1.05);
    case.compare("after_repetition_penalty", scores.clone(), TOLERANCE);
    let scores = suppress(scores, hidden);
    case.compare("after_suppression", scores.clone(), TOLERANCE);
    let scores = soften(scores, 0.9);
    case.compare("after_temperature", scores.clone(), TOLERANCE);
    let scores = top_k(scores, 50);
    case.compare("after_top_k", scores.clone(), TOLERANCE);
    let scores = top_p(scores, 0.8);
    case.compare("after_top_p", scores.clone(), TOLERANCE);
    case.compare("probabilities", burn::tensor::activation::softmax(scores, 1), TOLERANCE);
    Ok(())
}
