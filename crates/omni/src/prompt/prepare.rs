//! Preparation of a conversation: ids with expanded placeholders, log-mel frames and patches.

use std::sync::Arc;
use std::time::Duration;

use burn::tensor::{Device, Tensor};
use media::audio::{AudioInput, Mel, log_mel_up_to};
use media::image::{ImageOptions, PatchSpec, PixelBounds};
use media::video::VideoOptions;
use omni_core::{Dtype, Encoded, Error, Result, SpanLayout};
use serde_json::Value;
use tm_rope::{MediaItem, MediaLayout};

use super::counted::{Counted, Room};
use super::hook::{Hook, HookContext};
use super::media_part::{MediaPart, media_parts};
use super::message::{Message, Part, PartKind, conversation, whole_conversation};
use super::options::GenerateOptions;
use super::prepared::{Feature, Media, PartTokens, Prompt, on_device};
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
    /// Ids that end an answer.
    pub(crate) end_ids: &'a [u32],
}

impl PromptModel<'_> {
    /// What an application's hook is told of the model.
    pub(super) fn hook_context(&self) -> HookContext<'_> {
        HookContext {
            tokenizer: self.tokenizer,
            vocabulary: self.config.thinker.text.vocab_size,
            end_ids: self.end_ids,
        }
    }
}

/// Prepares conversations for one model.
pub(crate) struct Preparer<'a> {
    model: PromptModel<'a>,
    options: &'a GenerateOptions,
}

impl<'a> Preparer<'a> {
    pub(crate) fn new(model: PromptModel<'a>, options: &'a GenerateOptions) -> Self {
        Self { model, options }
    }

    /// Prepares a conversation that is to be answered.
    pub(crate) fn prompt(&self, messages: &[Message]) -> Result<Prompt> {
        self.prepare(messages, conversation(messages)?, true)
    }

    /// Prepares a whole conversation, its answers included.
    pub(crate) fn whole(&self, messages: &[Message]) -> Result<Prompt> {
        self.prepare(messages, whole_conversation(messages)?, false)
    }

    fn prepare(&self, messages: &[Message], mut conversation: Value, opens_answer: bool) -> Result<Prompt> {
        let media_parts = media_parts(messages);
        let needs_encoders = media_parts.iter().any(|media| !matches!(media.part, Part::Encoded(_)));
        if needs_encoders && !self.model.has_encoders {
            return Err(Error::NotLoaded(
                "the conversation holds media, but the model was loaded without encoders".into(),
            ));
        }
        let unexpanded = self.encode(&mut conversation, opens_answer)?;
        self.check_placeholders(&unexpanded, &media_parts)?;
        let (media, audio_in_video) = self.media(&media_parts, unexpanded.len() - media_parts.len())?;
        let layout = self.layout(&media, audio_in_video);
        let ids = layout.expand(&unexpanded, self.audio_end(&layout)?)?;
        let parts = self.count(messages, &layout)?;
        let options = Arc::new(self.options.clone());
        let given = self.given()?;
        let hook = self.hook()?;
        let prompt =
            Prompt { ids, layout, media, options, given, hook, speech: None, preprocessing: Duration::ZERO, parts };
        tracing::debug!(tokens = prompt.tokens(), parts = prompt.parts.len(), "prompt");
        Ok(prompt)
    }

    /// Makes the application's hook.
    fn hook(&self) -> Result<Option<Hook>> {
        let context = self.model.hook_context();
        self.options.hook.as_ref().map(|hooks| hooks.make(&context)).transpose()
    }

    /// Encodes the given text that the answer begins with.
    fn given(&self) -> Result<Vec<u32>> {
        let (tokenizer, limit) = (self.model.tokenizer, self.model.context_length);
        let Some(text) = self.options.given.text() else { return Ok(Vec::new()) };
        let tokens = tokenizer.fewest_tokens(text);
        if tokens >= limit {
            return Err(Error::ContextLength { tokens, limit });
        }
        if self.options.special_tokens_in_text { tokenizer.encode(text) } else { tokenizer.encode_as_text(text) }
    }

