//! Video: files or frames → frames sampled at a dynamic rate → patches, with the effective rate.
//!
//! MP4 and MOV with H.264 are decoded here; every other format needs the program `ffmpeg` on `PATH`. A frame is resized as
//! soon as it is decoded, so that a long video never lies in memory at full size.
//!
//! ```
//! use qwen3_omni_media::image::Pixels;
//! use qwen3_omni_media::video::{VideoInput, VideoOptions, clip};
//!
//! let frames = vec![Pixels::new(64, 64, vec![9; 64 * 64 * 3])?; 8];
//! let clip = clip(&VideoInput::frames(frames, 4.0), &VideoOptions::default())?;
//! assert_eq!((clip.patches().grid()[0], clip.seconds_per_step()), (4, 0.5));
//! # Ok::<(), qwen3_omni_media::MediaError>(())
//! ```

mod ffmpeg;
mod input;
mod mp4;
mod sampling;
mod track;

pub use input::VideoInput;
pub use sampling::sample_indices;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use crate::image::{PatchSpec, Patches, PixelBounds, Pixels, fit};
use crate::{MediaError, Result, Source};
use ffmpeg::FfmpegVideo;
use mp4::Mp4Video;
use sampling::choose;
use track::Timing;

/// How videos are prepared. `Default` is the reference's processor with its sampling switched on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VideoOptions {
    /// Frames taken per second of video.
    pub frames_per_second: f64,
    /// Frames taken at least, if the video has them.
    pub min_frames: usize,
    /// Frames taken at most.
    pub max_frames: usize,
    /// Pixels of each resized frame.
    pub bounds: PixelBounds,
    /// Most tokens of a video; a longer one is refused before its frames are kept.
    pub max_tokens: usize,
    /// Sizes of the vision encoder.
    pub patch: PatchSpec,
}

impl Default for VideoOptions {
    fn default() -> Self {
        Self {
            frames_per_second: 2.0,
            min_frames: 4,
            max_frames: 768,
            bounds: PixelBounds { min: 131_072, max: 786_432 },
            max_tokens: usize::MAX,
            patch: PatchSpec::default(),
        }
    }
}

/// A video, ready for the vision encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    patches: Patches,
    frames_per_second: f64,
    per_step: usize,
}

impl Clip {
    /// The patches of all frames.
    pub fn patches(&self) -> &Patches {
        &self.patches
    }

    /// The patches of all frames.
    pub fn into_patches(self) -> Patches {
        self.patches
    }

    /// The *effective* rate: frames taken, divided by the video's length.
    pub fn frames_per_second(&self) -> f64 {
        self.frames_per_second
    }

    /// Seconds from one step of the grid to the next; positions in time follow from it.
    pub fn seconds_per_step(&self) -> f32 {
        (self.per_step as f64 / self.frames_per_second) as f32
    }
}

/// Samples the frames of a video and cuts them into patches.
///
/// # Errors
/// [`MediaError`] if the video cannot be read or decoded, has no frames, or more chosen frames than the options allow.
pub fn clip(input: &VideoInput, options: &VideoOptions) -> Result<Clip> {
    check(options)?;
    let (frames, frames_per_second) = match input {
        VideoInput::Encoded(source) => sampled(source, options)?,
        VideoInput::Images { images, frames_per_second } => {
            let too_many = images.len() > options.max_frames;
            if images.is_empty() || too_many {
                let reason = format!("{} frames, expected 1 to {}", images.len(), options.max_frames);
                return Err(MediaError::unusable(input.origin(), reason));
            }
            if !RATES.contains(frames_per_second) {
                let reason = format!("{frames_per_second} frames per second, expected 0.001 to 1000");
                return Err(MediaError::unusable(input.origin(), reason));
            }
            let fitted = images.iter().map(|image| {
                fit(&*image.pixels()?, options.bounds, options.patch).map_err(|error| error.named(image.origin()))
            });
            (fitted.collect::<Result<Vec<_>>>()?, *frames_per_second)
        }
    };
    let patches = Patches::cut(&frames, options.patch).map_err(|error| error.named(input.origin()))?;
    Ok(Clip { patches, frames_per_second, per_step: options.patch.frames })
}

/// Accepted frame rates; others are mistakes, and would make positions that are not numbers.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1000.0;

