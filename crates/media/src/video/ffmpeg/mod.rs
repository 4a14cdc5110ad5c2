//! Every other kind of video, through the program `ffmpeg` where it is installed.

mod listing;
mod select;

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};

use self::listing::Listing;
use super::mp4::MOST_PIXELS;
use super::track::{NO_VIDEO, Timing};
use crate::ffmpeg::{Input, Run, UNKNOWN_OPTION, absent, arguments, failed, no_such_track};
use crate::image::{Pixels, resize};
use crate::reason::Reason;
use crate::{MediaError, Result, Source};

/// Most runs of frames per call, so that the expression that selects them stays far below the limit of a command line.
const MOST_RUNS: usize = 512;

/// Options that pass on every frame once, with its own time, from new to old versions of ffmpeg.
const PASS_THROUGH: [[&str; 4]; 3] = [
    ["-fps_mode", "passthrough", "-enc_time_base", "demux"],
    ["-fps_mode", "passthrough", "-enc_time_base", "-1"],
    ["-vsync", "0", "-enc_time_base", "-1"],
];

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
                Err(messages) if UNKNOWN_OPTION.iter().any(|option| messages.text().contains(option)) => {
                    last = Some(messages)
                }
                Err(messages) => return Err(broken(&input, messages)),
                Ok(()) => return Self::from_listing(input, listing, pass_through),
            }
        }
        Err(broken(&input, last.unwrap_or_default()))
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
                let came = |messages: &str| format!("only {} of {count} frames came; {messages}", number - 1);
                return Err(broken(&self.input, messages.reworded(came)));
            }
            sink(Pixels::new(self.width, self.height, rgb)?)?;
        }
        run.finish().map_err(|messages| broken(&self.input, messages))
    }
}

/// Lists every frame's time, with the messages ffmpeg ended with.
fn list(input: &Input, why: &str, pass_through: &[&str]) -> Result<(Listing, Result<(), Reason>)> {
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
    let mut arguments = arguments(&["-threads", "1", "-max_pixels", &MOST_PIXELS.to_string()], &input.argument());
    arguments.extend(["-map", "0:V:0"].iter().chain(pass_through).map(OsString::from));
    arguments
}

fn broken(input: &Input, messages: Reason) -> MediaError {
    match no_such_track(messages.text()) {
        true => MediaError::unusable(&input.origin, NO_VIDEO),
        false => failed(input, messages),
    }
}
