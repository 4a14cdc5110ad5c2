//! Whether a video has sound, without decoding any.

use std::ffi::OsString;

use super::input::VideoInput;
use super::mp4::{Attempt, has_sound as mp4_has_sound};
use super::reader::{NO_MP4, mp4_contents};
use crate::ffmpeg::{Input, Run, absent, arguments, failed, no_such_track};
use crate::{Result, Source};

/// Whether a video has a sound track; chosen frames have none.
///
/// # Errors
/// [`crate::MediaError`] if the file cannot be read.
pub fn has_sound(video: &VideoInput) -> Result<bool> {
    let VideoInput::Encoded(source) = video else { return Ok(false) };
    match mp4_contents(source)?.map(|contents| mp4_has_sound(&contents, &source.origin())).transpose()? {
        Some(Attempt::Done(found)) => Ok(found),
        Some(Attempt::Foreign(why)) => by_ffmpeg(source, why.text()).map_err(|error| error.refused_for(why)),
        None => by_ffmpeg(source, NO_MP4),
    }
}

/// Copies one packet of the first sound track to nowhere.
fn by_ffmpeg(source: &Source, why: &str) -> Result<bool> {
    let input = Input::new(source)?;
    let mut arguments = arguments(&[], &input.argument());
    arguments.extend(["-map", "0:a:0", "-c", "copy", "-frames:a", "1", "-f", "null", "-"].map(OsString::from));
    match Run::start(&arguments).map_err(|error| absent(&input, why, error))?.finish() {
        Ok(()) => Ok(true),
        Err(messages) if no_such_track(messages.text()) => Ok(false),
        Err(messages) => Err(failed(&input, messages)),
    }
}
