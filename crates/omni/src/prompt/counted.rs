//! Media that are counted before they are decoded, and decoded one at a time.

use media::MediaError;
use media::audio::{AudioInput, Mel};
use media::image::{ImageInput, ImageOptions, grid, patches};
use media::video::{Plan, VideoInput, VideoOptions, has_sound, plan};
use omni_core::{Error, Result};

use super::media_part::MediaPart;
use super::message::VideoSound;
use super::options::GenerateOptions;
use super::prepared::{Feature, Media};

/// A part whose tokens are known, apart from those of its sound; no pixels are held.
pub(super) enum Counted<'a> {
    Audio(&'a AudioInput),
    Image { image: &'a ImageInput, tokens: usize },
    Video { plan: Box<Plan>, sound: Option<AudioInput> },
    Encoded { media: Media, tokens: usize },
}

impl<'a> Counted<'a> {
    /// Reads the header of a picture.
    pub(super) fn image(image: &'a ImageInput, options: &ImageOptions) -> media::Result<Self> {
        let patches: usize = grid(image, options)?.iter().product();
        Ok(Self::Image { image, tokens: patches / options.patch.merge.pow(2) })
    }

    /// Opens a video and finds its sound.
    pub(super) fn video(
        video: &VideoInput,
        sound: &VideoSound,
        options: &GenerateOptions,
        frames: &VideoOptions,
    ) -> media::Result<Self> {
        let sound = sound_of(video, sound, options.audio_in_video)?;
        Ok(Self::Video { plan: Box::new(plan(video, frames)?), sound })
    }

    /// The sound to be heard, if there is any.
    pub(super) fn sound(&self) -> Option<&AudioInput> {
        match self {
            Self::Audio(audio) => Some(audio),
            Self::Video { sound, .. } => sound.as_ref(),
            _ => None,
        }
    }

    /// Tokens besides those of sound.
    fn tokens(&self) -> usize {
        match self {
            Self::Audio(_) => 0,
            Self::Image { tokens, .. } | Self::Encoded { tokens, .. } => *tokens,
            Self::Video { plan, .. } => plan.tokens(),
        }
    }

    /// Tokens of a video that can be shrunk.
    fn video_tokens(&self) -> Option<usize> {
        if let Self::Video { plan, .. } = self { Some(plan.tokens()) } else { None }
    }

    /// Tokens of everything whose size is fixed.
    pub(super) fn fixed_tokens(&self) -> usize {
        if matches!(self, Self::Video { .. }) { 0 } else { self.tokens() }
    }

    /// Whether there are pixels to decode.
    pub(super) fn has_pixels(&self) -> bool {
        matches!(self, Self::Image { .. } | Self::Video { .. })
    }

    /// For a video, whether its sound is interleaved.
    pub(super) fn audio_in_video(&self) -> Option<bool> {
        match self {
            Self::Video { sound, .. } => Some(sound.is_some()),
            Self::Encoded { media: Media::Video(_), .. } => Some(false),
            _ => None,
        }
    }

    /// Decodes the pixels; `next_mel` has the sound.
    pub(super) fn decode(
        self,
        options: &ImageOptions,
        next_mel: &mut dyn FnMut() -> Mel,
    ) -> media::Result<(Media, Option<Media>)> {
        let mut sound = || Media::Audio(Feature::Raw(next_mel()));
        Ok(match self {
            Self::Audio(_) => (sound(), None),
            Self::Image { image, .. } => (Media::Image(Feature::Raw(patches(image, options)?)), None),
            Self::Video { plan, sound: heard } => {
                (Media::Video(Feature::Raw(plan.clip()?)), heard.is_some().then(sound))
            }
            Self::Encoded { media, .. } => (media, None),
        })
    }
}

/// The sound of a video: what its message says, or else what the options say.
fn sound_of(video: &VideoInput, sound: &VideoSound, audio_in_video: bool) -> media::Result<Option<AudioInput>> {
    let track = match video {
        VideoInput::Encoded(source) => Some(AudioInput::SoundTrack(source.clone())),
        _ => None,
    };
    match sound {
        VideoSound::Always(sound) => Ok(Some(sound.clone())),
        VideoSound::Given(sound) if audio_in_video => Ok(Some(sound.clone())),
        // A file without a sound track is an error when it is read.
        VideoSound::Track => track.map(Some).ok_or_else(|| MediaError::Unusable {
            origin: video.origin(),
            reason: "they have no sound of their own, but their sound track was asked for".into(),
            source: None,
        }),
        VideoSound::Auto if audio_in_video && has_sound(video)? => Ok(track),
        _ => Ok(None),
    }
}

/// What is left of the context for videos.
pub(super) struct Room {
    /// Tokens of the context.
    pub(super) context: usize,
    /// Tokens of everything but videos.
    pub(super) others: usize,
    /// Most tokens of the answer.
    pub(super) answer: usize,
}

impl Room {
    /// Tokens of all videos, if they must be shrunk: the reference's nine tenths of the context, less a tenth for each that the rest of
    /// the prompt and the answer begin. By tenths, so that a conversation does not change its videos with every turn.
    fn for_videos(&self) -> usize {
        let rest = self.others + self.answer.min(self.context / 10);
        let tenths = (rest * 10).div_ceil(self.context.max(1)).clamp(1, 10);
        self.context / 10 * (10 - tenths)
    }

    /// # Errors
    /// [`Error::ContextLength`] if there is no room for videos, nor for an answer.
    pub(super) fn check_others(&self) -> Result<()> {
        let (tokens, limit) = (self.others, self.context);
        if tokens < limit { Ok(()) } else { Err(Error::ContextLength { tokens, limit }) }
    }

    /// Shrinks the frames of videos that do not fit, unless the options set a total of their own (`keep`).
    ///
    /// # Errors
    /// [`Error::ContextLength`] if the rest does not fit either; [`Error::Media`] naming the options that make a video shorter.
    pub(super) fn fit<'a>(
        &self,
        counted: Vec<Counted<'a>>,
        parts: &[MediaPart<'_>],
        keep: bool,
    ) -> Result<Vec<Counted<'a>>> {
        let videos: usize = counted.iter().filter_map(Counted::video_tokens).sum();
        // At least one token must be left for the answer.
        if self.others + videos < self.context {
            return Ok(counted);
        }
        self.check_others()?;
        let room = self.for_videos();
        let shrink = |(counted, part): (Counted<'a>, &MediaPart<'_>)| match counted {
            Counted::Video { plan, sound } if !keep => {
                let share = (plan.tokens() as u128 * room as u128 / videos as u128) as usize;
                let plan = plan.within(share).map_err(|error| error.in_part(part.name()))?;
                Ok(Counted::Video { plan: Box::new(plan), sound })
            }
            other => Ok(other),
        };
        let counted = counted.into_iter().zip(parts).map(shrink).collect::<Result<Vec<_>>>()?;
        self.check(counted, parts)
    }

    /// Refuses the longest of the videos if they do not fit.
    fn check<'a>(&self, counted: Vec<Counted<'a>>, parts: &[MediaPart<'_>]) -> Result<Vec<Counted<'a>>> {
        let videos: usize = counted.iter().filter_map(Counted::video_tokens).sum();
        if self.others + videos < self.context {
            return Ok(counted);
        }
        let longest = counted.iter().zip(parts).max_by_key(|(counted, _)| counted.video_tokens());
        match longest {
            Some((Counted::Video { plan, .. }, part)) => {
                let left = self.context - 1 - self.others;
                Err(plan.too_long((left + plan.tokens()).saturating_sub(videos)).in_part(part.name()))
            }
            _ => Err(Error::ContextLength { tokens: self.others + videos, limit: self.context }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn videos_get_whole_tenths_of_the_context() {
        let room = |others, answer| Room { context: 1000, others, answer }.for_videos();
        assert_eq!([room(1, 50), room(60, 50), room(101, 5000), room(950, 1)], [900, 800, 700, 0]);
    }
}
