//! Reading files with the sizes of a model.

use std::path::Path;

use qwen3_omni::media::audio::{AudioInput, MelStream, SAMPLE_RATE};
use qwen3_omni::media::image::{ImageInput, ImageOptions, PatchSpec, patches};
use qwen3_omni::media::video::{VideoInput, VideoOptions, clip, has_sound};
use qwen3_omni::media::{Kind, Result, Source, kind};
use qwen3_omni::{OmniConfig, image_bounds};
use weights_tools::released;

use super::report::{Content, Picture, Sound, Video};

/// The sizes of a model that decide what it reads of a file.
pub struct Counts {
    config: OmniConfig,
    image: ImageOptions,
    video: VideoOptions,
}

impl Counts {
    /// Those of the released model.
    pub fn released() -> qwen3_omni::Result<Self> {
        Ok(Self::new(released::config()?, ImageOptions::default()))
    }

    /// Those of a checkpoint; no weight is read.
    pub fn of_model(directory: &Path) -> qwen3_omni::Result<Self> {
        let config = OmniConfig::read(&directory.join("config.json"))?;
        let bounds = image_bounds(directory)?;
        Ok(Self::new(config, ImageOptions::default().bounds(bounds)))
    }

    fn new(config: OmniConfig, image: ImageOptions) -> Self {
        let vision = &config.vision;
        let patch =
            PatchSpec { side: vision.patch_size, frames: vision.temporal_patch_size, merge: vision.spatial_merge_size };
        let video = VideoOptions::default().patch(patch);
        Self { image: image.patch(patch), video, config }
    }

    /// Reads a file to its end.
    ///
    /// # Errors
    /// [`qwen3_omni::media::MediaError`] naming the file.
    pub fn read(&self, file: &Path) -> Result<Content> {
        let source = Source::from(file);
        match kind(&source)? {
            Kind::Sound => self.sound(&AudioInput::from(source)).map(Content::Audio),
            Kind::Picture => self.picture(&ImageInput::from(source)).map(Content::Image),
            Kind::Video => self.video(source).map(Content::Video),
        }
    }

    fn sound(&self, input: &AudioInput) -> Result<Sound> {
        let (mut mel, mut squares) = (MelStream::new(), 0f64);
        input.feed(&mut |piece| {
            squares += piece.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>();
            mel.push(piece)
        })?;
        let samples = mel.samples();
        let frames = mel.finish()?.frames();
        Ok(Sound {
            samples,
            seconds: samples as f64 / f64::from(SAMPLE_RATE),
            root_mean_square: (squares / samples as f64).sqrt(),
            tokens: self.config.audio.tokens(frames),
        })
    }

    fn picture(&self, input: &ImageInput) -> Result<Picture> {
        let [height, width] = input.size()?;
        let [_, rows, columns] = patches(input, &self.image)?.grid();
        let PatchSpec { side, merge, .. } = self.image.patch;
        let tokens = rows * columns / merge.pow(2);
        Ok(Picture { width, height, read_width: columns * side, read_height: rows * side, tokens })
    }

    fn video(&self, source: Source) -> Result<Video> {
        let input = VideoInput::from(source.clone());
        let clip = clip(&input, &self.video)?;
        let [steps, rows, columns] = clip.patches().grid();
        let PatchSpec { side, merge, frames } = self.video.patch;
        let sound = has_sound(&input)?.then(|| self.sound(&AudioInput::SoundTrack(source))).transpose()?;
        Ok(Video {
            read_width: columns * side,
            read_height: rows * side,
            frames: steps * frames,
            fps: clip.frames_per_second(),
            step: clip.seconds_per_step(),
            tokens: steps * rows * columns / merge.pow(2),
            sound,
        })
    }
}
