//! Search for the likeliest text of a sound.

use burn::tensor::Tensor;
use omni_core::{Error, Result};

use super::{AutDecoder, AutDecoderRun, AutDecoderState};

/// How a text is searched for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchOptions {
    /// Beam width: texts kept at each step, at most 4096; 1 is greedy.
    pub beam: usize,
    /// Most tokens of a text.
    pub most_tokens: usize,
    /// The id that ends a text.
    pub end: u32,
    /// Texts are compared by their log-probability divided by this power of their length: 1 compares means, 0 sums.
    pub length_penalty: f64,
}

/// Most texts that are kept at each step.
const MOST_BEAMS: usize = 4096;

impl SearchOptions {
    /// Checks the width of the beam.
    ///
    /// # Errors
    /// [`Error::Request`] for a beam of 0 or above 4096.
    pub fn check(&self) -> Result<()> {
        match (1..=MOST_BEAMS).contains(&self.beam) {
            true => Ok(()),
            false => Err(Error::Request(format!("a beam of {} texts, expected 1 to {MOST_BEAMS}", self.beam))),
        }
    }
}

/// A text that may still grow.
struct Beam {
    state: AutDecoderState,
    ids: Vec<u32>,
    log_prob: f64,
}

/// A token that may follow a beam.
struct Candidate {
    beam: usize,
    id: u32,
    log_prob: f64,
}

/// A finished text.
struct Hypothesis {
    ids: Vec<u32>,
    /// Its log-probability, normalised by its length.
    score: f64,
}

impl AutDecoder {
    /// Finds the likeliest text behind a prompt for the encoder's rows `[S, D]` of a sound, by beam search with cached keys and
    /// values. The id that ends a text is not part of it.
    ///
    /// # Errors
    /// Those of [`AutDecoder::hidden_states`] and [`SearchOptions::check`]; [`Error::NotFinite`].
    pub fn search(&self, sound: &Tensor<2>, prompt: &[u32], options: &SearchOptions) -> Result<Vec<u32>> {
        options.check()?;
        let state = self.begin(std::slice::from_ref(sound)).remove(0);
        let mut beams = vec![Beam { state, ids: Vec::new(), log_prob: 0.0 }];
        let mut logits = self.next(&mut [AutDecoderRun { state: &mut beams[0].state, ids: prompt }])?;
        let mut found = Vec::new();
        for left in (0..options.most_tokens).rev() {
            beams = advance(&beams, candidates(&beams, &logits, options.beam + 1)?, options, &mut found);
            if left == 0 || found.len() >= options.beam || beams.is_empty() {
                break;
            }
            logits = self.next_of(&mut beams)?;
        }
        // A text that was cut off counts only if none was finished.
        if found.is_empty() {
            found.extend(beams.into_iter().map(|beam| Hypothesis::new(beam.ids, 0, beam.log_prob, options)));
        }
        let best = found.into_iter().reduce(|best, other| if other.score > best.score { other } else { best });
        Ok(best.map_or(Vec::new(), |best| best.ids))
    }

    fn next_of(&self, beams: &mut [Beam]) -> Result<Vec<Vec<f32>>> {
        let runs = beams.iter_mut().map(|Beam { state, ids, .. }| AutDecoderRun { state, ids: &ids[ids.len() - 1..] });
        self.next(&mut runs.collect::<Vec<_>>())
    }
}

impl Hypothesis {
    fn new(ids: Vec<u32>, end: usize, log_prob: f64, options: &SearchOptions) -> Self {
        let length = (ids.len() + end).max(1) as f64;
        Self { ids, score: log_prob / length.powf(options.length_penalty) }
    }
}

/// The `count` likeliest tokens behind each beam, all together, likeliest first.
fn candidates(beams: &[Beam], logits: &[Vec<f32>], count: usize) -> Result<Vec<Candidate>> {
    let mut all = Vec::new();
    for (beam, logits) in logits.iter().enumerate() {
        let best = likeliest(logits, count);
        let greatest = f64::from(logits[best[0]]);
        let total: f64 = logits.iter().map(|logit| (f64::from(*logit) - greatest).exp()).sum();
        if !total.is_finite() {
            return Err(Error::NotFinite { stage: "text decoder" });
        }
        let before = beams[beam].log_prob - greatest - total.ln();
        all.extend(best.iter().map(|at| Candidate { beam, id: *at as u32, log_prob: before + f64::from(logits[*at]) }));
    }
    // The sort is stable: of equals, the first beam's lowest id comes first.
    all.sort_by(|a, b| b.log_prob.total_cmp(&a.log_prob));
    Ok(all)
}

/// Indices of the greatest values, greatest first, of equals the first.
fn likeliest(logits: &[f32], count: usize) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::with_capacity(count + 1);
    for (at, logit) in logits.iter().enumerate() {
        if best.len() == count && best.last().is_some_and(|least| logits[*least] >= *logit) {
            continue;
        }
        let place = best.partition_point(|other| logits[*other] >= *logit);
        best.insert(place, at);
        best.truncate(count);
    }
    best
}

/// Takes the likeliest candidates for the next beams; those that end their text go to `found`.
fn advance(
    beams: &[Beam],
    candidates: Vec<Candidate>,
    options: &SearchOptions,
    found: &mut Vec<Hypothesis>,
) -> Vec<Beam> {
    let mut next: Vec<Beam> = Vec::with_capacity(options.beam);
    for (rank, Candidate { beam, id, log_prob }) in candidates.into_iter().enumerate() {
        if next.len() == options.beam {
            break;
        }
        let Beam { state, ids, .. } = &beams[beam];
        if id != options.end {
            next.push(Beam { state: state.clone(), ids: [&ids[..], &[id]].concat(), log_prob });
        } else if rank < options.beam {
            found.push(Hypothesis::new(ids.clone(), 1, log_prob, options));
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_values_come_first_and_of_equals_the_first() {
        assert_eq!(likeliest(&[1.0, 3.0, 2.0, 3.0, -1.0], 3), [1, 3, 2]);
        assert_eq!(likeliest(&[5.0, 4.0], 4), [0, 1]);
        assert_eq!(likeliest(&[0.0, 0.0, 0.0, 7.0], 2), [3, 0]);
    }

    #[test]
    fn texts_are_compared_by_their_mean_unless_asked_otherwise() {
        let options = |length_penalty| SearchOptions { beam: 1, most_tokens: 9, end: 0, length_penalty };
        let score = |count: usize, penalty| Hypothesis::new(vec![1; count], 1, -6.0, &options(penalty)).score;
        assert_eq!((score(2, 1.0), score(5, 1.0), score(5, 0.0)), (-2.0, -1.0, -6.0));
    }
}
