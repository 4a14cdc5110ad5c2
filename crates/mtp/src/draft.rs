//! Speculative decoding of a frame by the predictor itself: heads of later codebooks draft on the state at hand, and one pass of the
//! decoder verifies the drafts.
//!
//! The state that the last code was chosen from also goes through the heads of the next few codebooks. Their drafts are fed in one pass
//! with the code itself, which reads the decoder's weights once for all of them; a draft that the pass rejects is replaced.
//! Accepting with probability `min(1, p / q)` and replacing from `max(0, p − q)` leaves the distribution of the codes as it is
//! (Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", appendix A.1).

use std::collections::{BTreeMap, VecDeque};

use burn::tensor::Tensor;
use nn::{DecoderRun, Engine, SKINNY_MAX_ROWS, Sampler};
use omni_core::{FrameCodes, Positions, Result};

use crate::CodePredictor;
use crate::run::{FrameRun, checked};

/// A drafted code, and the probabilities `[V]` it was drawn with.
#[derive(Debug)]
struct Draft {
    code: u32,
    probabilities: Vec<f32>,
}

/// A frame in the making.
#[derive(Debug)]
struct Partial {
    /// Residual codes decided.
    codes: Vec<u32>,
    /// Drafts of the codes after them.
    drafts: VecDeque<Draft>,
    /// The row, in the output of the last pass, that the last code was chosen from or the next one will be.
    row: usize,
}

/// A row that goes through the head of a residual codebook, for one run.
#[derive(Debug, Clone, Copy)]
struct Query {
    run: usize,
    row: usize,
    head: usize,
}

impl CodePredictor {
    /// Predicts one frame of each run with drafts. The runs' passes take at most [`SKINNY_MAX_ROWS`] rows, see [`fitting`].
    pub(crate) fn drafted_frames<E: Engine>(&self, e: &E, mut frames: Vec<FrameRun>) -> Vec<Result<FrameCodes>> {
        let mut hidden = self.begin(e, &mut frames); // [R, D]
        let partial = |row| Partial { codes: Vec::new(), drafts: VecDeque::new(), row };
        let mut partial: Vec<Partial> = (0..frames.len()).map(partial).collect();
        self.decide(e, &hidden, &mut frames, &mut partial);
        while partial.iter().any(|frame| self.lacks_codes(frame)) {
            self.draft(e, &hidden, &mut frames, &mut partial);
            hidden = self.feed(e, &mut frames, &mut partial); // [N, D]
            self.decide(e, &hidden, &mut frames, &mut partial);
        }
        checked(&mut frames, |run| {
            let residual = std::mem::take(&mut partial[run].codes);
            FrameCodes { embeds: self.sum_of_embeddings(e, &residual), residual }
        })
    }

    fn lacks_codes(&self, frame: &Partial) -> bool {
        frame.codes.len() < self.lm_head.len()
    }

    /// Drafts the next codes of each frame with the heads of their codebooks, on the state that its last code was chosen from.
    fn draft<E: Engine>(&self, e: &E, hidden: &E::Rows, frames: &mut [FrameRun], partial: &mut [Partial]) {
        let mut queries = Vec::new();
        for (run, frame) in partial.iter().enumerate() {
            let next = frame.codes.len();
            let heads = next..self.lm_head.len().min(next + frames[run].state.drafts);
            queries.extend(heads.map(|head| Query { run, row: frame.row, head }));
        }
        for (Query { run, .. }, probabilities) in self.probabilities(e, hidden, frames, &queries) {
            let state = &mut *frames[run].state;
            let code = state.sampler.draw(&probabilities);
            state.counts.drafted += 1;
            partial[run].drafts.push_back(Draft { code, probabilities });
        }
    }

