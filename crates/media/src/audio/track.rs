//! Sound files that are decoded here, packet by packet.

use std::io::ErrorKind;

use symphonia::core::audio::layouts;
use symphonia::core::codecs::audio::well_known::{CODEC_ID_AAC, CODEC_ID_OPUS};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatReader, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::packet::Packet;
use symphonia::core::units::Duration;

use super::aac::core_config;
use super::contents::{Contents, Edits, KNOWN, Kind, View, rate_and_channels, recognise};
use super::opus::{self, OpusDecoder};
use super::timeline::Timeline;
use crate::error::guarded;
use crate::ffmpeg::Interleaved;
use crate::reason::Reason;
use crate::{MediaError, Result, Source};

/// Decodes the first sound track; false if there is none.
///
/// # Errors
/// [`MediaError::Unsupported`] for contents that something else may decode; [`MediaError::Damaged`] if a packet cannot be decoded or the
/// file ends before the length it states.
pub(super) fn decode_here(source: &Source, sink: &mut Interleaved) -> Result<bool> {
    decode_contents(Contents::open(source)?, &source.origin(), sink)
}

fn decode_contents(contents: Contents, origin: &str, sink: &mut Interleaved) -> Result<bool> {
    let (mut view, kind) = recognise(contents)?;
    let tail = (kind == Kind::Ogg).then(|| last_page_flags(view.contents())).transpose()?;
    let edits = if kind == Kind::Mp4 { Edits::read(view.contents())? } else { Vec::new() };
    let Some(mut track) = Track::open(view, kind, edits, origin)? else { return Ok(false) };
    let mut next = track.next_packet();
    while let Some(mut packet) = next? {
        next = track.next_packet();
        if matches!(next, Ok(None)) {
            packet.trim_end = packet.trim_end.saturating_add(track.padding_at_end());
        }
        if !track.decode_packet(&packet, sink)? {
            return Ok(true);
        }
    }
    const LAST: u8 = 4;
    if tail.is_some_and(|flags| flags.is_none_or(|flags| flags & LAST == 0)) {
        return Err(MediaError::damaged(origin, "the last page is missing: truncated?"));
    }
    track.check_length().map(|()| true)
}

/// The flags of the last page of an OGG file.
fn last_page_flags(contents: &mut Contents) -> Result<Option<u8>> {
    /// More than the longest page.
    const END: usize = 1 << 17;
    let tail = contents.bytes(contents.len().saturating_sub(END as u64), END)?;
    let page = tail.windows(4).rposition(|window| window == b"OggS");
    Ok(page.and_then(|start| tail.get(start + 5).copied()))
}

/// What turns packets into samples.
enum Decoder {
    Symphonia(Box<dyn AudioDecoder>),
    Opus(Box<OpusDecoder>),
}

/// Interleaved samples of one packet.
struct Decoded {
    samples: Vec<f32>,
    rate: u32,
    channels: usize,
}

impl Decoder {
    fn new(parameters: &AudioCodecParameters) -> Result<Self, Reason> {
        if parameters.codec == CODEC_ID_OPUS {
            let channels = parameters.channels.as_ref().map_or(1, |channels| channels.count());
            return Ok(Self::Opus(Box::new(OpusDecoder::new(parameters.extra_data.as_deref(), channels)?)));
        }
        let core = parameters.extra_data.as_deref().filter(|_| parameters.codec == CODEC_ID_AAC).and_then(core_config);
        let core = core.map(|core| {
            let mut parameters = parameters.clone();
            parameters.with_extra_data(Box::new(core));
            parameters
        });
        let parameters = core.as_ref().unwrap_or(parameters);
        let decoder = symphonia::default::get_codecs().make_audio_decoder(parameters, &Default::default());
        decoder.map(Self::Symphonia).map_err(Reason::of)
    }

    /// Frames at the start that only prepare the decoder, as its own header tells.
    fn pre_skip(&self) -> u64 {
        match self {
            Self::Symphonia(_) => 0,
            Self::Opus(decoder) => decoder.pre_skip().into(),
        }
    }

    fn decode(&mut self, packet: &Packet) -> Result<Decoded, SymphoniaError> {
        match self {
            Self::Symphonia(decoder) => {
                let decoded = decoder.decode(packet)?;
                let (rate, channels) = (decoded.spec().rate(), decoded.spec().channels().count());
                let mut samples = Vec::new();
                decoded.copy_to_vec_interleaved(&mut samples);
                Ok(Decoded { samples, rate, channels })
            }
            Self::Opus(decoder) => {
                let broken = |_| SymphoniaError::DecodeError("a broken Opus packet");
                let mut samples = decoder.decode(&packet.data).map_err(broken)?;
                let channels = decoder.channels();
                // The start is cut by the count in the Opus header, the end by the container.
                let padding = usize::try_from(packet.trim_end.get()).unwrap_or(usize::MAX).saturating_mul(channels);
                samples.truncate(samples.len().saturating_sub(padding));
                Ok(Decoded { samples, rate: opus::RATE, channels })
            }
        }
    }
}

