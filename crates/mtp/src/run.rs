//! A run: one frame of one answer in the making, and what stays from frame to frame.

use burn::tensor::Tensor;
use nn::{DecoderState, Probe, Sampler};
use omni_core::{FrameCodes, FrameStart, Result};

/// Most residual codes that are drafted at once.
pub const MAX_DRAFT_CODES: usize = 4;

/// Residual codes drafted, and how many of them were accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DraftCounts {
    /// Codes drafted.
    pub drafted: usize,
    /// Drafts accepted.
    pub accepted: usize,
}

/// Caches and random source of one run; the caches' memory is reused for every frame.
#[derive(Debug, Clone)]
pub struct PredictorState {
    pub(crate) decoder: DecoderState,
    pub(crate) sampler: Sampler,
    /// Codes drafted at once.
    pub(crate) drafts: usize,
    pub(crate) counts: DraftCounts,
}

impl PredictorState {
    /// Drafts up to this number of residual codes at once, at most [`MAX_DRAFT_CODES`]: one pass of the decoder then verifies them
    /// instead of a pass for each code. Greedy codes stay the same, and sampled ones keep their distribution, but are other draws.
    #[must_use]
    pub fn with_drafts(mut self, codes: usize) -> Self {
        self.drafts = codes.min(MAX_DRAFT_CODES);
        self
    }

    /// Drafts made and accepted so far.
    pub fn draft_counts(&self) -> DraftCounts {
        self.counts
    }
}

/// One frame of one run.
pub struct FrameRun<'a> {
    /// The run's state.
    pub state: &'a mut PredictorState,
    /// What the frame starts from.
    pub start: &'a FrameStart,
    /// Observes every step; a frame with a probe is predicted without drafts.
    pub probe: Option<&'a mut dyn PredictorProbe>,
}

impl std::fmt::Debug for FrameRun<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameRun").finish_non_exhaustive()
    }
}

impl<'a> FrameRun<'a> {
    /// Makes a frame without a probe.
    pub fn new(state: &'a mut PredictorState, start: &'a FrameStart) -> Self {
        Self { state, start, probe: None }
    }

    pub(crate) fn drafts(&self) -> bool {
        self.state.drafts > 0 && self.probe.is_none()
    }
}

/// Observes the intermediate results of one frame, for parity tests.
pub trait PredictorProbe: Send {
    /// The two rows a frame starts from `[2, D]`.
    fn prefill(&mut self, _rows: &Tensor<2>) {}
    /// The two rows after the final norm `[2, D]`.
    fn normed(&mut self, _hidden: &Tensor<2>) {}
    /// Logits of the next residual code `[1, V]`.
    fn logits(&mut self, _logits: &Tensor<2>) {}
    /// The residual code that was chosen; returns the one to go on with.
    fn chosen(&mut self, code: u32) -> u32 {
        code
    }
    /// The probe for the layers of the prefill.
    fn layers(&mut self) -> &mut dyn Probe;
}

/// The codes of each run, or its error if one of its logits was NaN or infinite.
pub(crate) fn checked(frames: &mut [FrameRun], mut codes: impl FnMut(usize) -> FrameCodes) -> Vec<Result<FrameCodes>> {
    let mut samplers: Vec<_> = frames.iter_mut().map(|frame| &mut frame.state.sampler).collect();
    let checks = Sampler::check_all(&mut samplers, "code predictor").into_iter().enumerate();
    checks.map(|(run, check)| check.map(|()| codes(run))).collect()
}
