//! Which frames of a video are taken and at which size, decided before a frame is decoded for good.

use std::sync::Arc;

use super::clip::Clip;
use super::input::VideoInput;
use super::options::{RATES, VideoOptions};
use super::reader::Reader;
use super::sampling::choose;
use crate::image::{Cutter, ImageInput, PixelBounds, Pixels, resized, target_size};
use crate::{MediaError, Result, Source};

/// A video that was opened and counted. Its tokens are known, its frames are not decoded.
#[derive(Debug)]
pub struct Plan {
    frames: Frames,
    options: VideoOptions,
    origin: String,
    /// Frames taken.
    count: usize,
    /// Height and width of the taken frames.
    source_size: [usize; 2],
    /// Height and width they are resized to.
    size: [usize; 2],
    frames_per_second: f64,
}

#[derive(Debug)]
enum Frames {
    /// A file and the indices of the frames taken.
    Encoded(Source, Box<Reader>, Vec<usize>),
    Images(Arc<[ImageInput]>),
}

/// Opens a video, chooses its frames and decides their size.
///
/// MP4 and MOV are counted by their tables, pictures by their headers. What `ffmpeg` reads is decoded once to learn the times of its
/// frames; they are not kept.
///
/// # Errors
/// [`MediaError`] if the video cannot be read, has no frames, or more frames or tokens than the options allow.
pub fn plan(input: &VideoInput, options: &VideoOptions) -> Result<Plan> {
    check(options)?;
    match input {
        VideoInput::Encoded(source) => encoded(source, Reader::open(source)?, options),
        VideoInput::Images { images, frames_per_second } => chosen(input, images, *frames_per_second, options),
    }
}

fn check(options: &VideoOptions) -> Result<()> {
    let rate = options.frames_per_second;
    if !RATES.contains(&rate) || options.max_frames == 0 || options.min_frames > options.max_frames {
        let VideoOptions { min_frames, max_frames, .. } = options;
        let reason = format!("{rate} frames per second and {min_frames} to {max_frames} frames cannot be sampled");
        return Err(MediaError::unusable("video options", reason));
    }
    Ok(())
}

fn encoded(source: &Source, reader: Reader, options: &VideoOptions) -> Result<Plan> {
    let indices = choose(reader.timing(), options);
    let plan = Plan {
        count: indices.len(),
        source_size: reader.size(),
        size: [0; 2],
        frames_per_second: indices.len() as f64 / reader.timing().seconds(),
        frames: Frames::Encoded(source.clone(), Box::new(reader), indices),
        options: *options,
        origin: source.origin(),
    };
    plan.sized()
}

fn chosen(
    input: &VideoInput,
    images: &Arc<[ImageInput]>,
    frames_per_second: f64,
    options: &VideoOptions,
) -> Result<Plan> {
    let refuse = |reason| Err(MediaError::unusable(input.origin(), reason));
    let [first, ..] = &**images else {
        return refuse(format!("0 frames, expected 1 to {}", options.max_frames));
    };
    if images.len() > options.max_frames {
        return refuse(format!("{} frames, expected 1 to {}", images.len(), options.max_frames));
    }
    if !RATES.contains(&frames_per_second) {
        return refuse(format!("{frames_per_second} frames per second, expected 0.001 to 1000"));
    }
    let plan = Plan {
        frames: Frames::Images(images.clone()),
        options: *options,
        origin: input.origin(),
        count: images.len(),
        source_size: first.size()?,
        size: [0; 2],
        frames_per_second,
    };
    plan.sized()
}

impl Plan {
    /// Patches per time step, row and column: `[t, h, w]`.
    pub fn grid(&self) -> [usize; 3] {
        self.options.patch.grid(self.count, self.size)
    }

    /// Tokens of all frames.
    pub fn tokens(&self) -> usize {
        self.grid().iter().product::<usize>() / self.options.patch.merge.pow(2)
    }

    /// Seconds from one step of the grid to the next.
    pub fn seconds_per_step(&self) -> f32 {
        (self.options.patch.frames as f64 / self.frames_per_second) as f32
    }

