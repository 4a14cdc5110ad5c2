//! Opus in Ogg (RFC 7845).

use ogg::{PacketWriteEndInfo, PacketWriter};
use ropus::{Application, Bitrate, Channels, Encoder};

use super::encoder::{SoundEncoder, broken};
use crate::error::ApiResult;

/// Frames a second: 20 ms each.
const FRAMES: u32 = 50;
/// Positions in the file are counted in samples of this rate, whatever the sound's.
const CLOCK: u32 = 48_000;
/// Bits a second, at which speech is hard to tell from the original.
const BITS: u32 = 48_000;
/// The largest packet of a frame.
const MOST_BYTES: usize = 1275;
/// Only one stream lies in the file; any number will do.
const STREAM: u32 = 1;

pub(super) struct Opus {
    encoder: Encoder,
    writer: PacketWriter<'static, Vec<u8>>,
    sample_rate: u32,
    /// Samples that do not make a frame yet.
    rest: Vec<i16>,
    /// Samples taken so far.
    taken: u64,
    /// Frames written so far.
    frames: u64,
    begun: bool,
}

impl Opus {
    pub(super) fn new(sample_rate: u32) -> ApiResult<Self> {
        let encoder = Encoder::builder(sample_rate, Channels::Mono, Application::Audio).build();
        let mut encoder = encoder.map_err(|error| broken("opus", error))?;
        let bits = Bitrate::try_bits(BITS).map_err(|error| broken("opus", error))?;
        encoder.set_bitrate(bits).map_err(|error| broken("opus", error))?;
        let writer = PacketWriter::new(Vec::new());
        Ok(Self { encoder, writer, sample_rate, rest: Vec::new(), taken: 0, frames: 0, begun: false })
    }

    /// Samples of the clock for one of the sound's.
    fn clock(&self) -> u64 {
        u64::from(CLOCK / self.sample_rate)
    }

    /// Samples of the clock that a player drops from the beginning.
    fn pre_skip(&self) -> u64 {
        u64::from(self.encoder.lookahead()) * self.clock()
    }

    fn begin(&mut self) -> ApiResult<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        // Version 1, one channel; no gain, channels as usual.
        let pre_skip = self.pre_skip() as u16;
        let head =
            [b"OpusHead\x01\x01".as_slice(), &pre_skip.to_le_bytes(), &self.sample_rate.to_le_bytes(), &[0, 0, 0]];
        let name = b"qwen3-omni";
        let tags = [b"OpusTags".as_slice(), &(name.len() as u32).to_le_bytes(), name, &0u32.to_le_bytes()];
        self.write(head.concat(), PacketWriteEndInfo::EndPage, 0)?;
        self.write(tags.concat(), PacketWriteEndInfo::EndPage, 0)
    }

    fn write(&mut self, packet: Vec<u8>, end: PacketWriteEndInfo, position: u64) -> ApiResult<()> {
        self.writer.write_packet(packet, STREAM, end, position).map_err(|error| broken("ogg", error))
    }

    fn frame(&mut self, samples: &[i16], last: bool) -> ApiResult<()> {
        let mut packet = vec![0; MOST_BYTES];
        let length = self.encoder.encode(samples, &mut packet).map_err(|error| broken("opus frame", error))?;
        packet.truncate(length);
        self.frames += 1;
        let whole = self.frames * u64::from(CLOCK / FRAMES);
        // The position of the last page says where the sound ends within its frame.
        let (position, end) = match last {
            true => (whole.min(self.taken * self.clock() + self.pre_skip()), PacketWriteEndInfo::EndStream),
            false => (whole, PacketWriteEndInfo::EndPage),
        };
        self.write(packet, end, position)
    }

    fn written(&mut self) -> Vec<u8> {
        std::mem::take(self.writer.inner_mut())
    }
}

impl SoundEncoder for Opus {
    fn push(&mut self, samples: &[i16]) -> ApiResult<Vec<u8>> {
        self.begin()?;
        self.taken += samples.len() as u64;
        self.rest.extend_from_slice(samples);
        let size = (self.sample_rate / FRAMES) as usize;
        while self.rest.len() >= size {
            let frame: Vec<i16> = self.rest.drain(..size).collect();
            self.frame(&frame, false)?;
        }
        Ok(self.written())
    }

    fn finish(&mut self) -> ApiResult<Vec<u8>> {
        self.begin()?;
        let size = (self.sample_rate / FRAMES) as usize;
        // The encoder gives back its lookahead only with what follows.
        let mut last = std::mem::take(&mut self.rest);
        last.resize((last.len() + self.encoder.lookahead() as usize).next_multiple_of(size).max(size), 0);
        let count = last.len() / size;
        for (index, frame) in last.chunks(size).enumerate() {
            self.frame(frame, index + 1 == count)?;
        }
        Ok(self.written())
    }
}
