//! One frame of each of several runs: their rows go through the weights together, each with its own caches and random source.

use burn::tensor::{Int, Tensor};
use nn::{DecoderRun, Embedding, Linear, RUNS_AT_ONCE};
use omni_core::{CodePredictor as _, FrameCodes, FrameStart, Positions};

use crate::{CodePredictor, PredictorState};

/// A run within its frame.
struct Run<'a> {
    state: &'a mut PredictorState,
    /// `[1, 1, D]`: the state the next code is read from.
    hidden: Tensor<3>,
    /// `[1, 1]` each.
    codes: Vec<Tensor<2, Int>>,
    /// `[1, 1, D]`: of the codes so far.
    sum: Option<Tensor<3>>,
}

impl CodePredictor {
    pub(crate) fn predict_together(&self, mut frames: Vec<FrameStart<'_, PredictorState>>) -> Vec<FrameCodes> {
        // Alone, or more than fit: the plain way, or in parts.
        if frames.len() <= 1 {
            return frames.into_iter().map(|frame| self.predict(frame.state, frame.hidden, frame.first)).collect();
        }
        if frames.len() > RUNS_AT_ONCE {
            let rest = frames.split_off(RUNS_AT_ONCE);
            let mut codes = self.predict_together(frames);
            codes.extend(self.predict_together(rest));
            return codes;
        }
        let mut runs = self.begin(frames);
        for (index, (head, table)) in self.lm_head.iter().zip(&self.codec_embedding).enumerate() {
            let rows = choose(&mut runs, head, table);
            if index + 1 < self.lm_head.len() {
                self.advance(&mut runs, rows);
            }
        }
        let done = |run: Run| FrameCodes {
            residual: Tensor::cat(run.codes, 1), // [1, Q - 1]
            embeds: run.sum.expect("there is at least one residual codebook"),
        };
        runs.into_iter().map(done).collect()
    }

    /// Takes the two rows each frame starts from: at once where that leaves each row computed by itself, else one after the
    /// other.
    fn begin<'a>(&self, frames: Vec<FrameStart<'a, PredictorState>>) -> Vec<Run<'a>> {
        let at_once = 2 * frames.len() <= RUNS_AT_ONCE;
        let (mut runs, mut starts) = (Vec::new(), [Vec::new(), Vec::new()]);
        for FrameStart { state, hidden, first } in frames {
            state.decoder.clear();
            runs.push(Run { state, hidden: hidden.clone(), codes: Vec::new(), sum: None });
            starts[0].push(hidden);
            starts[1].push(first);
        }
        let [hidden, first] = starts;
        if at_once {
            let both = hidden.into_iter().zip(first).map(|(hidden, first)| Tensor::cat(vec![hidden, first], 1));
            self.advance(&mut runs, both.collect());
        } else {
            self.advance(&mut runs, hidden);
            self.advance(&mut runs, first);
        }
        runs
    }

    /// Feeds rows `[1, T, D]` to each run.
    fn advance(&self, runs: &mut [Run], rows: Vec<Tensor<3>>) {
        let start = runs.first().map_or(0, |run| run.state.decoder.tokens());
        let positions = Positions::sequence(start as f32, rows.first().map_or(0, |rows| rows.dims()[1]));
        let steps = runs.iter_mut().zip(rows);
        // All runs are at the same place in their frames.
        let steps = steps.map(|(run, embeds)| DecoderRun::new(&mut run.state.decoder, embeds, &positions));
        let hidden = self.model.forward_many(steps.collect());
        for (run, hidden) in runs.iter_mut().zip(hidden) {
            let hidden = hidden.expect("a frame has no more positions than codebooks");
            let last = hidden.dims()[1] - 1;
            run.hidden = hidden.narrow(1, last, 1);
        }
    }
}

/// The next code of each run, by its own sampler; returns the codes' rows of the table `[1, 1, D]`.
fn choose(runs: &mut [Run], head: &Linear, table: &Embedding) -> Vec<Tensor<3>> {
    let hidden = runs.iter().map(|run| run.hidden.clone().squeeze_dim(1)).collect();
    let logits: Tensor<2> = head.rows(Tensor::cat(hidden, 0)); // [runs, V]
    let rows = runs.iter_mut().zip(logits.split(1, 0)).map(|(run, logits)| {
        let code = run.state.sampler.sample(logits); // [1, 1]
        let row = table.forward(code.clone()); // [1, 1, D]
        run.codes.push(code);
        run.sum = Some(match run.sum.take() {
            Some(sum) => sum + row.clone(),
            None => row.clone(),
        });
        row
    });
    rows.collect()
}
