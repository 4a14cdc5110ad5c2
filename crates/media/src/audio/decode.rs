use std::fs::File;
use std::io::{Cursor, ErrorKind, Read, Seek, SeekFrom};

use symphonia::core::codecs::audio::AudioDecoder;
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatReader, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};

use crate::{MediaError, Result, Source};

/// Callback that takes interleaved samples, the rate and the number of channels.
pub(super) type Interleaved<'a> = dyn FnMut(&[f32], u32, usize) -> Result<()> + 'a;

/// Message for contents without sound.
pub(super) const NO_SOUND: &str = "there is no sound track";

const KNOWN: &str = "expected WAV, FLAC, MP3, OGG/Vorbis or M4A/AAC";

/// Decodes the first sound track, packet by packet. The format is told by the contents, never by the file's name.
///
/// # Errors
/// [`MediaError::Unsupported`] for unknown contents; [`MediaError::Damaged`] if a packet cannot be decoded or the file ends
/// before the length it states: a part of the sound is never silently left out.
pub(super) fn decode(source: &Source, sink: &mut Interleaved) -> Result<()> {
    let origin = source.origin();
    let mut format = open(source)?;
    if format.first_track(TrackType::Audio).is_none() {
        return Err(MediaError::unusable(&origin, NO_SOUND));
    }
    let unknown = || MediaError::unsupported(&origin, format!("the sound track cannot be decoded: {KNOWN}"));
    let track = format.default_track(TrackType::Audio).ok_or_else(unknown)?;
    let (id, promised) = (track.id, track.num_frames);
    let format_name = format.format_info().short_name;
    let promised = promised.filter(|_| format_name != "mp3" || states_length(source));
    let parameters = track.codec_params.as_ref().and_then(|parameters| parameters.audio()).ok_or_else(unknown)?;
    let decoder = symphonia::default::get_codecs().make_audio_decoder(parameters, &Default::default());
    let mut decoder = decoder.map_err(|error| MediaError::unsupported(&origin, format!("{error}: {KNOWN}")))?;
    let mut count = Count::default();
    while let Some(packet) = next_packet(format.as_mut(), &origin, &count)? {
        if packet.track_id == id {
            decode_packet(decoder.as_mut(), &packet, &origin, &mut count, sink)?;
        }
    }
    if format_name == "ogg" && !is_closed(source) {
        return Err(MediaError::damaged(&origin, "the last page is missing: truncated?"));
    }
    count.check(promised, format_name, &origin)
}

/// Bytes inspected at either end of a file.
const ENDS: u64 = 1 << 16;

/// Whether an MP3 states its length; otherwise symphonia estimates it, and an estimate proves nothing.
fn states_length(source: &Source) -> bool {
    let head = end(source, false);
    [b"Xing", b"Info", b"VBRI"].iter().any(|tag| head.windows(4).any(|window| window == tag.as_slice()))
}

/// Whether the last page of an OGG file is marked as the last.
fn is_closed(source: &Source) -> bool {
    const LAST: u8 = 4;
    let tail = end(source, true);
    let page = tail.windows(4).rposition(|window| window == b"OggS");
    page.is_some_and(|start| tail.get(start + 5).is_some_and(|flags| flags & LAST != 0))
}

/// The first or last bytes; empty if they cannot be read.
fn end(source: &Source, last: bool) -> Vec<u8> {
    let size = |length: u64| if last { length.saturating_sub(ENDS) } else { 0 };
    match source {
        Source::Bytes(bytes) => {
            bytes.iter().skip(size(bytes.len() as u64) as usize).take(ENDS as usize).copied().collect()
        }
        Source::Path(path) => {
            let mut bytes = Vec::new();
            let read = File::open(path).and_then(|mut file| {
                let length = file.metadata()?.len();
                file.seek(SeekFrom::Start(size(length)))?;
                file.take(ENDS).read_to_end(&mut bytes)
            });
            if read.is_err() {
                bytes.clear();
            }
            bytes
        }
    }
}

