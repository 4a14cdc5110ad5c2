use std::sync::Mutex;

use burn::tensor::Tensor;
use checkpoint::Component;
use moe_talker::Talker;
use mtp::{CodePredictor, PredictorProbe, PredictorState};
use nn::Probe;
use omni_core::{CodePredictor as _, FrameCodes, Result, SamplingOptions};

use super::Model;
use super::case::{Case, NEAR, STATES};
use super::recorder::{Recorder, host_ints};

/// Keeps what one frame shows on the way.
#[derive(Default)]
struct Frame {
    prefill: Option<Tensor<3>>,
    normed: Option<Tensor<3>>,
    logits: Vec<Tensor<2>>,
    layers: Recorder,
}

impl PredictorProbe for Frame {
    fn prefill(&mut self, rows: &Tensor<3>) {
        self.prefill = Some(rows.clone());
    }

    fn normed(&mut self, hidden: &Tensor<3>) {
        self.normed = Some(hidden.clone());
    }

    fn logits(&mut self, logits: &Tensor<2>) {
        self.logits.push(logits.clone());
    }

    fn layers(&mut self) -> &mut dyn Probe {
        &mut self.layers
    }
}

/// One frame, greedy.
pub(super) fn run(model: &Model, case: &mut Case) -> Result<()> {
    let predictor = CodePredictor::load(&model.checked(Component::CodePredictor)?, model.config())?;
    let talker = Talker::load(&model.checked(Component::Talker)?, model.config())?;
    let hidden = case.float_tensor::<3>("past_hidden", &model.device)?;
    let first = case.int_tensor::<1>("first_code", &model.device)?.unsqueeze::<2>();
    let embeds = talker.codec_rows(first.clone());
    let mut frame = Frame::default();
    let mut state = predictor.start(&SamplingOptions::greedy());
    let made = predictor.predict_with(&mut state, hidden, embeds.clone(), &mut frame);
    if let Some(rows) = frame.prefill {
        case.compare("prefill_input", rows, NEAR);
    }
    frame.layers.compare(case, "prefill_");
    if let Some(hidden) = frame.normed {
        case.compare("prefill_norm", hidden, STATES);
    }
    case.compare("logits", Tensor::cat(frame.logits, 0), STATES);
    let (codes, _) = host_ints(Tensor::cat(vec![first, made.residual.clone()], 1));
    case.compare_ints("codes", &codes, &[codes.len()]);
    // Once from the loop's own sum, once by looking the codes up again.
    let looked_up = predictor.embed(made.residual) + embeds.clone();
    case.compare("frame_embedding", made.embeds + embeds, NEAR);
    case.compare("frame_embedding", looked_up, NEAR);
    Ok(())
}

/// A predictor that keeps what each frame starts from and scores.
pub(super) struct Recording {
    inner: CodePredictor,
    frames: Mutex<(Vec<Tensor<3>>, Vec<Tensor<3>>)>,
}

impl Recording {
    pub(super) fn new(inner: CodePredictor) -> Self {
        Self { inner, frames: Mutex::default() }
    }

    /// `[frames, 2, D]` and `[frames, Q - 1, V]`, if there was any frame.
    pub(super) fn take(self) -> Option<(Tensor<3>, Tensor<3>)> {
        let (prefills, logits) = self.frames.into_inner().expect("no frame panicked");
        (!prefills.is_empty()).then(|| (Tensor::cat(prefills, 0), Tensor::cat(logits, 0)))
    }
}

impl omni_core::CodePredictor for Recording {
    type State = PredictorState;

    fn start(&self, sampling: &SamplingOptions) -> PredictorState {
        self.inner.start(sampling)
    }

    fn predict(&self, state: &mut PredictorState, hidden: Tensor<3>, first: Tensor<3>) -> FrameCodes {
        let mut frame = Frame::default();
        let made = self.inner.predict_with(state, hidden, first, &mut frame);
        let mut kept = self.frames.lock().expect("no frame panicked");
        kept.0.extend(frame.prefill);
        kept.1.push(Tensor::cat(frame.logits, 0).unsqueeze());
        made
    }
}
