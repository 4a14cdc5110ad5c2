use nn::sampler::{id_mask, repetition_penalty, suppress, top_k, top_p};
use omni_core::Result;

use super::Model;
use super::case::Case;

/// Score processing in the reference's order, with the settings the case is made with.
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
    // As the reference, impossible scores stay what they are.
    let scores = suppress_again(scores.clone() / 0.9, &scores);
    case.compare("after_temperature", scores.clone(), TOLERANCE);
    let scores = top_k(scores, 50);
    case.compare("after_top_k", scores.clone(), TOLERANCE);
    let scores = top_p(scores, 0.8);
    case.compare("after_top_p", scores.clone(), TOLERANCE);
    case.compare("probabilities", burn::tensor::activation::softmax(scores, 1), TOLERANCE);
    Ok(())
}

/// −∞ divided by a temperature is −∞; the stand-in for it must not change either.
fn suppress_again(scores: burn::tensor::Tensor<2>, before: &burn::tensor::Tensor<2>) -> burn::tensor::Tensor<2> {
    let impossible = before.clone().lower_equal_elem(nn::sampler::NEVER);
    scores.mask_fill(impossible, nn::sampler::NEVER)
}