fn open(source: &Source) -> Result<Box<dyn FormatReader>> {
    let media: Box<dyn MediaSource> = match source {
        Source::Path(path) => {
            let io = |source| MediaError::Io { path: path.clone(), source };
            let file = File::open(path).map_err(io)?;
            if !file.metadata().map_err(io)?.is_file() {
                return Err(MediaError::unsupported(source.origin(), "this is no file"));
            }
            Box::new(file)
        }
        Source::Bytes(bytes) => Box::new(Cursor::new(bytes.clone())),
    };
    let stream = MediaSourceStream::new(media, Default::default());
    let probe = symphonia::default::get_probe();
    let found = probe.probe(&Hint::new(), stream, Default::default(), Default::default());
    found.map_err(|error| match error {
        SymphoniaError::IoError(error) if error.kind() != ErrorKind::UnexpectedEof => {
            MediaError::damaged(source.origin(), error)
        }
        other => MediaError::unsupported(
            source.origin(),
            format!("the contents are no sound, or truncated ({other}): {KNOWN}"),
        ),
    })
}

/// How much has been decoded.
#[derive(Default)]
struct Count {
    frames: u64,
    rate: u32,
    skipped: u32,
}

/// Most packets at the start that may be undecodable.
const MOST_SKIPPED: u32 = 2;

impl Count {
    fn seconds(&self) -> f64 {
        self.frames as f64 / f64::from(self.rate.max(1))
    }

    fn check(&self, promised: Option<u64>, format: &str, origin: &str) -> Result<()> {
        // Lossless formats state their length exactly; the others round it to whole packets.
        let slack = if ["wave", "wav", "flac"].contains(&format) { 0 } else { 4096 };
        match promised {
            Some(promised) if self.frames + slack < promised || (self.frames == 0 && promised > 0) => {
                let reason = format!("{promised} samples are promised, but only {} are there: truncated?", self.frames);
                Err(MediaError::damaged(origin, reason))
            }
            _ => Ok(()),
        }
    }
}

type Packet = symphonia::core::packet::Packet;

fn next_packet(format: &mut dyn FormatReader, origin: &str, count: &Count) -> Result<Option<Packet>> {
    match format.next_packet() {
        Ok(packet) => Ok(packet),
        Err(SymphoniaError::ResetRequired) => {
            Err(MediaError::unsupported(origin, "several streams are chained in one file: expected one"))
        }
        Err(error) => Err(broken(origin, count, &error)),
    }
}

fn decode_packet(
    decoder: &mut dyn AudioDecoder,
    packet: &Packet,
    origin: &str,
    count: &mut Count,
    sink: &mut Interleaved,
) -> Result<()> {
    let decoded = match decoder.decode(packet) {
        Ok(decoded) => decoded,
        // A stream that was cut out of a longer one starts with packets that refer to what is missing.
        Err(SymphoniaError::DecodeError(_)) if count.frames == 0 && count.skipped < MOST_SKIPPED => {
            count.skipped += 1;
            return Ok(());
        }
        Err(SymphoniaError::Unsupported(what)) if count.frames == 0 => {
            return Err(MediaError::unsupported(origin, format!("the sound track needs {what}: {KNOWN}")));
        }
        Err(error) => return Err(broken(origin, count, &error)),
    };
    let (rate, channels) = (decoded.spec().rate(), decoded.spec().channels().count());
    let mut samples: Vec<f32> = Vec::new();
    decoded.copy_to_vec_interleaved(&mut samples);
    count.rate = rate;
    count.frames += decoded.frames() as u64;
    if samples.is_empty() { Ok(()) } else { sink(&samples, rate, channels) }
}

fn broken(origin: &str, count: &Count, error: &SymphoniaError) -> MediaError {
    let eof = matches!(error, SymphoniaError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof);
    let what = if eof { "the file ends in the middle: truncated?".to_owned() } else { error.to_string() };
    MediaError::damaged(origin, format!("after {:.2} s of sound: {what}", count.seconds()))
}