/// A sound track that is being decoded.
struct Track<'a> {
    format: Box<dyn FormatReader>,
    decoder: Decoder,
    id: u32,
    origin: &'a str,
    kind: Kind,
    /// Length that the file states, in frames, and that of the encoder's padding behind it.
    stated: Option<u64>,
    padding: u64,
    timeline: Timeline,
    /// How much has been decoded: frames, and ticks of the container.
    frames: u64,
    ticks: u64,
    rate: u32,
    skipped: u32,
    /// Rate and channels of the packets of MPEG audio.
    format_of_packets: Option<(u32, usize)>,
}

/// Most packets at the start that may be undecodable.
const MOST_SKIPPED: u32 = 2;

impl<'a> Track<'a> {
    /// Opens the first sound track; `None` if there is none.
    fn open(view: View, kind: Kind, edits: Vec<(u32, Edits)>, origin: &'a str) -> Result<Option<Self>> {
        let format = guarded(origin, || probe(view, origin))??;
        if format.first_track(TrackType::Audio).is_none() {
            return Ok(None);
        }
        let unknown = || MediaError::unsupported(origin, format!("the sound track cannot be decoded: {KNOWN}"));
        let track = format.default_track(TrackType::Audio).ok_or_else(unknown)?;
        let parameters = track.codec_params.as_ref().and_then(|parameters| parameters.audio()).ok_or_else(unknown)?;
        check_parameters(parameters).map_err(|reason| MediaError::damaged(origin, reason))?;
        let decoder = guarded(origin, || Decoder::new(parameters))?;
        let with_known = |reason: Reason| reason.reworded(|why| format!("{why}: {KNOWN}"));
        let decoder = decoder.map_err(|reason| MediaError::unsupported(origin, with_known(reason)))?;
        let states_length = match kind {
            Kind::Mpeg { states_length } => states_length,
            Kind::Flac | Kind::Mp4 => true,
            Kind::Matroska(_) | Kind::Ogg | Kind::Other => false,
        };
        let (id, stated) = (track.id, track.num_frames.filter(|_| states_length));
        let padding = track.padding.unwrap_or(0).into();
        let edits = edits.into_iter().find(|(track, _)| *track == id).map(|(_, edits)| edits);
        let timeline = Timeline::new(edits, decoder.pre_skip());
        Ok(Some(Self {
            format,
            decoder,
            id,
            origin,
            kind,
            stated,
            padding,
            timeline,
            frames: 0,
            ticks: 0,
            rate: 0,
            skipped: 0,
            format_of_packets: None,
        }))
    }

    fn next_packet(&mut self) -> Result<Option<Packet>> {
        loop {
            let packet = match guarded(self.origin, || self.format.next_packet())? {
                Ok(packet) => packet,
                Err(SymphoniaError::ResetRequired) => {
                    let reason = "several streams are chained in one file: expected one";
                    return Err(MediaError::unsupported(self.origin, reason));
                }
                Err(error) if is_end(&error) && self.is_live() => return Ok(None),
                Err(error) => return Err(self.broken(error)),
            };
            match packet {
                Some(packet) if packet.track_id != self.id => (),
                packet => return Ok(packet.map(|packet| self.untrimmed(packet))),
            }
        }
    }

    /// Takes a new decoder where MPEG audio goes on at another rate or with other channels, as in two files that were joined.
    fn follow(&mut self, packet: &Packet) -> Result<()> {
        let found = if matches!(self.kind, Kind::Mpeg { .. }) { rate_and_channels(&packet.data) } else { None };
        let Some((rate, channels)) = found.filter(|found| Some(*found) != self.format_of_packets) else {
            return Ok(());
        };
        let tracks = self.format.tracks().iter();
        let parameters = tracks.filter_map(|track| track.codec_params.as_ref()?.audio()).next();
        if let (Some(parameters), Some(_)) = (parameters, self.format_of_packets) {
            let mut parameters = parameters.clone();
            let layout = if channels == 1 { layouts::CHANNEL_LAYOUT_MONO } else { layouts::CHANNEL_LAYOUT_STEREO };
            parameters.with_sample_rate(rate).with_channels(layout);
            let decoder = guarded(self.origin, || Decoder::new(&parameters))?;
            self.decoder = decoder.map_err(|reason| MediaError::unsupported(self.origin, reason))?;
        }
        self.format_of_packets = Some((rate, channels));
        Ok(())
    }

    /// Whether the file ends where a recording ended.
    fn is_live(&self) -> bool {
        matches!(self.kind, Kind::Matroska(ending) if ending.live)
    }

    /// Frames at the end of the last packet that are not heard, where the reader does not tell.
    fn padding_at_end(&self) -> Duration {
        let nanoseconds = if let Kind::Matroska(ending) = self.kind { ending.padding } else { 0 };
        let frames = u128::from(nanoseconds) * u128::from(opus::RATE) / 1_000_000_000;
        Duration::new(u64::try_from(frames).unwrap_or(u64::MAX))
    }

