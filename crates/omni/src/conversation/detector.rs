//! When a person's turn begins and ends.

use std::time::Duration;

use earshot::Detector;

/// Samples of a frame: 16 ms at 16 kHz.
pub(super) const FRAME: usize = 256;

/// Decides from sound when a person's turn begins and ends.
///
/// [`VoiceDetector`] goes by voice and silence alone. A model that knows when a sentence is complete can take its place: every frame
/// passes through here.
///
/// ```
/// # use qwen3_omni::{ConversationOptions, TurnDetector};
/// # use std::sync::atomic::{AtomicBool, Ordering};
/// static PRESSED: AtomicBool = AtomicBool::new(false);
/// struct Button;
/// impl TurnDetector for Button {
///     fn is_speaking(&mut self, _: &[f32]) -> bool {
///         PRESSED.load(Ordering::Relaxed)
///     }
/// }
/// let options = ConversationOptions::default().detector(Button);
/// ```
pub trait TurnDetector: Send {
    /// Takes the next frame, 256 samples of one channel at 16 kHz, and returns whether a turn is going on.
    fn is_speaking(&mut self, frame: &[f32]) -> bool;

    /// Sound before a turn was noticed that belongs to it.
    fn lead_in(&self) -> Duration {
        Duration::from_millis(320)
    }

    /// Is told that the turn was ended from outside.
    fn reset(&mut self) {}
}

/// A turn begins with voice, by the neural detector `earshot`, and ends with silence.
pub struct VoiceDetector {
    detector: Box<Detector>,
    threshold: f32,
    begins_after: usize,
    ends_after: usize,
    speaking: bool,
    /// Frames in a row that speak against the present state.
    against: usize,
}

impl Default for VoiceDetector {
    /// Voice for 64 ms begins a turn, silence for 608 ms ends it.
    fn default() -> Self {
        Self::new(0.5, Duration::from_millis(64), Duration::from_millis(608))
    }
}

impl VoiceDetector {
    /// Makes a detector. A frame whose score (0 to 1) reaches `threshold` is voice; uninterrupted voice for `begins_after` begins a turn,
    /// uninterrupted silence for `ends_after` ends it. Both are rounded to 16 ms.
    pub fn new(threshold: f32, begins_after: Duration, ends_after: Duration) -> Self {
        let frames = |time: Duration| ((time.as_millis() + 8) / 16).max(1) as usize;
        Self {
            detector: Detector::default_boxed(),
            threshold,
            begins_after: frames(begins_after),
            ends_after: frames(ends_after),
            speaking: false,
            against: 0,
        }
    }
}

impl std::fmt::Debug for VoiceDetector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VoiceDetector").field("speaking", &self.speaking).finish_non_exhaustive()
    }
}

impl TurnDetector for VoiceDetector {
    fn is_speaking(&mut self, frame: &[f32]) -> bool {
        let within = frame.iter().map(|sample| sample.clamp(-1.0, 1.0)).collect::<Vec<f32>>();
        let voice = self.detector.predict_f32(&within) >= self.threshold;
        self.against = if voice == self.speaking { 0 } else { self.against + 1 };
        if self.against >= if self.speaking { self.ends_after } else { self.begins_after } {
            (self.speaking, self.against) = (!self.speaking, 0);
        }
        self.speaking
    }

    fn reset(&mut self) {
        (self.speaking, self.against) = (false, 0);
        self.detector.reset();
    }
}
