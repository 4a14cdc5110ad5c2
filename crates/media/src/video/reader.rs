//! The readers of encoded video, and which of them takes a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::ffmpeg::FfmpegVideo;
use super::mp4::{Attempt, Contents, Mp4Video};
use super::track::Timing;
use crate::image::Pixels;
use crate::{MediaError, Result, Source};

/// A reader of encoded video that has found the frames.
#[derive(Debug)]
pub(super) enum Reader {
    Mp4(Mp4Video),
    Ffmpeg(FfmpegVideo),
}

impl Reader {
    pub(super) fn open(source: &Source) -> Result<Self> {
        let why = match mp4_contents(source)?.map(|contents| Mp4Video::open(contents, &source.origin())).transpose()? {
            Some(Attempt::Done(video)) => return Ok(Self::Mp4(video)),
            Some(Attempt::Foreign(why)) => why,
            None => NO_MP4.into(),
        };
        Self::open_ffmpeg(source, why.text()).map_err(|error| error.refused_for(why))
    }

    pub(super) fn open_ffmpeg(source: &Source, why: &str) -> Result<Self> {
        Ok(Self::Ffmpeg(FfmpegVideo::open(source, why)?))
    }

    pub(super) fn timing(&self) -> &Timing {
        match self {
            Self::Mp4(video) => video.timing(),
            Self::Ffmpeg(video) => video.timing(),
        }
    }

    /// Height and width of the frames.
    pub(super) fn size(&self) -> [usize; 2] {
        match self {
            Self::Mp4(video) => video.size(),
            Self::Ffmpeg(video) => video.size(),
        }
    }

    /// Passes the wanted frames to `sink`, resized to `size`.
    pub(super) fn decode(
        &self,
        wanted: &[usize],
        size: [usize; 2],
        sink: &mut dyn FnMut(Pixels) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Mp4(video) => video.decode(wanted, size, sink),
            Self::Ffmpeg(video) => video.decode(wanted, size, sink),
        }
    }
}

/// The reason why a file that is not even opened as MP4 goes to ffmpeg.
pub(super) const NO_MP4: &str = "this is no MP4 or MOV";

/// The contents of a source, if they may be MP4 or MOV.
///
/// # Errors
/// [`MediaError`] if the file cannot be opened or is no regular file.
pub(super) fn mp4_contents(source: &Source) -> Result<Option<Contents>> {
    match source {
        Source::Bytes(bytes) => Ok(Some(Contents::of_bytes(bytes.clone()))),
        Source::Path(path) => {
            source.check()?;
            open_mp4(path).map_err(|source| MediaError::Io { path: path.clone(), source })
        }
    }
}

/// Opens a file that starts as MP4 and MOV do: with a box whose name is letters.
fn open_mp4(path: &Path) -> io::Result<Option<Contents>> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    file.by_ref().take(8).read_to_end(&mut head)?;
    let named = head.get(4..).is_some_and(|name| name.len() == 4 && name.iter().all(u8::is_ascii_lowercase));
    if named { Contents::of_file(file).map(Some) } else { Ok(None) }
}
