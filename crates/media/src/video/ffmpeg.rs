//! Every other kind of video and sound, through the program `ffmpeg` where it is installed.

pub(super) mod input;
mod listing;
pub(super) mod run;
mod select;

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};

use self::input::Input;
use self::listing::Listing;
use self::run::Run;
use super::track::Timing;
use crate::image::{Pixels, resize};
use crate::{MediaError, Result, Source};

/// Most pixels of a frame, the same limit as the MP4 reader's.
const MOST_PIXELS: &str = "33500000";

/// Most runs of frames per call, so that the expression that selects them stays far below the limit of a command line.
const MOST_RUNS: usize = 512;

const SOUND_RATE: &str = "16000";
const SOUND_PIECE: usize = 1 << 16;

/// Options that pass on every frame once, with its own time, from new to old versions of ffmpeg.
const PASS_THROUGH: [[&str; 4]; 3] = [
    ["-fps_mode", "passthrough", "-enc_time_base", "demux"],
    ["-fps_mode", "passthrough", "-enc_time_base", "-1"],
    ["-vsync", "0", "-enc_time_base", "-1"],
];

/// Messages of old versions that do not know one of these options.
const UNKNOWN_OPTION: [&str; 3] = ["fps_mode", "enc_time_base", "Invalid time base"];

/// Messages about a truncated file, after which ffmpeg nevertheless exits with success.
const CUT_OFF: [&str; 4] = ["prematurely", "partial file", "Truncat", "truncated"];

/// Message about a track that is not there.
const NO_TRACK: &str = "matches no streams";

/// Messages about a kind of video that this `ffmpeg` was built without.
const NO_DECODER: [&str; 2] = ["no decoder found", "not found for input stream"];

/// Whether a message decides what is done next.
fn is_clue(message: &str) -> bool {
    UNKNOWN_OPTION.iter().chain(&CUT_OFF).chain(&NO_DECODER).chain([&NO_TRACK]).any(|clue| message.contains(clue))
}

/// A video whose frames `ffmpeg` decodes.
#[derive(Debug)]
pub(crate) struct FfmpegVideo {
    input: Input,
    timing: Timing,
    width: usize,
    height: usize,
    pass_through: [&'static str; 4],
}

impl FfmpegVideo {
    /// Decodes the source once, to learn when its frames are shown; `why` is the reason why nothing else reads it.
    ///
    /// # Errors
    /// [`MediaError::Unsupported`] without `ffmpeg`, [`MediaError::Damaged`] if it cannot read the source to the end,
    /// [`MediaError::Unusable`] if there is nothing to show.
    pub(crate) fn open(source: &Source, why: &str) -> Result<Self> {
        let input = Input::new(source)?;
        let mut last = None;
        for pass_through in PASS_THROUGH {
            let (listing, ended) = list(&input, why, &pass_through)?;
            match ended {
                Err(messages) if UNKNOWN_OPTION.iter().any(|option| messages.contains(option)) => last = Some(messages),
                Err(messages) => return Err(failed(&input, &messages)),
                Ok(()) => return Self::from_listing(input, listing, pass_through),
            }
        }
        Err(failed(&input, &last.unwrap_or_default()))
    }

