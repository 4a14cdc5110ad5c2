//! Preparation of a conversation: ids with expanded placeholders, log-mel frames and patches.

use std::sync::Arc;
use std::time::Duration;

use burn::tensor::{DType, Device, Tensor};
use media::audio::{AudioInput, Mel, log_mel_up_to};
use media::image::{ImageOptions, PatchSpec, PixelBounds, patches};
use media::video::{VideoInput, VideoOptions, clip};
use omni_core::{Dtype, Encoded, Error, Result, SpanLayout};
use serde_json::Value;
use tm_rope::{MediaItem, MediaLayout};

use super::message::{Message, Part, PartKind, conversation};
use super::options::GenerateOptions;
use super::prepared::{Feature, Media, PartTokens, Prompt};
use super::template::{ChatTemplate, TemplateOptions};
use super::tokenizer::{Mark, Tokenizer};
use crate::config::OmniConfig;

/// Log-mel frames of one token, rounded up.
const MEL_PER_TOKEN: usize = 8;

/// The properties of a model that the preparation of a prompt needs.
pub(crate) struct PromptModel<'a> {
    pub(crate) config: &'a OmniConfig,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) template: &'a ChatTemplate,
    /// Bounds of image sizes if the options have none.
    pub(crate) image_bounds: PixelBounds,
    pub(crate) device: &'a Device,
    pub(crate) dtype: Dtype,
    pub(crate) context_length: usize,
    pub(crate) has_encoders: bool,
}

/// Prepares conversations for one model.
pub(crate) struct Preparer<'a> {
    model: PromptModel<'a>,
    options: &'a GenerateOptions,
}

/// A part that is not text, with its position in the conversation.
struct MediaPart<'a> {
    message: usize,
    index: usize,
    part: &'a Part,
}

impl MediaPart<'_> {
    fn name(&self) -> String {
        format!("message {}, part {}", self.message, self.index)
    }
}

impl<'a> Preparer<'a> {
    pub(crate) fn new(model: PromptModel<'a>, options: &'a GenerateOptions) -> Self {
        Self { model, options }
    }

    pub(crate) fn prompt(&self, messages: &[Message]) -> Result<Prompt> {
        let mut conversation = conversation(messages)?;
        let media_parts = media_parts(messages);
        let needs_encoders = media_parts.iter().any(|media| !matches!(media.part, Part::Encoded(_)));
        if needs_encoders && !self.model.has_encoders {
            return Err(Error::NotLoaded(
                "the conversation holds media, but the model was loaded without encoders".into(),
            ));
        }
        let unexpanded = self.encode(&mut conversation)?;
        self.check_placeholders(&unexpanded, &media_parts)?;
        let media = self.media(&media_parts)?;
        let layout = self.layout(&media);
        let ids = layout.expand(&unexpanded, self.audio_end()?)?;
        let parts = self.count(messages, &layout)?;
        let options = Arc::new(self.options.clone());
        let prompt = Prompt { ids, layout, media, options, speech: None, preprocessing: Duration::ZERO, parts };
        tracing::debug!(tokens = prompt.tokens(), parts = prompt.parts.len(), "prompt");
        Ok(prompt)
    }

    /// Renders the conversation with the chat template and encodes it.
    fn encode(&self, conversation: &mut Value) -> Result<Vec<u32>> {
        let (tokenizer, limit) = (self.model.tokenizer, self.model.context_length);
        let mut template = TemplateOptions {
            tools: self.options.tools.clone(),
            add_generation_prompt: true,
            enable_thinking: self.options.enable_thinking,
        };
        let texts: Vec<&Value> = std::iter::once(&*conversation).chain(&template.tools).collect();
        let mark = match self.options.special_tokens_in_text {
            true => None,
            false => Mark::for_texts(tokenizer, &texts)?,
        };
        if let Some(mark) = mark {
            std::iter::once(&mut *conversation).chain(&mut template.tools).for_each(|texts| mark.set(tokenizer, texts));
        }
        let rendered = self.model.template.render(conversation, &template)?;
        // Encoding megabytes takes seconds, which a text that cannot fit must not cost.
        let tokens = tokenizer.fewest_tokens(&rendered);
        if tokens >= limit {
            return Err(Error::ContextLength { tokens, limit });
        }
        mark.map_or_else(|| tokenizer.encode(&rendered), |mark| mark.encode(tokenizer, &rendered))
    }

