use std::sync::Arc;
use std::time::Instant;

use async_channel::Receiver;
use code2wav::VocoderState;
use omni_core::{Error, Result, VocoderStream};

use super::guards::Silence;
use super::report::{Report, VocoderReport};
use super::stage::StageContext;
use crate::model::{AnyVocoder, Model};
use crate::output::{Audio, Event};
use crate::prompt::{GenerateOptions, VocoderMode};
use crate::schedule::{Frame, Slot, VocoderDone, VocoderJob, forward_vocoder_batch};

/// The stage of the vocoder: makes sound from codec frames.
pub(crate) struct VocoderStage {
    pub(crate) context: StageContext,
    pub(crate) model: Arc<Model>,
    pub(crate) options: Arc<GenerateOptions>,
    pub(crate) frames: Receiver<Frame>,
}

/// The vocoder stream of one answer.
#[allow(clippy::large_enum_variant)] // One per answer.
enum Stream<'a> {
    /// The state of the checkpoint's vocoder; `None` while a step has it.
    Builtin(Option<VocoderState>, Slot<'a, VocoderJob, VocoderDone>),
    /// A stream of a custom vocoder.
    Custom(Box<dyn VocoderStream>),
}

/// Refuses NaN and infinite samples, which would play as silence or noise.
fn finite(samples: Vec<f32>) -> Result<Vec<f32>> {
    match samples.iter().all(|sample| sample.is_finite()) {
        true => Ok(samples),
        false => Err(Error::NotFinite { stage: "vocoder" }),
    }
}

impl VocoderStage {
    pub(crate) fn run(self) -> Result<()> {
        let parts = self.model.speech.as_ref().expect("speech was planned");
        let mut report = VocoderReport::default();
        let mut stream = match &parts.vocoder {
            AnyVocoder::Builtin(vocoder) => Stream::Builtin(Some(vocoder.start()), self.model.batches.vocoder.slot()),
            AnyVocoder::Custom(vocoder) => Stream::Custom(vocoder.start()),
        };
        let (per_frame, sample_rate) = (parts.vocoder.samples_per_frame(), parts.vocoder.sample_rate());
        let mut silence = self.options.guards.silent_frames.map(Silence::new);
        let mut sizes = self.options.chunks.sizes();
        loop {
            // The chunks of the reference need all frames.
            let exact = self.options.vocoder == VocoderMode::Exact;
            let size = if exact { sizes.next().expect("endless") } else { usize::MAX };
            let mut waiting = Vec::new();
            let over = loop {
                match self.frames.recv_blocking() {
                    Ok(frame) => waiting.push(frame),
                    Err(_) => break true,
                }
                if waiting.len() >= size || self.context.signals.stopped() {
                    break false;
                }
            };
            if self.context.signals.stopped() {
                break;
            }
            if !waiting.is_empty() {
                let mut codes = waiting.clone();
                let mut samples = finite(self.vocode(&parts.vocoder, &mut stream, waiting, &mut report)?)?;
                let quiet = silence.as_mut().and_then(|silence| silence.ends(&samples, per_frame));
                if let Some(end) = quiet {
                    // The sound is truncated at the same sample whatever the size of the pieces.
                    samples.truncate(end);
                    codes.truncate(((report.samples + end) / per_frame).saturating_sub(report.codes.len()));
                    report.silent = true;
                    self.context.signals.fall_silent();
                }
                report.codes.extend(codes);
                report.samples += samples.len();
                report.loudness.push(&samples, per_frame);
                report.first_audio.get_or_insert(self.context.started.elapsed());
                self.context.event(Event::Audio(Audio { samples, sample_rate }));
            }
            if over || report.silent {
                break;
            }
        }
        if let Stream::Custom(stream) = &mut stream
            && !report.codes.is_empty()
            && !self.context.signals.stopped()
        {
            let samples = finite(stream.finish()?)?;
            report.samples += samples.len();
            if !samples.is_empty() {
                self.context.event(Event::Audio(Audio { samples, sample_rate }));
            }
        }
        // A closed channel tells the talker to stop.
        self.frames.close();
        self.context.report(Report::Vocoder(report));
        Ok(())
    }

    /// Decodes frames to samples.
    fn vocode(
        &self,
        vocoder: &AnyVocoder,
        stream: &mut Stream,
        frames: Vec<Frame>,
        report: &mut VocoderReport,
    ) -> Result<Vec<f32>> {
        let _exclusive = self.context.signals.exclusive();
        let _span = tracing::debug_span!("vocoder", frames = frames.len()).entered();
        let started = Instant::now();
        let samples = match (stream, vocoder, self.options.vocoder) {
            (Stream::Custom(stream), ..) => stream.step(&frames),
            (Stream::Builtin(..), AnyVocoder::Builtin(vocoder), VocoderMode::Chunked(chunking)) => {
                self.model.compute(|| vocoder.decode_chunked(&frames, chunking))
            }
            (Stream::Builtin(state, slot), AnyVocoder::Builtin(vocoder), VocoderMode::Exact) => {
                let before = state.take().unwrap_or_else(|| vocoder.start());
                let compute = |pieces| self.model.compute(|| forward_vocoder_batch(vocoder, pieces));
                let (after, samples) = slot.run((before, frames), compute)?;
                *state = Some(after);
                samples
            }
            (Stream::Builtin(..), AnyVocoder::Custom(_), _) => unreachable!("a stream belongs to its vocoder"),
        };
        report.vocoder += started.elapsed();
        samples
    }
}
