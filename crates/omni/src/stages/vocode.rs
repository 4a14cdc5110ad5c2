use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use burn::tensor::{Int, Tensor};
use code2wav::VocoderState;
use omni_core::{CodeFrames, Result, Stage, Vocoder};

use super::guard::Silence;
use super::together::{Frames, Sound, sounds};
use super::{Common, Frame, Report, device_failed};
use crate::batch::Seat;
use crate::omni::{Inner, SpeechParts};
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

impl VocodeStage {
    pub(crate) fn run(self) -> Result<()> {
        let parts = self.model.speech.as_ref().expect("speech was planned");
        let mut voiced = Voiced::default();
        let (mut state, mut seat) = (parts.code2wav.start(), self.model.together.vocoder.seat());
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
                let (mut samples, mut codes);
                (state, samples, codes) = self.vocode(parts, (state, &mut seat), waiting, &mut voiced)?;
                let per_frame = parts.code2wav.samples_per_frame();
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
                let sample_rate = parts.code2wav.sample_rate();
                self.common.event(Event::Audio(Audio { samples, sample_rate }));
            }
            if over || voiced.silent {
                break;
            }
        }
        // The talker takes this for the end.
        self.frames.close();
        self.common.report(Report::Voiced(voiced));
        Ok(())
    }

    /// The one place where codes and samples cross to the host.
    fn vocode(
        &self,
        parts: &SpeechParts,
        (state, seat): (VocoderState, &mut Seat<Frames, Result<Sound>>),
        frames: Vec<Frame>,
        voiced: &mut Voiced,
    ) -> Result<(VocoderState, Vec<f32>, Vec<Vec<u32>>)> {
        let _turn = self.common.signals.turn();
        let _span = tracing::debug_span!("vocoder", frames = frames.len()).entered();
        let started = Instant::now();
        let rows = Tensor::cat(frames, 0); // [F, Q]
        let host = host_codes(rows.clone())?;
        let codes = rows.swap_dims(0, 1).unsqueeze::<3>(); // [1, Q, F]
        let (state, samples) = match self.options.vocoder {
            VocoderMode::Exact => {
                let compute = |pieces| self.model.compute(|| sounds(&parts.code2wav, pieces));
                let (state, sound) = seat.run((state, CodeFrames { codes }), compute)??;
                (state, sound.samples)
            }
            VocoderMode::Chunked(chunking) => {
                (state, self.model.compute(|| parts.code2wav.decode_chunked(codes, chunking)))
            }
        };
        let samples = samples.try_into_data().map_err(device_failed)?.try_to_vec_as().map_err(device_failed)?;
        voiced.vocoder += started.elapsed();
        Ok((state, samples, host))
    }
}

/// `[F, Q]` codes on the host.
fn host_codes(rows: Tensor<2, Int>) -> Result<Vec<Vec<u32>>> {
    let codebooks = rows.dims()[1];
    let codes: Vec<i64> = rows.try_into_data().map_err(device_failed)?.try_to_vec_as().map_err(device_failed)?;
    Ok(codes.chunks(codebooks).map(|frame| frame.iter().map(|code| *code as u32).collect()).collect())
}