fn check(options: &VideoOptions) -> Result<()> {
    let rate = options.frames_per_second;
    if !RATES.contains(&rate) || options.max_frames == 0 || options.min_frames > options.max_frames {
        let VideoOptions { min_frames, max_frames, .. } = options;
        let reason = format!("{rate} frames per second and {min_frames} to {max_frames} frames cannot be sampled");
        return Err(MediaError::unusable("video options", reason));
    }
    Ok(())
}

/// A reader of encoded video.
enum Reader {
    Mp4(Mp4Video),
    Ffmpeg(FfmpegVideo),
}

impl Reader {
    fn open(source: &Source) -> Result<Self> {
        let bytes = match source {
            Source::Bytes(bytes) => Some(bytes.clone()),
            Source::Path(path) => read_mp4(path).map_err(|error| match error.kind() {
                ErrorKind::IsADirectory => MediaError::unsupported(source.origin(), "this is no file"),
                _ => MediaError::Io { path: path.clone(), source: error },
            })?,
        };
        let why = match bytes.map(|bytes| Mp4Video::open(bytes, &source.origin())).transpose()? {
            Some(Ok(video)) => return Ok(Self::Mp4(video)),
            Some(Err(why)) => why,
            None => "this is no MP4 or MOV".to_owned(),
        };
        Ok(Self::Ffmpeg(FfmpegVideo::open(source, &why)?))
    }

    fn timing(&self) -> &Timing {
        match self {
            Self::Mp4(video) => video.timing(),
            Self::Ffmpeg(video) => video.timing(),
        }
    }

    fn decode(&self, wanted: &[usize], sink: &mut dyn FnMut(Pixels) -> Result<()>) -> Result<()> {
        match self {
            Self::Mp4(video) => video.decode(wanted, sink),
            Self::Ffmpeg(video) => video.decode(wanted, sink),
        }
    }
}

/// Reads the contents of a file that starts as MP4 and MOV do: with a box whose name is letters.
fn read_mp4(path: &Path) -> std::io::Result<Option<Arc<[u8]>>> {
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(ErrorKind::IsADirectory.into());
    }
    let mut bytes = Vec::new();
    file.by_ref().take(8).read_to_end(&mut bytes)?;
    if !bytes.get(4..).is_some_and(|name| name.len() == 4 && name.iter().all(u8::is_ascii_lowercase)) {
        return Ok(None);
    }
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes.into()))
}

/// The chosen frames, resized, and the effective rate.
fn sampled(source: &Source, options: &VideoOptions) -> Result<(Vec<Pixels>, f64)> {
    let reader = Reader::open(source)?;
    let failed = match (&reader, take(&reader, source, options)) {
        (Reader::Mp4(_), Err(error)) => error,
        (_, done) => return done,
    };
    // The decoder here does not take every stream; an installed ffmpeg may.
    if matches!(failed, MediaError::Unusable { .. }) {
        return Err(failed);
    }
    match FfmpegVideo::open(source, &failed.to_string()) {
        Ok(video) => take(&Reader::Ffmpeg(video), source, options).map_err(|_| failed),
        Err(_) => Err(failed),
    }
}

fn take(reader: &Reader, source: &Source, options: &VideoOptions) -> Result<(Vec<Pixels>, f64)> {
    let chosen = choose(reader.timing(), options);
    // A frame that stays on show is chosen more than once, but decoded only once.
    let mut distinct = chosen.clone();
    distinct.dedup();
    let mut decoded = Vec::with_capacity(distinct.len());
    reader.decode(&distinct, &mut |pixels| {
        let fitted = fit(&pixels, options.bounds, options.patch).map_err(|error| error.named(source.origin()))?;
        let tokens = options.patch.tokens(chosen.len(), &fitted);
        if tokens > options.max_tokens {
            let reason =
                format!("{} frames make {tokens} tokens, at most {} can be taken in", chosen.len(), options.max_tokens);
            return Err(MediaError::unusable(source.origin(), reason));
        }
        decoded.push(fitted);
        Ok(())
    })?;
    if decoded.len() != distinct.len() {
        let reason = format!("{} of {} frames could be decoded", decoded.len(), distinct.len());
        return Err(MediaError::damaged(source.origin(), reason));
    }
    let place = |index: &usize| distinct.partition_point(|other| other < index);
    let frames: Vec<Pixels> = chosen.iter().map(|index| decoded[place(index)].clone()).collect();
    let rate = frames.len() as f64 / reader.timing().seconds();
    Ok((frames, rate))
}
