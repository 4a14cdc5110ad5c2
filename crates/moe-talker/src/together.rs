//! Frames of several runs together: each weight is read once for all of them, and each run keeps its own caches, sampler and
//! random source.

use burn::tensor::{Int, Tensor};
use omni_core::{CodePredictor, FrameStart, Result};

use crate::{Speaking, Talker};

impl Talker {
    /// As [`Talker::codes`], for several runs.
    pub fn codes_many<P: CodePredictor>(
        &self,
        runs: &mut [&mut Speaking<P>],
        predictor: &P,
    ) -> Vec<Option<Tensor<2, Int>>> {
        if let [alone] = runs {
            return vec![self.codes(alone, predictor)];
        }
        let (mut firsts, mut starts) = (Vec::new(), Vec::new());
        for run in runs.iter_mut().filter(|run| run.stop().is_none()) {
            let first = self.codec_embedding.forward(run.code.clone()); // [1, 1, D]
            firsts.push(first.clone());
            starts.push(FrameStart { hidden: run.hidden.clone(), state: &mut run.predictor, first });
        }
        let mut frames = firsts.into_iter().zip(predictor.predict_many(starts));
        let codes = runs.iter_mut().map(|run| {
            run.stop().is_none().then(|| {
                let (first, frame) = frames.next().expect("one frame for each run that speaks on");
                run.keep_frame(first, frame) // [1, Q]
            })
        });
        codes.collect()
    }

    /// As [`Talker::advance`], for several runs, each with its row of text `[1, 1, D]`. A run that cannot take its row fails
    /// alone.
    pub fn advance_many<P: CodePredictor>(&self, runs: &mut [(&mut Speaking<P>, Tensor<3>)]) -> Vec<Result<()>> {
        if let [(alone, text)] = runs {
            return vec![self.advance(alone, text.clone(), &mut ())];
        }
        let inputs = runs.iter_mut().map(|(run, text)| run.next_input(text.clone(), &mut ()));
        let inputs: Vec<_> = inputs.collect();
        let made: Vec<bool> = inputs.iter().map(Option::is_some).collect();
        let steps = runs.iter_mut().zip(inputs).filter_map(|((run, _), input)| Some((&mut run.state, input?)));
        let mut outputs = self.step_many(steps.collect()).into_iter();
        let taken = runs.iter_mut().zip(made).map(|((run, _), made)| {
            if made {
                run.take_output(outputs.next().expect("one output for each run that made a frame")?, &mut ());
            }
            Ok(())
        });
        taken.collect()
    }
}
