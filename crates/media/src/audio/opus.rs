//! Opus packets → samples, with the channels of their streams (RFC 6716 and RFC 7845).

use ropus::OpusMSDecoder;

use crate::reason::Reason;

/// Samples per second that Opus is decoded at.
pub(super) const RATE: u32 = 48_000;

/// Most samples per channel of a packet: 120 ms.
const MOST_SAMPLES: usize = 5760;

/// Most channels; what is in use has up to 8, and each costs work that the packet's size does not bound.
const MOST_CHANNELS: usize = 16;

/// How the streams in a packet become channels.
#[derive(Debug, PartialEq)]
struct Layout {
    channels: usize,
    streams: usize,
    coupled: usize,
    mapping: Vec<u8>,
    /// Samples at the start that only prepare the decoder.
    pre_skip: u32,
    /// Gain in decibels times 256.
    gain: i16,
}

impl Layout {
    /// Reads the header `OpusHead`; without one there is one stream of `channels` channels.
    fn read(header: Option<&[u8]>, channels: usize) -> Result<Self, Reason> {
        let layout = match header.and_then(|header| header.strip_prefix(b"OpusHead")) {
            None => Self::plain(channels.max(1), 0, 0),
            Some(head) => Self::of_header(head)?,
        };
        let slots = layout.streams + layout.coupled;
        let known = layout.mapping.iter().all(|slot| *slot == SILENT || usize::from(*slot) < slots);
        let sound = (1..=MOST_CHANNELS).contains(&layout.channels)
            && (1..=MOST_CHANNELS).contains(&layout.streams)
            && layout.coupled <= layout.streams
            && layout.mapping.len() == layout.channels
            && known;
        if sound { Ok(layout) } else { Err(format!("its channels are laid out as {layout:?}").into()) }
    }

    fn of_header(head: &[u8]) -> Result<Self, Reason> {
        let [_, channels, low, high, _, _, _, _, gain_low, gain_high, family, table @ ..] = head else {
            return Err("its Opus header is too short".into());
        };
        let channels = usize::from(*channels);
        let (pre_skip, gain) = (u16::from_le_bytes([*low, *high]), i16::from_le_bytes([*gain_low, *gain_high]));
        match (family, table) {
            (0, _) => Ok(Self::plain(channels, pre_skip.into(), gain)),
            (1 | 2 | 255, [streams, coupled, mapping @ ..]) => Ok(Self {
                channels,
                streams: usize::from(*streams),
                coupled: usize::from(*coupled),
                mapping: mapping.iter().take(channels).copied().collect(),
                pre_skip: pre_skip.into(),
                gain,
            }),
            _ => Err(format!("its Opus channels are of family {family}").into()),
        }
    }

    fn plain(channels: usize, pre_skip: u32, gain: i16) -> Self {
        let mapping = (0..channels.min(2) as u8).collect();
        Self { channels, streams: 1, coupled: channels.saturating_sub(1), mapping, pre_skip, gain }
    }
}

/// The slot of a channel that is always silent.
const SILENT: u8 = 255;

/// Decodes the packets of one track.
pub(super) struct OpusDecoder {
    layout: Layout,
    decoder: OpusMSDecoder,
    gain: f32,
    samples: Vec<i16>,
}

impl OpusDecoder {
    /// Makes a decoder from the header `OpusHead`, if there is one, and the number of channels that the container tells.
    ///
    /// # Errors
    /// What is odd about the header.
    pub(super) fn new(header: Option<&[u8]>, channels: usize) -> Result<Self, Reason> {
        let layout = Layout::read(header, channels)?;
        let Layout { channels, streams, coupled, .. } = layout;
        let decoder = OpusMSDecoder::new(RATE as i32, channels as i32, streams as i32, coupled as i32, &layout.mapping);
        let decoder = decoder.map_err(|code| format!("Opus refuses its channels with code {code}"))?;
        let gain = 10f32.powf(f32::from(layout.gain) / (20.0 * 256.0)) / 32_768.0;
        Ok(Self { samples: vec![0; MOST_SAMPLES * channels], layout, decoder, gain })
    }

    /// Channels of the decoded samples.
    pub(super) fn channels(&self) -> usize {
        self.layout.channels
    }

    /// Samples at the start, per channel, that are not heard.
    pub(super) fn pre_skip(&self) -> u32 {
        self.layout.pre_skip
    }

    /// Decodes a packet to interleaved samples.
    ///
    /// # Errors
    /// What the decoder says of the packet.
    pub(super) fn decode(&mut self, packet: &[u8]) -> Result<Vec<f32>, Reason> {
        let size = i32::try_from(packet.len()).map_err(|_| "a packet of 2 GiB")?;
        let decoded = self.decoder.decode(Some(packet), size, &mut self.samples, MOST_SAMPLES as i32, false);
        let frames = decoded.map_err(|code| format!("an Opus packet is broken (code {code})"))?;
        let samples = &self.samples[..frames.max(0) as usize * self.layout.channels];
        Ok(samples.iter().map(|sample| f32::from(*sample) * self.gain).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(channels: u8, family: u8, table: &[u8]) -> Vec<u8> {
        [b"OpusHead\x01".as_slice(), &[channels, 0x38, 1, 0, 0, 0, 0, 0, 0xff, family], table].concat()
    }

    #[test]
    fn headers_tell_channels_delay_and_gain() {
        let stereo = Layout::read(Some(&head(2, 0, &[])), 7).unwrap();
        assert_eq!((stereo.streams, stereo.coupled, stereo.pre_skip, stereo.gain), (1, 1, 312, -256));
        let surround = Layout::read(Some(&head(6, 1, &[4, 2, 0, 4, 1, 2, 3, 5])), 0).unwrap();
        assert_eq!((surround.channels, surround.streams, surround.coupled), (6, 4, 2));
        assert_eq!(Layout::read(None, 1).unwrap(), Layout::plain(1, 0, 0));
    }

    #[test]
    fn odd_headers_are_refused() {
        for header in [
            head(0, 0, &[]),
            head(3, 0, &[]),
            head(255, 255, &[255; 257]),
            head(2, 1, &[1, 2, 0, 1]),
            head(2, 1, &[1, 1, 0, 2]),
            head(6, 1, &[4, 2, 0]),
            head(2, 3, &[1, 1]),
            b"OpusHead\x01\x02".to_vec(),
        ] {
            assert!(Layout::read(Some(&header), 2).is_err(), "{header:?}");
        }
    }
}
