//! Softmax over the scores of one query.

use crate::activation::exp;

/// Turns each score into `exp((score - greatest) * scale)`, where `greatest` is at least `least`; returns `greatest` and the sum.
#[inline(always)]
pub(crate) fn softmax<const FUSED: bool>(scores: &mut [f32], scale: f32, least: f32) -> (f32, f32) {
    const LANES: usize = 16;
    let mut greatest = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in chunks.iter() {
        (0..LANES).for_each(|i| greatest[i] = if chunk[i] > greatest[i] { chunk[i] } else { greatest[i] });
    }
    let greatest = greatest.into_iter().chain(rest.iter().copied()).fold(least, f32::max);
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = exp::<FUSED>((chunk[i] - greatest) * scale);
            sums[i] += chunk[i];
        }
    }
    rest.iter_mut().for_each(|score| *score = exp::<FUSED>((*score - greatest) * scale));
    (greatest, sums.into_iter().sum::<f32>() + rest.iter().sum::<f32>())
}