    /// Feeds the last code and the drafts of each frame; returns the states `[N, D]`, and moves each frame to its first of them.
    fn feed<E: Engine>(&self, e: &E, frames: &mut [FrameRun], partial: &mut [Partial]) -> E::Rows {
        let (mut rows, mut steps) = (Vec::new(), Vec::new());
        for (frame, state) in partial.iter_mut().zip(frames.iter_mut().map(|frame| &mut *frame.state)) {
            let Some((last, before)) = frame.codes.split_last().filter(|_| self.lacks_codes(frame)) else {
                continue;
            };
            // The two rows that the frame starts from, and the codes before the last; drafts that were replaced go.
            state.decoder.truncate(2 + before.len());
            let codes = std::iter::once(*last).chain(frame.drafts.iter().map(|draft| draft.code));
            // Nothing is predicted from the code of the last codebook.
            let tables = &self.codec_embedding[before.len()..self.lm_head.len() - 1];
            let row = |(table, code)| e.tensor(&e.embed(table, &e.ids(&[code])), 0..1);
            frame.row = rows.len();
            rows.extend(tables.iter().zip(codes).map(row));
            let start = state.decoder.tokens() as f32;
            steps.push((&mut state.decoder, Positions::sequence(start, rows.len() - frame.row)));
        }
        let x = e.rows(&rows.iter().collect::<Vec<&Tensor<2>>>());
        let mut runs: Vec<_> = steps.iter_mut().map(|(state, positions)| DecoderRun::new(state, positions)).collect();
        self.model.forward(e, x, &mut runs)
    }

    /// Decides the drafts of each frame one after another, up to the first that is replaced; after the last, chooses one more code.
    fn decide<E: Engine>(&self, e: &E, hidden: &E::Rows, frames: &mut [FrameRun], partial: &mut [Partial]) {
        let mut open: Vec<usize> = (0..partial.len()).collect();
        loop {
            open.retain(|run| self.lacks_codes(&partial[*run]));
            if open.is_empty() {
                return;
            }
            let query = |run: &usize| Query { run: *run, row: partial[*run].row, head: partial[*run].codes.len() };
            let queries: Vec<Query> = open.iter().map(query).collect();
            for (Query { run, .. }, p) in self.probabilities(e, hidden, frames, &queries) {
                let (frame, state) = (&mut partial[run], &mut *frames[run].state);
                let (code, stood) = settled(&mut state.sampler, frame.drafts.pop_front(), &p);
                state.sampler.accept(code);
                frame.codes.push(code);
                if stood {
                    state.counts.accepted += 1;
                    frame.row += 1;
                } else {
                    frame.drafts.clear();
                    open.retain(|other| *other != run);
                }
            }
        }
    }

    /// Probabilities `[V]` of each query, as its run samples; those of one run are in the order of the codebooks.
    fn probabilities<E: Engine>(
        &self,
        e: &E,
        hidden: &E::Rows,
        frames: &mut [FrameRun],
        queries: &[Query],
    ) -> Vec<(Query, Vec<f32>)> {
        let mut by_head: BTreeMap<usize, Vec<Query>> = BTreeMap::new();
        queries.iter().for_each(|query| by_head.entry(query.head).or_default().push(*query));
        let mut each = Vec::with_capacity(queries.len());
        for (head, queries) in by_head {
            let rows: Vec<usize> = queries.iter().map(|query| query.row).collect();
            let [logits] = e.linear(&mut e.select(hidden, &rows), [&self.lm_head[head]]); // [N, V]
            for (query, logits) in queries.into_iter().zip(e.logits(logits)) {
                each.push((query, frames[query.run].state.sampler.probabilities(logits.to_vec())));
            }
        }
        each
    }
}

/// Number of the first frames whose passes together take at most [`SKINNY_MAX_ROWS`] rows, so that no row influences another.
pub(crate) fn fitting(frames: &[FrameRun]) -> usize {
    let rows = frames.iter().scan(0, |rows, frame| {
        *rows += frame.state.drafts + 1;
        Some(*rows)
    });
    rows.take_while(|rows| *rows <= SKINNY_MAX_ROWS).count()
}

/// The code of the next codebook, whose probabilities are `p`: its draft, what replaces it, or, without one, a draw. Tells whether a draft
/// stood.
fn settled(sampler: &mut Sampler, draft: Option<Draft>, p: &[f32]) -> (u32, bool) {
    let Some(Draft { code, probabilities: q }) = draft else { return (sampler.draw(p), false) };
    let at = code as usize;
    match sampler.uniform() * q[at] < p[at] {
        true => (code, true),
        false => (sampler.draw(&excess(p, &q)), false),
    }
}

/// `max(0, p − q)`, from which the code is drawn that replaces a draft.
fn excess(p: &[f32], q: &[f32]) -> Vec<f32> {
    let excess: Vec<f32> = p.iter().zip(q).map(|(p, q)| (p - q).max(0.0)).collect();
    // Rounding may leave nothing where both are equal.
    if excess.iter().any(|weight| *weight > 0.0) { excess } else { p.to_vec() }
}