    /// Renders the conversation with the chat template and encodes it.
    fn encode(&self, conversation: &mut Value, opens_answer: bool) -> Result<Vec<u32>> {
        let (tokenizer, limit) = (self.model.tokenizer, self.model.context_length);
        let mut template = TemplateOptions {
            tools: self.options.tools.clone(),
            add_generation_prompt: opens_answer,
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

    /// Prepares the media of the conversation, in order: all are counted, and must fit the context beside `text` tokens, before pictures
    /// and frames are decoded, one item at a time.
    fn media(&self, media_parts: &[MediaPart], text: usize) -> Result<(Vec<Media>, Vec<bool>)> {
        let counted = media_parts.iter().map(|part| self.counted(part)).collect::<Result<Vec<_>>>()?;
        let audio_in_video: Vec<bool> = counted.iter().filter_map(Counted::audio_in_video).collect();
        // Two tokens open and close the sound of a video.
        let markers = 2 * audio_in_video.iter().filter(|heard| **heard).count();
        let others = text + markers + counted.iter().map(Counted::fixed_tokens).sum::<usize>();
        let mut room = Room { context: self.model.context_length, others, answer: self.options.max_new_tokens };
        let has_pixels = counted.iter().any(Counted::has_pixels);
        if has_pixels {
            room.check_others()?;
        }
        let mels = self.mels(media_parts, &counted)?;
        room.others += mels.iter().map(|mel| self.model.config.audio.tokens(mel.frames())).sum::<usize>();
        // Text and sound are counted at any length; what does not fit is refused when it is to be answered.
        let counted = match has_pixels {
            true => room.fit(counted, media_parts, self.options.video.token_budget.is_some())?,
            false => counted,
        };
        let (mut mels, images) = (mels.into_iter(), self.image_options());
        let mut next_mel = || mels.next().expect("one result per input");
        let mut items = Vec::new();
        for (part, counted) in media_parts.iter().zip(counted) {
            let (item, sound) = counted.decode(&images, &mut next_mel).map_err(|error| error.in_part(part.name()))?;
            items.push(item);
            items.extend(sound);
        }
        Ok((items, audio_in_video))
    }

    /// Reads what tells the tokens of a part.
    fn counted<'p>(&self, part: &MediaPart<'p>) -> Result<Counted<'p>> {
        let named = |error: media::MediaError| error.in_part(part.name());
        match part.part {
            Part::Audio(audio) => Ok(Counted::Audio(audio)),
            Part::Image(image) => Counted::image(image, &self.image_options()).map_err(named),
            Part::Video { video, sound } => {
                Counted::video(video, sound, self.options, &self.video_options()).map_err(named)
            }
            Part::Encoded(encoded) => {
                let media = match part.part.kind() {
                    PartKind::Video => Media::Video(self.check_encoded(part, encoded)?),
                    PartKind::Image => Media::Image(self.check_encoded(part, encoded)?),
                    _ => Media::Audio(self.check_encoded(part, encoded)?),
                };
                Ok(Counted::Encoded { media, tokens: encoded.spans.iter().map(SpanLayout::tokens).sum() })
            }
            Part::Text(_) => unreachable!("text is no media part"),
        }
    }

    /// Computes the log-mel frames of all sound of the conversation in one call, as the reference does; an error names the message and
    /// part of its input.
    fn mels(&self, media_parts: &[MediaPart], counted: &[Counted]) -> Result<Vec<Mel>> {
        let heard =
            media_parts.iter().zip(counted).filter_map(|(part, counted)| Some((counted.sound()?.clone(), part)));
        let (inputs, parts): (Vec<AudioInput>, Vec<&MediaPart>) = heard.unzip();
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let most = self.most_tokens().saturating_mul(MEL_PER_TOKEN);
        log_mel_up_to(&inputs, most).map_err(|error| error.source.in_part(parts[error.index].name()))
    }

    fn image_options(&self) -> ImageOptions {
        let bounds = self.options.image_bounds.unwrap_or(self.model.image_bounds);
        ImageOptions::default().bounds(bounds).patch(self.patch())
    }

    fn video_options(&self) -> VideoOptions {
        self.options.video.patch(self.patch())
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
            return Err(Error::media(media.name(), reason));
        }
        Ok(Feature::Encoded(Box::new(on_device(encoded, self.model.device, self.model.dtype))))
    }

    /// Tokens above which sound is refused before all of it is read: twice the context. Shorter sound that does not fit is refused with
    /// its count.
    fn most_tokens(&self) -> usize {
        self.model.context_length.saturating_mul(2)
    }

    fn patch(&self) -> PatchSpec {
        let vision = &self.model.config.vision;
        PatchSpec { side: vision.patch_size, frames: vision.temporal_patch_size, merge: vision.spatial_merge_size }
    }

    fn layout(&self, media: &[Media], audio_in_video: Vec<bool>) -> MediaLayout {
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
            audio_in_video,
            ids_per_second: config.thinker.position_id_per_seconds,
        }
    }

    /// The id that closes sound; only sound in video needs it.
    fn audio_end(&self, layout: &MediaLayout) -> Result<u32> {
        let id = self.model.config.thinker.audio_end_token_id.or_else(|| self.model.tokenizer.id("<|audio_end|>"));
        match id {
            Some(id) => Ok(id),
            None if layout.audio_in_video.contains(&true) => {
                Err(Error::config("thinker_config has no audio_end_token_id, which sound in video needs"))
            }
            None => Ok(0),
        }
    }

    fn count(&self, messages: &[Message], layout: &MediaLayout) -> Result<Vec<PartTokens>> {
        let (mut items, mut sounds) = (layout.items.iter(), layout.audio_in_video.iter());
        let mut next = || items.next().map_or(0, MediaItem::tokens);
        let (tokenizer, mut counts) = (self.model.tokenizer, Vec::new());
        for (message, parts) in messages.iter().map(Message::parts).enumerate() {
            for (part, item) in parts.iter().enumerate() {
                let tokens = match item {
                    Part::Text(text) if self.options.special_tokens_in_text => tokenizer.encode(text)?.len(),
                    Part::Text(text) => tokenizer.encode_as_text(text)?.len(),
                    video if video.kind() == PartKind::Video && sounds.next() == Some(&true) => next() + next(),
                    _ => next(),
                };
                counts.push(PartTokens { message: message + 1, part: part + 1, kind: item.kind(), tokens });
            }
        }
        Ok(counts)
    }
}
