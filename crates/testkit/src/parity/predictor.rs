use burn::tensor::Tensor;
use moe_talker::Talker;
use mtp::{CodePredictor, FrameRun, PredictorProbe};
use nn::Probe;
use omni_core::{FrameStart, Result, SamplingOptions};

use super::case::{Case, NEAR, STATES};
use super::model::Model;
use super::recorder::Recorder;

/// Records the intermediate results of one frame, with the stored codes forced.
#[derive(Default)]
pub(super) struct Frame {
    pub(super) prefill: Option<Tensor<2>>,
    normed: Option<Tensor<2>>,
    pub(super) logits: Vec<Tensor<2>>,
    layers: Recorder,
    /// Residual codes that are forced; codes beyond them are the chosen ones.
    stored: Vec<u32>,
    /// Codes that the predictor chose.
    pub(super) chosen: Vec<u32>,
}

impl Frame {
    /// Makes a recorder that forces these residual codes.
    pub(super) fn along(stored: Vec<u32>) -> Self {
        Self { stored, ..Self::default() }
    }
}

impl PredictorProbe for Frame {
    fn prefill(&mut self, rows: &Tensor<2>) {
        self.prefill = Some(rows.clone());
    }

    fn normed(&mut self, hidden: &Tensor<2>) {
        self.normed = Some(hidden.clone());
    }

    fn logits(&mut self, logits: &Tensor<2>) {
        self.logits.push(logits.clone());
    }

    fn chosen(&mut self, code: u32) -> u32 {
        self.chosen.push(code);
        self.stored.get(self.chosen.len() - 1).copied().unwrap_or(code)
    }

    fn layers(&mut self) -> &mut dyn Probe {
        &mut self.layers
    }
}

/// Compares one frame, greedy, with the stored codes forced.
pub(super) fn run(model: &Model, case: &mut Case) -> Result<()> {
    let predictor = CodePredictor::from_checkpoint(&model.checkpoint, &model.place, model.dtype)?;
    let talker = Talker::from_checkpoint(&model.checkpoint, &model.place, model.dtype)?;
    let hidden = case.float_tensor::<3>("past_hidden", &model.device)?.squeeze_dim::<2>(0);
    let first = case.ints("first_code")?[0] as u32;
    let stored: Vec<u32> = case.ints("codes")?.into_iter().map(|code| code as u32).collect();
    let start = FrameStart { hidden, first: talker.codec_rows(&[first])? };
    let mut frame = Frame::along(stored[1..].to_vec());
    let mut state = predictor.start(&SamplingOptions::greedy());
    let run = FrameRun { state: &mut state, start: &start, probe: Some(&mut frame) };
    let made = predictor.predict(vec![run])?.remove(0)?;
    if let Some(rows) = frame.prefill {
        case.compare("prefill_input", rows, NEAR);
    }
    frame.layers.compare(case, "prefill_", &["prefill"]);
    if let Some(hidden) = frame.normed {
        case.compare("prefill_norm", hidden, STATES);
    }
    case.compare("logits", Tensor::cat(frame.logits, 0), STATES);
    case.compare_choices("codes", "residual", 0, &frame.chosen, &stored[1..]);
    // Once the sum that the loop made, once that of looking the codes up again.
    let first = start.first.cast(burn::tensor::DType::F32);
    case.compare("frame_embedding", made.embeds + first.clone(), NEAR);
    case.compare("frame_embedding", predictor.embed(&made.residual)? + first, NEAR);
    Ok(())
}