    /// The packet without an end that the reader of MPEG audio cuts off for no good reason: it guesses the length from the first
    /// frame's bitrate, and it takes the length that the first of two joined files states for that of both.
    fn untrimmed(&self, mut packet: Packet) -> Packet {
        let beyond = |stated: u64| u64::try_from(packet.pts.get()).is_ok_and(|pts| pts >= stated + self.padding);
        if matches!(self.kind, Kind::Mpeg { .. }) && self.stated.is_none_or(beyond) {
            packet.dur = packet.dur.saturating_add(packet.trim_end);
            packet.trim_end = Duration::ZERO;
        }
        packet
    }

    /// Hands what is heard of the packet to `sink`; false behind the last part that is heard.
    fn decode_packet(&mut self, packet: &Packet, sink: &mut Interleaved) -> Result<bool> {
        self.ticks = self.ticks.saturating_add(packet.block_dur().get());
        self.follow(packet)?;
        let decoded = match guarded(self.origin, || self.decoder.decode(packet))? {
            Ok(decoded) => decoded,
            // A stream that was cut out of a longer one starts with packets that refer to what is missing.
            Err(SymphoniaError::DecodeError(_)) if self.frames == 0 && self.skipped < MOST_SKIPPED => {
                self.skipped += 1;
                return Ok(true);
            }
            Err(error) => return Err(self.undecoded(error)),
        };
        let Decoded { samples, rate, channels } = decoded;
        let frames = samples.len().checked_div(channels).unwrap_or(0);
        self.rate = rate;
        self.frames += frames as u64;
        let Some(heard) = self.timeline.place(packet.pts.get(), frames, rate) else { return Ok(false) };
        silence(heard.silence, rate, channels, sink)?;
        let heard = &samples[heard.frames.start * channels..heard.frames.end * channels];
        if !heard.is_empty() {
            sink(heard, rate, channels)?;
        }
        Ok(true)
    }

    /// Checks that all is there that the file states.
    fn check_length(&self) -> Result<()> {
        // FLAC states its length exactly; the others round it to whole packets.
        const ROUNDED: u64 = 4096;
        let (found, slack) = match self.kind {
            Kind::Flac => (self.frames, 0),
            // Ticks: the frames of HE-AAC are half as many as the file states.
            Kind::Mp4 => (self.ticks, ROUNDED),
            _ => (self.frames, ROUNDED),
        };
        match self.stated {
            Some(stated) if found + slack < stated || (found == 0 && stated > 0) => {
                let reason = format!("{stated} samples are promised, but only {found} are there: truncated?");
                Err(MediaError::damaged(self.origin, reason))
            }
            _ => Ok(()),
        }
    }

    /// The error for a packet that is not decoded: before any sound, something else may still decode the file.
    fn undecoded(&self, error: SymphoniaError) -> MediaError {
        match error {
            SymphoniaError::Unsupported(what) | SymphoniaError::DecodeError(what) if self.frames == 0 => {
                let reason = format!("its sound is not decoded here ({what}): {KNOWN}");
                MediaError::unsupported(self.origin, reason).caused_by(error)
            }
            _ => self.broken(error),
        }
    }

    fn broken(&self, error: SymphoniaError) -> MediaError {
        let what =
            if is_end(&error) { "the file ends in the middle: truncated?".to_owned() } else { error.to_string() };
        let seconds = self.frames as f64 / f64::from(self.rate.max(1));
        MediaError::damaged(self.origin, format!("after {seconds:.2} s of sound: {what}")).caused_by(error)
    }
}

fn is_end(error: &SymphoniaError) -> bool {
    matches!(error, SymphoniaError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof)
}

/// Refuses what would make a decoder reserve memory without bound.
fn check_parameters(parameters: &AudioCodecParameters) -> Result<(), Reason> {
    const MOST_CHANNELS: usize = 255;
    const MOST_FRAMES: u64 = 1 << 20;
    let channels = parameters.channels.as_ref().map_or(1, |channels| channels.count());
    let frames = parameters.max_frames_per_packet.unwrap_or(0).max(parameters.frames_per_block.unwrap_or(0));
    if channels > MOST_CHANNELS || frames > MOST_FRAMES {
        return Err(format!("its packets have {frames} samples of {channels} channels").into());
    }
    Ok(())
}

/// Hands silence to `sink`, in pieces.
fn silence(frames: u64, rate: u32, channels: usize, sink: &mut Interleaved) -> Result<()> {
    const PIECE: u64 = 1 << 14;
    let mut left = frames;
    while left > 0 {
        let frames = left.min(PIECE);
        sink(&vec![0.0; frames as usize * channels], rate, channels)?;
        left -= frames;
    }
    Ok(())
}

fn probe(view: View, origin: &str) -> Result<Box<dyn FormatReader>> {
    let stream = MediaSourceStream::new(Box::new(view), Default::default());
    let probe = symphonia::default::get_probe();
    let found = probe.probe(&Hint::new(), stream, Default::default(), Default::default());
    found.map_err(|error| match error {
        SymphoniaError::IoError(error) if error.kind() != ErrorKind::UnexpectedEof => {
            MediaError::damaged(origin, error)
        }
        other => {
            let reason = format!("the contents are no sound, or truncated ({other}): {KNOWN}");
            MediaError::unsupported(origin, reason).caused_by(other)
        }
    })
}