    /// Checks that the placeholders are those of the media parts: a special token in a text part would be taken for media.
    fn check_placeholders(&self, unexpanded: &[u32], media_parts: &[MediaPart]) -> Result<()> {
        let ids = moe_thinker::media_ids(&self.model.config.thinker);
        for (id, kind) in [(ids.audio, PartKind::Audio), (ids.image, PartKind::Image), (ids.video, PartKind::Video)] {
            let found = unexpanded.iter().filter(|found| **found == id).count();
            let given = media_parts.iter().filter(|media| media.part.kind() == kind).count();
            if found != given {
                let name = kind.name();
                return Err(Error::Request(format!(
                    "the prompt has {found} {name} placeholders for {given} {name} parts: does a text part hold the \
                     placeholder's own token?"
                )));
            }
        }
        Ok(())
    }

    /// Prepares the media of the conversation, in order.
    fn media(&self, media_parts: &[MediaPart]) -> Result<Vec<Media>> {
        let mut mels = self.mels(media_parts)?.into_iter();
        let mut next_mel = || Media::Audio(Feature::Raw(mels.next().expect("one result per input")));
        let (images, videos) = (self.image_options(), self.video_options());
        let mut items = Vec::new();
        for media in media_parts {
            let named = |error: media::MediaError| error.in_part(media.name());
            match (media.part, media.part.kind()) {
                (Part::Text(_), _) => {}
                (Part::Audio(_), _) => items.push(next_mel()),
                (Part::Image(image), _) => {
                    items.push(Media::Image(Feature::Raw(patches(image, &images).map_err(named)?)));
                }
                (Part::Video { video, .. }, _) => {
                    items.push(Media::Video(Feature::Raw(clip(video, &videos).map_err(named)?)));
                    items.extend(self.options.audio_in_video.then(&mut next_mel));
                }
                (Part::Encoded(_), PartKind::Video) if self.options.audio_in_video => {
                    let reason = "an encoded video has no sound of its own, but sound in video was asked for".into();
                    return Err(Error::Media { part: media.name(), reason });
                }
                (Part::Encoded(encoded), PartKind::Video) => {
                    items.push(Media::Video(self.check_encoded(media, encoded)?));
                }
                (Part::Encoded(encoded), PartKind::Image) => {
                    items.push(Media::Image(self.check_encoded(media, encoded)?));
                }
                (Part::Encoded(encoded), _) => items.push(Media::Audio(self.check_encoded(media, encoded)?)),
            }
        }
        Ok(items)
    }

    /// Computes the log-mel frames of all sound of the conversation in one call, as the reference does; an error names the message and
    /// part of its input.
    fn mels(&self, media_parts: &[MediaPart]) -> Result<Vec<Mel>> {
        let (mut inputs, mut sources) = (Vec::new(), Vec::new());
        for media in media_parts {
            match media.part {
                Part::Audio(audio) => inputs.push(audio.clone()),
                Part::Video { video, sound } if self.options.audio_in_video => {
                    inputs.push(sound_of(media, video, sound.as_ref())?);
                }
                _ => continue,
            }
            sources.push(media);
        }
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let most = self.most_tokens().saturating_mul(MEL_PER_TOKEN);
        log_mel_up_to(&inputs, most).map_err(|(index, error)| error.in_part(sources[index].name()))
    }

    fn image_options(&self) -> ImageOptions {
        let bounds = self.options.image_bounds.unwrap_or(self.model.image_bounds);
        ImageOptions { bounds, patch: self.patch() }
    }

    fn video_options(&self) -> VideoOptions {
        let max_tokens = self.options.video.max_tokens.min(self.most_tokens());
        VideoOptions { patch: self.patch(), max_tokens, ..self.options.video }
    }

    /// Checks the rows of a custom encoder.
    fn check_encoded<T>(&self, media: &MediaPart, encoded: &Encoded) -> Result<Feature<T>> {
        let width = self.model.config.thinker.text.hidden_size;
        let [rows, found] = encoded.embeds.dims();
        let fits = |feature: &Tensor<2>| feature.dims() == [rows, width];
        let spans = encoded.spans.as_slice();
        let counted = spans.len() == 1 && spans[0].tokens() == rows && rows > 0 && MediaItem::of(&spans[0]).is_some();
        let in_time = |span: &SpanLayout| match span {
            SpanLayout::Grid { seconds_per_step, .. } => seconds_per_step.is_finite() && *seconds_per_step >= 0.0,
            _ => true,
        };
        if found != width || !counted || !spans.iter().all(in_time) || !encoded.deepstack.iter().all(fits) {
            let reason = format!(
                "encoded rows [{rows}, {found}] with {} spans: expected width {width}, one span of as many tokens and a \
                 finite time per step, and deepstack features of the same shape",
                spans.len()
            );
            return Err(Error::Media { part: media.name(), reason });
        }
        let here = |rows: &Tensor<2>| rows.clone().to_device(self.model.device).cast(DType::from(self.model.dtype));
        Ok(Feature::Encoded(Box::new(Encoded {
            embeds: here(&encoded.embeds),
            spans: encoded.spans.clone(),
            deepstack: encoded.deepstack.iter().map(here).collect(),
        })))
    }