    /// Shrinks the frames to `tokens` in all, as [`VideoOptions::token_budget`] does.
    ///
    /// # Errors
    /// [`MediaError::Unusable`] if the smallest frames are too many still for [`VideoOptions::max_tokens`].
    pub fn within(mut self, tokens: usize) -> Result<Self> {
        self.options.token_budget = Some(tokens);
        self.sized()
    }

    /// Names the frames and the options that make fewer or smaller ones, for the refusal of a video that does not fit.
    pub fn too_long(&self, most: usize) -> MediaError {
        let ([height, width], VideoOptions { frames_per_second, max_frames, bounds, .. }) = (self.size, self.options);
        let reason = format!(
            "{} frames of {width} × {height} pixels make {} tokens, at most {most} can be taken in: lower \
             `frames_per_second` ({frames_per_second}), `max_frames` ({max_frames}), `token_budget` or the pixels of a frame, \
             `bounds` ({} to {})",
            self.count,
            self.tokens(),
            bounds.min,
            bounds.max
        );
        MediaError::unusable(&self.origin, reason)
    }

    /// Decides the size of the frames.
    fn sized(mut self) -> Result<Self> {
        self.size = self.fit(self.source_size).map_err(|error| error.named(self.origin.clone()))?;
        if self.tokens() > self.options.max_tokens {
            return Err(self.too_long(self.options.max_tokens));
        }
        Ok(self)
    }

    fn fit(&self, size: [usize; 2]) -> Result<[usize; 2]> {
        let VideoOptions { bounds, patch, .. } = self.options;
        let max = self.options.token_budget.map_or(bounds.max, |budget| {
            // As the reference shares a total among the frames. The lower bound is left some room, so that a size can be found.
            let share = budget.saturating_mul(patch.factor().pow(2)).saturating_mul(patch.frames) / self.count.max(1);
            bounds.max.min(share).max((bounds.min as f64 * 1.05) as usize)
        });
        target_size(size, patch.factor(), PixelBounds { min: bounds.min, max })
    }

    /// Decodes the frames and cuts them into patches.
    ///
    /// # Errors
    /// [`MediaError`] if a frame cannot be decoded, or chosen frames differ in size.
    pub fn clip(self) -> Result<Clip> {
        let failed = match self.cut() {
            Err(error) if !matches!(error, MediaError::Unusable { .. }) => error,
            done => return done,
        };
        match &self.frames {
            // The decoder here does not take every stream; an installed ffmpeg may.
            Frames::Encoded(source, reader, _) if matches!(**reader, Reader::Mp4(_)) => {
                let by_ffmpeg = Reader::open_ffmpeg(source, &failed.to_string());
                by_ffmpeg.and_then(|reader| encoded(source, reader, &self.options)?.cut()).map_err(|_| failed)
            }
            _ => Err(failed),
        }
    }

    fn cut(&self) -> Result<Clip> {
        let named = |error: MediaError| error.named(self.origin.clone());
        let mut cutter = Cutter::new(self.options.patch, self.size, self.count).map_err(named)?;
        match &self.frames {
            Frames::Encoded(_, reader, indices) => self.decode(reader, indices, &mut cutter)?,
            Frames::Images(images) => {
                for image in images.iter() {
                    let size = self.fit(image.size()?).map_err(|error| error.named(image.origin()))?;
                    cutter.push(resized(image, size)?).map_err(named)?;
                }
            }
        }
        let patches = cutter.finish().map_err(named)?;
        let per_step = self.options.patch.frames;
        Ok(Clip { patches, frames_per_second: self.frames_per_second, per_step })
    }

    fn decode(&self, reader: &Reader, indices: &[usize], cutter: &mut Cutter) -> Result<()> {
        // A frame that stays on show is chosen more than once, but decoded only once.
        let mut distinct = indices.to_vec();
        distinct.dedup();
        let mut times = indices.chunk_by(|a, b| a == b).map(<[usize]>::len);
        let mut decoded = 0;
        reader.decode(&distinct, self.size, &mut |frame: Pixels| {
            decoded += 1;
            (0..times.next().unwrap_or(0)).try_for_each(|_| cutter.push(frame.clone()))
        })?;
        if decoded != distinct.len() {
            let reason = format!("{decoded} of {} frames could be decoded", distinct.len());
            return Err(MediaError::damaged(&self.origin, reason));
        }
        Ok(())
    }
}
