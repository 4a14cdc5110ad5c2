use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use code2wav::VocoderState;
use omni_core::{Result, VocoderStream};

use super::guard::Silence;
use super::together::{Frames, Sound, sounds};
use super::{Common, Frame, Report};
use crate::batch::Seat;
use crate::omni::{Inner, Voice};
use crate::{Audio, Event, GenerateOptions, VocoderMode};

/// The vocoder: frames to sound.
pub(crate) struct VocodeStage {
    pub(crate) common: Common,
    pub(crate) model: Arc<Inner>,
    pub(crate) options: Arc<GenerateOptions>,
    pub(crate) frames: Receiver<Frame>,
}

/// What the vocoder made.
#[derive(Debug, Default)]
pub(crate) struct Voiced {
    /// Codes of the frames that became sound.
    pub(crate) codes: Vec<Vec<u32>>,
    pub(crate) samples: usize,
    /// From the request to the first piece.
    pub(crate) first_audio: Option<Duration>,
    pub(crate) vocoder: Duration,
    /// Whether it fell silent for too long.
    pub(crate) silent: bool,
}

/// The stream of one answer.
#[allow(clippy::large_enum_variant)] // One per answer.
enum Stream<'a> {
    /// A stream of the checkpoint's vocoder, between its steps; `None` while a step has it.
    Own(Option<VocoderState>, Seat<'a, Frames, Sound>),
    /// A stream of a third party's vocoder.
    Other(Box<dyn VocoderStream>),
}

impl VocodeStage {
    pub(crate) fn run(self) -> Result<()> {
        let parts = self.model.speech.as_ref().expect("speech was planned");
        let mut voiced = Voiced::default();
        let mut stream = match &parts.voice {
            Voice::Own(vocoder) => Stream::Own(Some(vocoder.start()), self.model.together.vocoder.seat()),
            Voice::Other(vocoder) => Stream::Other(vocoder.start()),
        };
        let (per_frame, sample_rate) = (parts.voice.samples_per_frame(), parts.voice.sample_rate());
        let mut silence = self.options.guards.silent_frames.map(Silence::new);
        let mut sizes = self.options.chunks.sizes();
        loop {
            // Chunks as the reference makes them need all frames.
            let exact = self.options.vocoder == VocoderMode::Exact;
            let size = if exact { sizes.next().expect("endless") } else { usize::MAX };
            let mut waiting = Vec::new();
            let over = loop {
                match self.frames.recv_blocking() {
                    Ok(frame) => waiting.push(frame),
                    Err(_) => break true,
                }
                if waiting.len() >= size || self.common.signals.stopped() {
                    break false;
                }
            };
            if self.common.signals.stopped() {
                break;
            }
            if !waiting.is_empty() {
                let mut codes = waiting.clone();
                let mut samples = self.vocode(&parts.voice, &mut stream, waiting, &mut voiced)?;
                let quiet = silence.as_mut().and_then(|silence| silence.ends(&samples, per_frame));
                if let Some(end) = quiet {
                    // Where it is cut does not depend on the size of the pieces.
                    samples.truncate(end);
                    codes.truncate(((voiced.samples + end) / per_frame).saturating_sub(voiced.codes.len()));
                    voiced.silent = true;
                    self.common.signals.fall_silent();
                }
                voiced.codes.extend(codes);
                voiced.samples += samples.len();
                voiced.first_audio.get_or_insert(self.common.started.elapsed());
                self.common.event(Event::Audio(Audio { samples, sample_rate }));
            }
            if over || voiced.silent {
                break;
            }
        }
        if let Stream::Other(stream) = &mut stream
            && !voiced.codes.is_empty()
            && !self.common.signals.stopped()
        {
            let samples = stream.finish()?;
            voiced.samples += samples.len();
            if !samples.is_empty() {
                self.common.event(Event::Audio(Audio { samples, sample_rate }));
            }
        }
        // The talker takes this for the end.
        self.frames.close();
        self.common.report(Report::Voiced(voiced));
        Ok(())
    }

    fn vocode(&self, voice: &Voice, stream: &mut Stream, frames: Vec<Frame>, voiced: &mut Voiced) -> Result<Vec<f32>> {
        let _turn = self.common.signals.turn();
        let _span = tracing::debug_span!("vocoder", frames = frames.len()).entered();
        let started = Instant::now();
        let samples = match (stream, voice, self.options.vocoder) {
            (Stream::Other(stream), ..) => stream.step(&frames),
            (Stream::Own(..), Voice::Own(vocoder), VocoderMode::Chunked(chunking)) => {
                self.model.compute(|| vocoder.decode_chunked(&frames, chunking))
            }
            (Stream::Own(state, seat), Voice::Own(vocoder), VocoderMode::Exact) => {
                let before = state.take().unwrap_or_else(|| vocoder.start());
                let compute = |pieces| self.model.compute(|| sounds(vocoder, pieces));
                let (after, samples) = seat.run((before, frames), compute)?;
                *state = Some(after);
                samples
            }
            (Stream::Own(..), Voice::Other(_), _) => unreachable!("a stream belongs to its vocoder"),
        };
        voiced.vocoder += started.elapsed();
        samples
    }
}
