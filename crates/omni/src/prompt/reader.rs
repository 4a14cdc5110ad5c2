use std::path::Path;

use burn::tensor::Device;
use media::audio::Mel;
use media::image::{Patches, PixelBounds};
use media::video::Clip;
use omni_core::{Dtype, Error, Result};

use super::prepare::{Preparer, PromptModel};
use super::{ChatTemplate, Feature, GenerateOptions, Media, Message, Tokenizer};
use crate::config::OmniConfig;
use crate::load::OmniCheckpoint;
use crate::model::image_bounds;

/// Reads whole conversations, answers included, as the model reads them, without loading its weights: for training data and for
/// counting.
///
/// ```no_run
/// use qwen3_omni::{ConversationReader, GenerateOptions, Message};
///
/// # fn main() -> qwen3_omni::Result<()> {
/// let reader = ConversationReader::open("/models/Qwen3-Omni-30B-A3B-Instruct")?;
/// let talk = [Message::user().text("What is said?").audio("q.wav"), Message::assistant("Nice weather.")];
/// let read = reader.read(&talk, &GenerateOptions::default())?;
/// println!("{} tokens, {} media", read.ids.len(), read.media.len());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ConversationReader {
    config: OmniConfig,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    image_bounds: PixelBounds,
}

/// A conversation as the thinker reads it.
#[derive(Debug)]
pub struct ReadConversation {
    /// Token ids, placeholders expanded.
    pub ids: Vec<u32>,
    /// Its media in order of appearance; the sound of a video stands behind it.
    pub media: Vec<ReadMedia>,
    /// Whether each video brings its own sound, interleaved.
    pub audio_in_video: Vec<bool>,
}

/// The encoders' input for one item of media.
#[derive(Debug)]
pub enum ReadMedia {
    /// Log-mel frames of sound.
    Sound(Mel),
    /// Patches of a picture.
    Picture(Patches),
    /// Patches of a video.
    Video(Clip),
}

impl ConversationReader {
    /// Reads a checkpoint directory's config, tokenizer and chat template.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Io`] naming the file.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        Ok(Self {
            config: OmniCheckpoint::open(directory)?.config().clone(),
            tokenizer: Tokenizer::from_directory(directory)?,
            template: ChatTemplate::from_directory(directory)?,
            image_bounds: image_bounds(directory)?,
        })
    }

    /// The checkpoint's config.
    pub fn config(&self) -> &OmniConfig {
        &self.config
    }

    /// The checkpoint's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Renders a conversation with the chat template, encodes it and decodes its media. Of the options, those for media, tools and
    /// special tokens in texts are used.
    ///
    /// # Errors
    /// [`Error::Request`], [`Error::Media`] and [`Error::ContextLength`] naming the message or part; [`Error::Unsupported`] for rows of
    /// custom encoders.
    pub fn read(&self, messages: &[Message], options: &GenerateOptions) -> Result<ReadConversation> {
        let device = Device::default();
        let model = PromptModel {
            config: &self.config,
            tokenizer: &self.tokenizer,
            template: &self.template,
            image_bounds: self.image_bounds,
            device: &device,
            dtype: Dtype::F32,
            context_length: self.config.thinker.text.max_position_embeddings,
            has_encoders: true,
            end_ids: &[],
        };
        let prompt = Preparer::new(model, options).whole(messages)?;
        let media = prompt.media.into_iter().map(ReadMedia::of).collect::<Result<_>>()?;
        Ok(ReadConversation { ids: prompt.ids, media, audio_in_video: prompt.layout.audio_in_video })
    }
}

impl ReadMedia {
    fn of(item: Media) -> Result<Self> {
        match item {
            Media::Audio(Feature::Raw(mel)) => Ok(Self::Sound(mel)),
            Media::Image(Feature::Raw(patches)) => Ok(Self::Picture(patches)),
            Media::Video(Feature::Raw(clip)) => Ok(Self::Video(clip)),
            _ => Err(Error::unsupported("rows of a custom encoder in a conversation that is only read")),
        }
    }
}
