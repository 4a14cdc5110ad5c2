use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Device;
use checkpoint::OmniConfig;
use code2wav::Code2Wav;
use moe_talker::{Talker, speaker_id};
use moe_thinker::Thinker;
use omni_core::{Error, Result, SamplingOptions};

use crate::builder::{GenerationConfig, OmniBuilder};
use crate::chat::conversation;
use crate::pipeline::{ReplyStream, SpeechPlan, Timed};
use crate::template::TemplateOptions;
use crate::{Audio, ChatTemplate, Event, GenerateOptions, Message, Reply, Tokenizer};

/// A loaded model. Cheap to clone and to share between threads; each answer has its own state.
#[derive(Clone)]
pub struct Omni {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: OmniConfig,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: ChatTemplate,
    pub(crate) generation: GenerationConfig,
    pub(crate) device: Device,
    pub(crate) thinker: Thinker,
    pub(crate) speech: Option<SpeechParts>,
}

pub(crate) struct SpeechParts {
    pub(crate) talker: Talker,
    pub(crate) code_predictor: Timed,
    pub(crate) code2wav: Code2Wav,
}

impl Omni {
    /// Starts loading a checkpoint directory in Hugging Face layout.
    pub fn builder(directory: impl Into<PathBuf>) -> OmniBuilder {
        OmniBuilder::new(directory.into())
    }

    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// The checkpoint's config.
    pub fn config(&self) -> &OmniConfig {
        &self.inner.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.tokenizer
    }

    /// Whether the parts that speak are loaded.
    pub fn speaks(&self) -> bool {
        self.inner.speech.is_some()
    }

    /// Names of the voices; empty if the model does not speak.
    pub fn speakers(&self) -> Vec<&str> {
        let talker = self.inner.config.talker().ok().filter(|_| self.speaks());
        talker.map_or_else(Vec::new, |talker| talker.speaker_id.keys().map(String::as_str).collect())
    }

    /// Most tokens a conversation and its answer can have together.
    pub fn context_length(&self) -> usize {
        self.inner.thinker.context_length()
    }

    /// The prompt's ids, as the thinker reads them.
    ///
    /// # Errors
    /// [`Error::Request`] if there is nothing to answer, [`Error::ContextLength`] if the prompt is too long.
    pub fn prompt(&self, messages: &[Message], options: &GenerateOptions) -> Result<Vec<u32>> {
        let template = TemplateOptions {
            tools: options.tools.clone(),
            add_generation_prompt: true,
            enable_thinking: options.enable_thinking,
        };
        let text = self.inner.template.render(&conversation(messages)?, &template)?;
        let ids = self.inner.tokenizer.encode(&text)?;
        let limit = self.context_length();
        // One token at least must be left for the answer.
        if ids.len() >= limit {
            return Err(Error::ContextLength { tokens: ids.len(), limit });
        }
        Ok(ids)
    }

    /// The whole answer.
    ///
    /// # Errors
    /// As [`Omni::stream`] and its events.
    pub fn generate(&self, messages: &[Message], options: &GenerateOptions) -> Result<Reply> {
        let mut samples = Vec::new();
        for event in self.stream(messages, options)? {
            match event? {
                Event::Audio(Audio { samples: piece, .. }) => samples.extend(piece),
                Event::Done(mut reply) => {
                    if let Some(speech) = &mut reply.speech {
                        speech.audio.samples = samples;
                    }
                    return Ok(*reply);
                }
                Event::Text(_) => {}
            }
        }
        unreachable!("a stream ends with an error or with `Done`")
    }

    /// The answer piece by piece: text as it is written, then sound. Work happens as events are asked for; dropping the
    /// stream stops it.
    ///
    /// # Errors
    /// Before any work: [`Error::Request`] for a conversation or options that cannot be served,
    /// [`Error::ContextLength`], or [`Error::NotLoaded`] if speech is asked for and not there.
    pub fn stream(&self, messages: &[Message], options: &GenerateOptions) -> Result<ReplyStream> {
        options.validate()?;
        let plan = self.speech_plan(options)?;
        let prompt = self.prompt(messages, options)?;
        Ok(ReplyStream::new(self.inner.clone(), prompt, options.clone(), plan))
    }

    fn speech_plan(&self, options: &GenerateOptions) -> Result<Option<SpeechPlan>> {
        let wanted = options.speech.unwrap_or(self.speaks());
        if !wanted {
            return Ok(None);
        }
        let talker = self.inner.config.talker()?;
        if !self.speaks() {
            return Err(Error::NotLoaded("speech was asked for, but the model was loaded for text only".into()));
        }
        let speaker = match &options.speaker {
            Some(name) => speaker_id(&talker.speaker_id, name)?,
            None => default_speaker(talker),
        };
        let generation = &self.inner.generation;
        // Stages must not draw the same numbers: each has its own seed.
        let [talker_seed, predictor_seed] =
            [1, 2].map(|stage| options.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ stage);
        let usual = SamplingOptions { greedy: options.greedy_speech, ..generation.talker(talker_seed) };
        let sampling = options.talker.clone().unwrap_or(usual);
        // The reference's code predictor follows the talker's choice.
        let greedy = sampling.greedy;
        let predictor = || SamplingOptions { greedy, seed: predictor_seed, ..SamplingOptions::code_predictor() };
        Ok(Some(SpeechPlan {
            speaker,
            speak: moe_talker::SpeakOptions {
                sampling,
                residual_sampling: options.code_predictor.clone().unwrap_or_else(predictor),
                max_codes: options.max_codes.unwrap_or(generation.max_codes()),
                end_code: None,
            },
        }))
    }
}

fn default_speaker(talker: &checkpoint::TalkerConfig) -> u32 {
    let named = talker.speaker_id.get("ethan");
    *named.or_else(|| talker.speaker_id.values().next()).expect("checked when the config was read")
}
