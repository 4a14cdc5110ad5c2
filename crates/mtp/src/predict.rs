use burn::tensor::Tensor;
use nn::{DecoderState, Probe, Sampler};
use omni_core::{FrameCodes, FrameStart, Positions, SamplingOptions};

use crate::CodePredictor;
use crate::host::Memory;

/// Caches and the random source of one run; the caches' memory is used again for every frame.
#[derive(Debug, Clone)]
pub struct PredictorState {
    pub(crate) decoder: DecoderState,
    pub(crate) sampler: Sampler,
    pub(crate) memory: Memory,
}

/// Looks at what one frame computes, for parity tests. The empty probe `()` costs nothing.
pub trait PredictorProbe {
    /// The two rows a frame starts from `[B, 2, D]`.
    fn prefill(&mut self, _rows: &Tensor<3>) {}
    /// The two rows after the final norm `[B, 2, D]`.
    fn normed(&mut self, _hidden: &Tensor<3>) {}
    /// Scores of the next residual code `[B, V]`.
    fn logits(&mut self, _logits: &Tensor<2>) {}
    /// A look at the layers of the prefill.
    fn layers(&mut self) -> &mut dyn Probe;
}

impl PredictorProbe for () {
    fn layers(&mut self) -> &mut dyn Probe {
        self
    }
}

impl CodePredictor {
    /// One frame, with a look at every step.
    pub fn predict_with(
        &self,
        state: &mut PredictorState,
        hidden: Tensor<3>,
        first: Tensor<3>,
        probe: &mut dyn PredictorProbe,
    ) -> FrameCodes {
        state.decoder.clear();
        let rows = Tensor::cat(vec![hidden, first], 1); // [B, 2, D]
        probe.prefill(&rows);
        let mut hidden = self.run(state, rows, probe.layers());
        probe.normed(&hidden);
        let (mut codes, mut sum): (Vec<_>, Option<Tensor<3>>) = (Vec::new(), None);
        for (index, (head, table)) in self.lm_head.iter().zip(&self.codec_embedding).enumerate() {
            let last = hidden.dims()[1] - 1;
            let logits = head.rows(hidden.clone().narrow(1, last, 1).squeeze_dim(1)); // [B, V]
            probe.logits(&logits);
            let code = state.sampler.sample(logits); // [B, 1]
            let row = table.forward(code.clone()); // [B, 1, D]
            codes.push(code);
            if index + 1 < self.lm_head.len() {
                hidden = self.run(state, row.clone(), &mut ());
            }
            sum = Some(match sum {
                Some(sum) => sum + row,
                None => row,
            });
        }
        let embeds = sum.expect("there is at least one residual codebook");
        FrameCodes { residual: Tensor::cat(codes, 1), embeds }
    }

    fn run(&self, state: &mut PredictorState, rows: Tensor<3>, probe: &mut dyn Probe) -> Tensor<3> {
        let [batch, tokens, _] = rows.dims();
        let start = state.decoder.tokens();
        let positions = Positions::uniform(batch, (0..batch * tokens).map(|i| (start + i % tokens) as f32).collect());
        let hidden = self.model.forward(&mut state.decoder, rows, &positions, None, probe);
        hidden.expect("a frame has no more positions than codebooks")
    }
}

impl omni_core::CodePredictor for CodePredictor {
    type State = PredictorState;

    fn start(&self, sampling: &SamplingOptions) -> PredictorState {
        PredictorState { decoder: self.model.start(), sampler: Sampler::new(sampling, None), memory: Memory::default() }
    }

    fn predict(&self, state: &mut PredictorState, hidden: Tensor<3>, first: Tensor<3>) -> FrameCodes {
        match self.predict_on_host(state, &hidden, &first) {
            Some(codes) => codes,
            None => self.predict_with(state, hidden, first, &mut ()),
        }
    }

    fn predict_many(&self, frames: Vec<FrameStart<'_, PredictorState>>) -> Vec<FrameCodes> {
        self.predict_together(frames)
    }
}
