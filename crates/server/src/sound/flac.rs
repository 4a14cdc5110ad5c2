//! FLAC by `flacenc`, frame by frame.

use flacenc::bitsink::ByteSink;
use flacenc::component::{BitRepr, Stream, StreamInfo};
use flacenc::config::Encoder as Settings;
use flacenc::error::{Verified, Verify};
use flacenc::source::{Fill, FrameBuf};

use super::encoder::{SoundEncoder, broken};
use crate::error::ApiResult;

/// Samples of a frame: 85 ms, about what the vocoder makes at a time.
const FRAME: usize = 2048;
/// The shortest frame that the format has.
const LEAST: usize = 32;

pub(super) struct Flac {
    settings: Verified<Settings>,
    info: StreamInfo,
    frames: usize,
    /// Samples that do not make a frame yet.
    rest: Vec<i32>,
    begun: bool,
}

impl Flac {
    pub(super) fn new(sample_rate: u32) -> ApiResult<Self> {
        let settings = Settings::default().into_verified().map_err(|(_, error)| broken("flac settings", error))?;
        let mut info = StreamInfo::new(sample_rate as usize, 1, 16).map_err(|error| broken("flac stream", error))?;
        // The checksum stays 0, which means unknown, and so does the number of samples while the sound is being made.
        info.set_block_sizes(FRAME, FRAME).map_err(|error| broken("flac frames", error))?;
        Ok(Self { settings, info, frames: 0, rest: Vec::new(), begun: false })
    }

    /// Says how many samples the file will hold.
    pub(super) fn with_length(mut self, samples: usize) -> Self {
        self.info.set_total_samples(samples);
        self
    }

    fn header(&self) -> ApiResult<Vec<u8>> {
        let mut sink = ByteSink::new();
        let written = Stream::with_stream_info(self.info.clone()).write(&mut sink);
        written.map_err(|error| broken("flac header", error))?;
        Ok(sink.into_inner())
    }

    fn frame(&mut self, samples: &[i32]) -> ApiResult<Vec<u8>> {
        let failed = |error| broken("flac frame", error);
        let mut buffer = FrameBuf::with_size(1, samples.len()).map_err(|error| broken("flac frame", error))?;
        buffer.fill_interleaved(samples).map_err(|error| broken("flac samples", error))?;
        let frame =
            flacenc::encode_fixed_size_frame(&self.settings, &buffer, self.frames, &self.info).map_err(failed)?;
        self.frames += 1;
        let mut sink = ByteSink::new();
        frame.write(&mut sink).map_err(|error| broken("flac frame", error))?;
        Ok(sink.into_inner())
    }
}

impl SoundEncoder for Flac {
    fn push(&mut self, samples: &[i16]) -> ApiResult<Vec<u8>> {
        let mut bytes = if std::mem::replace(&mut self.begun, true) { Vec::new() } else { self.header()? };
        self.rest.extend(samples.iter().map(|sample| i32::from(*sample)));
        while self.rest.len() >= FRAME {
            let frame: Vec<i32> = self.rest.drain(..FRAME).collect();
            bytes.extend(self.frame(&frame)?);
        }
        Ok(bytes)
    }

    fn finish(&mut self) -> ApiResult<Vec<u8>> {
        let mut bytes = self.push(&[])?;
        let mut last = std::mem::take(&mut self.rest);
        if !last.is_empty() {
            last.resize(last.len().max(LEAST), 0);
            bytes.extend(self.frame(&last)?);
        }
        Ok(bytes)
    }
}
