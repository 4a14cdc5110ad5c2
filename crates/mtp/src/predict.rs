use burn::tensor::Tensor;
use nn::sampler::Suppressed;
use nn::{DecoderRun, Engine, SKINNY_MAX_ROWS, Sampler, last_rows, on_engine};
use omni_core::{Error, FrameCodes, FrameStart, Positions, Result, SamplingOptions};

use crate::CodePredictor;
use crate::draft::fitting;
use crate::model::with_rows;
use crate::run::{DraftCounts, FrameRun, PredictorState, checked};

/// The chosen codes, replaced by those that the probes return.
fn shown<E: Engine>(e: &E, frames: &mut [FrameRun], ids: E::Ids) -> E::Ids {
    if frames.iter().all(|frame| frame.probe.is_none()) {
        return ids;
    }
    let mut codes = e.read_ids(&[ids]);
    for (code, frame) in codes.iter_mut().zip(frames) {
        if let Some(probe) = &mut frame.probe {
            *code = probe.chosen(*code);
        }
    }
    e.ids(&codes)
}

impl CodePredictor {
    /// A fresh state.
    pub fn start(&self, sampling: &SamplingOptions) -> PredictorState {
        PredictorState {
            decoder: self.model.start(),
            sampler: Sampler::new(sampling, Suppressed::default()),
            drafts: 0,
            counts: DraftCounts::default(),
        }
    }

    /// Predicts one frame of each run in one batch: each run has its own caches and random source, and gets the codes it gets
    /// alone.
    ///
    /// # Errors
    /// [`Error::Request`] if a frame starts from rows of another width. A run fails on its own, with [`Error::NotFinite`], if one of its
    /// logits is NaN or infinite.
    pub fn predict(&self, mut frames: Vec<FrameRun>) -> Result<Vec<Result<FrameCodes>>> {
        let width = self.width();
        for FrameRun { start: FrameStart { hidden, first }, .. } in &frames {
            if hidden.dims() != [1, width] || first.dims() != [1, width] {
                let (hidden, first) = (hidden.dims(), first.dims());
                let reason = format!("a frame starts from rows {hidden:?} and {first:?}, expected [1, {width}] each");
                return Err(Error::Request(reason));
            }
        }
        let mut codes = Vec::with_capacity(frames.len());
        while let Some(first) = frames.first() {
            // Frames with and without drafts alternate rarely: options are those of an application.
            let drafts = first.drafts();
            let alike = frames.iter().take_while(|frame| frame.drafts() == drafts).count();
            // With more rows than these, the results of a row would depend on the others.
            let most = if drafts { fitting(&frames[..alike]) } else { alike.min(SKINNY_MAX_ROWS) };
            let rest = frames.split_off(most);
            frames.iter_mut().for_each(|frame| frame.state.decoder.clear());
            codes.extend(on_engine!(self.engine, |e| match drafts {
                true => self.drafted_frames(e, frames),
                false => self.frames(e, frames),
            }));
            frames = rest;
        }
        Ok(codes)
    }

    fn frames<E: Engine>(&self, e: &E, mut frames: Vec<FrameRun>) -> Vec<Result<FrameCodes>> {
        let mut hidden = self.begin(e, &mut frames); // [R, D]
        let (mut codes, mut sum) = (Vec::new(), None);
        for (index, (head, table)) in self.lm_head.iter().zip(&self.codec_embedding).enumerate() {
            let [logits] = e.linear(&mut hidden, [head]); // [R, V]
            for (row, frame) in frames.iter_mut().enumerate() {
                if let Some(probe) = &mut frame.probe {
                    probe.logits(&e.tensor(&logits, row..row + 1));
                }
            }
            let mut samplers: Vec<_> = frames.iter_mut().map(|frame| &mut frame.state.sampler).collect();
            let ids = e.sample(logits, &mut samplers);
            let ids = shown(e, &mut frames, ids);
            let rows = e.embed(table, &ids); // [R, D]
            codes.push(ids);
            sum = Some(with_rows(e, sum, &rows));
            if index + 1 < self.lm_head.len() {
                hidden = self.step(e, &mut frames, rows, 1);
            }
        }
        let sum = sum.expect("there is at least one residual codebook");
        let codes = e.read_ids(&codes); // [Q - 1, R]
        let count = frames.len();
        checked(&mut frames, |run| {
            let residual = codes.iter().skip(run).step_by(count).copied().collect();
            FrameCodes { residual, embeds: e.tensor(&sum, run..run + 1) }
        })
    }

    /// Prefills the two rows that each frame starts from: in one step if no row's results then depend on the others, otherwise one
    /// row after the other. Returns the states `[R, D]` that the first residual codes are chosen from.
    pub(crate) fn begin<E: Engine>(&self, e: &E, frames: &mut [FrameRun]) -> E::Rows {
        for frame in frames.iter_mut() {
            if let Some(probe) = &mut frame.probe {
                let rows = e.rows(&[&frame.start.hidden, &frame.start.first]);
                probe.prefill(&e.tensor(&rows, 0..2));
            }
        }
        let at_once = 2 * frames.len() <= SKINNY_MAX_ROWS || frames.iter().any(|frame| frame.probe.is_some());
        if at_once {
            let both: Vec<&Tensor<2>> =
                frames.iter().flat_map(|frame| [&frame.start.hidden, &frame.start.first]).collect();
            let x = e.rows(&both); // [2 * R, D]
            return self.step(e, frames, x, 2);
        }
        let [hidden, first] = [|start: &FrameStart| start.hidden.clone(), |start: &FrameStart| start.first.clone()]
            .map(|part| frames.iter().map(|frame| part(frame.start)).collect::<Vec<_>>());
        let x = e.rows(&hidden.iter().collect::<Vec<_>>());
        self.step(e, frames, x, 1);
        let x = e.rows(&first.iter().collect::<Vec<_>>());
        self.step(e, frames, x, 1)
    }

    /// Feeds `rows` rows to each run; returns their last states `[R, D]`.
    fn step<E: Engine>(&self, e: &E, frames: &mut [FrameRun], x: E::Rows, rows: usize) -> E::Rows {
        // All runs are at the same position in their frames.
        let start = frames.first().map_or(0, |frame| frame.state.decoder.tokens());
        let positions = Positions::sequence(start as f32, rows);
        let runs = frames.iter_mut().map(|FrameRun { state, probe, .. }| DecoderRun {
            probe: probe.as_mut().filter(|_| start == 0).map(|probe| probe.layers()),
            ..DecoderRun::new(&mut state.decoder, &positions)
        });
        let hidden = self.model.forward(e, x, &mut runs.collect::<Vec<_>>());
        if start == 0 {
            for (run, frame) in frames.iter_mut().enumerate() {
                if let Some(probe) = &mut frame.probe {
                    probe.normed(&e.tensor(&hidden, run * rows..(run + 1) * rows));
                }
            }
        }
        match rows {
            1 => hidden,
            _ => e.select(&hidden, &last_rows(&vec![rows; frames.len()])),
        }
    }
}