    fn from_listing(input: Input, listing: Listing, pass_through: [&'static str; 4]) -> Result<Self> {
        let (timing, width, height) = listing.finish(&input.origin)?;
        Ok(Self { input, timing, width, height, pass_through })
    }

    /// When the frames are shown.
    pub(crate) fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Height and width of the frames, upright.
    pub(crate) fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// Passes the wanted frames (ascending indices in order of time) to `sink`, upright and resized to `[height, width]`.
    ///
    /// # Errors
    /// [`MediaError::Damaged`] if a frame is missing; what `sink` returns.
    pub(crate) fn decode(
        &self,
        wanted: &[usize],
        [height, width]: [usize; 2],
        sink: &mut dyn FnMut(Pixels) -> Result<()>,
    ) -> Result<()> {
        if let Some(beyond) = wanted.iter().find(|index| **index >= self.timing.frames()) {
            let reason = format!("frame {} of {} was asked for", beyond + 1, self.timing.frames());
            return Err(MediaError::unusable(&self.input.origin, reason));
        }
        let mut resized = |pixels: Pixels| sink(resize(&pixels, width, height));
        select::runs(wanted).chunks(MOST_RUNS).try_for_each(|runs| self.decode_runs(runs, &mut resized))
    }

    fn decode_runs(&self, runs: &[select::Run], sink: &mut dyn FnMut(Pixels) -> Result<()>) -> Result<()> {
        let count = runs.iter().map(select::Run::len).sum();
        let (filter, frames) = (format!("select='{}'", select::expression(runs)), format!("{count}"));
        let mut arguments = video_arguments(&self.input, &self.pass_through);
        arguments.extend(["-vf", &filter, "-frames:v", &frames].map(OsString::from));
        arguments.extend(["-pix_fmt", "rgb24", "-f", "rawvideo", "-"].map(OsString::from));
        let mut run = Run::start(&arguments).map_err(|error| self.input.unreadable(error))?;
        let size = self.width * self.height * 3;
        for number in 1..=count {
            let mut rgb = Vec::with_capacity(size);
            run.output().take(size as u64).read_to_end(&mut rgb).map_err(|error| self.input.unreadable(error))?;
            if rgb.len() != size {
                let messages = run.finish().err().unwrap_or_default();
                return Err(failed(&self.input, &format!("only {} of {count} frames came; {messages}", number - 1)));
            }
            sink(Pixels::new(self.width, self.height, rgb)?)?;
        }
        run.finish().map_err(|messages| failed(&self.input, &messages))
    }
}

/// The first sound track, mono at 16 kHz, handed to `sink` in pieces; false if there is none.
///
/// # Errors
/// The errors of [`FfmpegVideo::open`]; what `sink` returns.
pub(crate) fn ffmpeg_sound(source: &Source, why: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<bool> {
    let input = Input::new(source)?;
    let mut arguments = run::arguments(&[], &input.argument());
    let options = ["-map", "0:a:0", "-ac", "1", "-ar", SOUND_RATE, "-c:a", "pcm_f32le", "-f", "f32le", "-"];
    arguments.extend(options.map(OsString::from));
    let mut run = Run::start(&arguments).map_err(|error| absent(&input, why, error))?;
    let mut bytes = Vec::with_capacity(SOUND_PIECE);
    loop {
        bytes.clear();
        run.output().take(SOUND_PIECE as u64).read_to_end(&mut bytes).map_err(|error| input.unreadable(error))?;
        if bytes.is_empty() {
            break;
        }
        let samples: Vec<f32> = bytes.as_chunks().0.iter().map(|sample| f32::from_le_bytes(*sample)).collect();
        sink(&samples)?;
    }
    match run.finish() {
        Ok(()) => Ok(true),
        Err(messages) if no_such_track(&messages) => Ok(false),
        Err(messages) => Err(failed(&input, &messages)),
    }
}

/// Lists every frame's time, with the messages ffmpeg ended with.
fn list(input: &Input, why: &str, pass_through: &[&str]) -> Result<(Listing, std::result::Result<(), String>)> {
    let mut arguments = video_arguments(input, pass_through);
    arguments.extend(["-f", "framecrc", "-"].map(OsString::from));
    let mut run = Run::start(&arguments).map_err(|error| absent(input, why, error))?;
    let mut listing = Listing::default();
    for line in BufReader::new(run.output()).lines() {
        listing.line(&line.map_err(|error| input.unreadable(error))?, &input.origin)?;
    }
    Ok((listing, run.finish()))
}

/// Arguments that select the first video track that is not a cover picture, whole and with each frame's own time.
fn video_arguments(input: &Input, pass_through: &[&str]) -> Vec<OsString> {
    // With more threads, whether a broken frame is noticed depends on which of them comes first.
    let mut arguments = run::arguments(&["-threads", "1", "-max_pixels", MOST_PIXELS], &input.argument());
    arguments.extend(["-map", "0:V:0"].iter().chain(pass_through).map(OsString::from));
    arguments
}

pub(super) fn absent(input: &Input, why: &str, error: std::io::Error) -> MediaError {
    if error.kind() != std::io::ErrorKind::NotFound {
        return MediaError::unsupported(&input.origin, format!("{why}; the program `ffmpeg` does not start: {error}"));
    }
    let reason = format!("{why}; other formats need the program `ffmpeg` on PATH, which was not found");
    MediaError::unsupported(&input.origin, reason)
}

pub(super) fn no_such_track(messages: &str) -> bool {
    messages.contains(NO_TRACK)
}

pub(super) fn no_decoder(messages: &str) -> bool {
    NO_DECODER.iter().any(|clue| messages.contains(clue))
}

pub(super) fn failed(input: &Input, messages: &str) -> MediaError {
    if no_such_track(messages) {
        return MediaError::unusable(&input.origin, "there is no video track");
    }
    let name = input.argument().to_string_lossy().into_owned();
    let reason = format!("ffmpeg cannot read it: {}", messages.replace(&name, "the file").trim());
    if no_decoder(messages) {
        return MediaError::unsupported(&input.origin, reason);
    }
    MediaError::damaged(&input.origin, reason)
}