    /// Tokens above which an item is refused before all of it is read: twice the context. A smaller item that does not fit is refused
    /// with its count.
    fn most_tokens(&self) -> usize {
        self.model.context_length.saturating_mul(2)
    }

    fn patch(&self) -> PatchSpec {
        let vision = &self.model.config.vision;
        PatchSpec { side: vision.patch_size, frames: vision.temporal_patch_size, merge: vision.spatial_merge_size }
    }

    fn layout(&self, media: &[Media]) -> MediaLayout {
        let config = self.model.config;
        let merge = config.vision.spatial_merge_size;
        let given = |encoded: &Encoded| MediaItem::of(&encoded.spans[0]).expect("checked when it was taken in");
        let item = |item: &Media| match item {
            Media::Audio(Feature::Raw(mel)) => MediaItem::Audio(config.audio.tokens(mel.frames())),
            Media::Image(Feature::Raw(patches)) => {
                let [_, h, w] = patches.grid();
                MediaItem::Image([h / merge, w / merge])
            }
            Media::Video(Feature::Raw(clip)) => {
                let [t, h, w] = clip.patches().grid();
                MediaItem::Video([t, h / merge, w / merge], clip.seconds_per_step())
            }
            Media::Audio(Feature::Encoded(encoded))
            | Media::Image(Feature::Encoded(encoded))
            | Media::Video(Feature::Encoded(encoded)) => given(encoded),
        };
        MediaLayout {
            ids: moe_thinker::media_ids(&config.thinker),
            items: media.iter().map(item).collect(),
            audio_in_video: self.options.audio_in_video,
            ids_per_second: config.thinker.position_id_per_seconds,
        }
    }

    /// The id that closes sound; only sound in video needs it.
    fn audio_end(&self) -> Result<u32> {
        let id = self.model.config.thinker.audio_end_token_id.or_else(|| self.model.tokenizer.id("<|audio_end|>"));
        match id {
            Some(id) => Ok(id),
            None if self.options.audio_in_video => {
                Err(Error::Config("thinker_config has no audio_end_token_id, which sound in video needs".into()))
            }
            None => Ok(0),
        }
    }

    fn count(&self, messages: &[Message], layout: &MediaLayout) -> Result<Vec<PartTokens>> {
        let mut items = layout.items.iter();
        let mut next = || items.next().map_or(0, MediaItem::tokens);
        let (tokenizer, mut counts) = (self.model.tokenizer, Vec::new());
        for (message, parts) in messages.iter().map(Message::parts).enumerate() {
            for (part, item) in parts.iter().enumerate() {
                let tokens = match item {
                    Part::Text(text) if self.options.special_tokens_in_text => tokenizer.encode(text)?.len(),
                    Part::Text(text) => tokenizer.encode_as_text(text)?.len(),
                    Part::Video { .. } if layout.audio_in_video => next() + next(),
                    _ => next(),
                };
                counts.push(PartTokens { message: message + 1, part: part + 1, kind: item.kind(), tokens });
            }
        }
        Ok(counts)
    }
}

/// Lists the parts that are not text, in order.
fn media_parts(messages: &[Message]) -> Vec<MediaPart<'_>> {
    let of_message = |(message, parts): (usize, &'_ [Part])| -> Vec<(usize, usize)> {
        let media = parts.iter().enumerate().filter(|(_, item)| item.kind() != PartKind::Text);
        media.map(|(part, _)| (message, part)).collect()
    };
    let all = messages.iter().map(Message::parts).enumerate().flat_map(of_message);
    all.map(|(message, part)| MediaPart {
        message: message + 1,
        index: part + 1,
        part: &messages[message].parts()[part],
    })
    .collect()
}

/// The sound of a video: the one given, or else the sound track of the file.
fn sound_of(media: &MediaPart, video: &VideoInput, sound: Option<&AudioInput>) -> Result<AudioInput> {
    match (sound, video) {
        (Some(sound), _) => Ok(sound.clone()),
        (None, VideoInput::Encoded(source)) => Ok(AudioInput::SoundTrack(source.clone())),
        (None, other) => {
            let reason = format!("{} have no sound of their own, but sound in video was asked for", other.origin());
            Err(Error::Media { part: media.name(), reason })
        }
    }
}
