use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use aut_encoder::AutEncoder;
use burn::tensor::{Device, Tensor};
use code2wav::Code2Wav;
use moe_talker::{Talker, speaker_id};
use moe_thinker::Thinker;
use mtp::CodePredictor;
use omni_core::{Dtype, Encoded, Error, ModalityEncoder, Result, SamplingOptions, Vocoder};
use vision_encoder::{PixelPatches, VisionEncoder};

use crate::builder::{GenerationConfig, OmniBuilder, PreprocessorConfig};
use crate::memory::Memory;
use crate::pipeline::{ReplyStream, SpeechPlan};
use crate::places::{Place, Places};
use crate::processor::{Processor, Prompt};
use crate::stages::Together;
use crate::threads::Threads;
use crate::{Audio, ChatTemplate, Event, GenerateOptions, Message, OmniConfig, Reply, Session, Tokenizer, VocoderMode};

/// A loaded model. Cheap to clone and to share between threads; each answer has its own state.
#[derive(Clone)]
pub struct Omni {
    inner: Arc<Inner>,
}

impl Inner {
    /// Samples per second of speech.
    pub(crate) fn sample_rate(&self) -> u32 {
        self.speech.as_ref().map_or(code2wav::SAMPLE_RATE, |parts| parts.voice.sample_rate())
    }
}

impl std::fmt::Debug for Omni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Omni").finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) config: OmniConfig,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: ChatTemplate,
    pub(crate) generation: GenerationConfig,
    pub(crate) preprocessor: PreprocessorConfig,
    pub(crate) device: Device,
    /// Number type of the tensors that cross crate borders.
    pub(crate) dtype: Dtype,
    pub(crate) thinker: Thinker,
    pub(crate) encoders: Option<Encoders>,
    pub(crate) speech: Option<SpeechParts>,
    pub(crate) together: Together,
    pub(crate) places: Places,
    pub(crate) threads: Threads,
}

impl Inner {
    /// Computes with the threads of this model. What is computed must wait for no other stage: that would keep a thread from it.
    pub(crate) fn compute<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.threads.run(f)
    }
}

pub(crate) struct Encoders {
    pub(crate) audio: Ears,
    pub(crate) vision: Eyes,
}

/// What hears.
#[allow(clippy::large_enum_variant)] // One per model.
pub(crate) enum Ears {
    /// The checkpoint's own encoder.
    Own(AutEncoder),
    /// A third party's.
    Other(Box<dyn ModalityEncoder<Features = Vec<Tensor<2>>>>),
}

/// What sees.
#[allow(clippy::large_enum_variant)] // One per model.
pub(crate) enum Eyes {
    /// The checkpoint's own encoder.
    Own(VisionEncoder),
    /// A third party's.
    Other(Box<dyn ModalityEncoder<Features = Vec<PixelPatches>>>),
}

impl Ears {
    /// Log-mel frames of one attention window, whose rows depend on no others; not known of a third party's encoder.
    pub(crate) fn window_frames(&self) -> Option<usize> {
        match self {
            Ears::Own(encoder) => Some(encoder.window_frames()),
            Ears::Other(_) => None,
        }
    }

    /// Log-mel frames of one chunk; shorter ones are padded to the longest of the call. Of a third party's encoder all of the sound.
    pub(crate) fn chunk_frames(&self) -> Option<usize> {
        match self {
            Ears::Own(encoder) => Some(encoder.chunk_frames()),
            Ears::Other(_) => None,
        }
    }

    pub(crate) fn encode(&self, items: Vec<Tensor<2>>) -> Result<Encoded> {
        match self {
            Ears::Own(encoder) => encoder.encode(items),
            Ears::Other(encoder) => encoder.encode(items),
        }
    }
}

impl Eyes {
    pub(crate) fn encode(&self, items: Vec<PixelPatches>) -> Result<Encoded> {
        match self {
            Eyes::Own(encoder) => encoder.encode(items),
            Eyes::Other(encoder) => encoder.encode(items),
        }
    }
}

pub(crate) struct SpeechParts {
    pub(crate) talker: Talker,
    pub(crate) code_predictor: CodePredictor,
    pub(crate) voice: Voice,
}

/// What makes sound of frames.
#[allow(clippy::large_enum_variant)] // One per model.
pub(crate) enum Voice {
    /// The checkpoint's own vocoder.
    Own(Code2Wav),
    /// A third party's.
    Other(Box<dyn Vocoder>),
}

impl Voice {
    pub(crate) fn sample_rate(&self) -> u32 {
        match self {
            Voice::Own(_) => code2wav::SAMPLE_RATE,
            Voice::Other(vocoder) => vocoder.sample_rate(),
        }
    }

    pub(crate) fn samples_per_frame(&self) -> usize {
        match self {
            Voice::Own(vocoder) => vocoder.samples_per_frame(),
            Voice::Other(vocoder) => vocoder.samples_per_frame(),
        }
    }

    /// Samples of a frame that come only with the next one.
    pub(crate) fn lookahead(&self) -> usize {
        match self {
            Voice::Own(vocoder) => vocoder.lookahead(),
            Voice::Other(vocoder) => vocoder.lookahead(),
        }
    }
}

impl Omni {
    /// Starts loading a checkpoint directory in Hugging Face layout.
    pub fn builder(directory: impl Into<PathBuf>) -> OmniBuilder {
        OmniBuilder::new(directory.into())
    }

    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// The checkpoint's config.
    pub fn config(&self) -> &OmniConfig {
        &self.inner.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.tokenizer
    }

    /// Samples per second of speech: those of the vocoder.
    pub fn sample_rate(&self) -> u32 {
        self.inner.sample_rate()
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

    /// Whether nothing else holds the model: no clone, and no answer in the making.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.inner) == 1
    }

    /// Most tokens a conversation and its answer can have together.
    pub fn context_length(&self) -> usize {
        self.inner.thinker.context_length()
    }

    /// Whether the audio and vision encoders are loaded.
    pub fn sees_and_hears(&self) -> bool {
        self.inner.encoders.is_some()
    }

    /// Reads a conversation with all its media, and counts its tokens; nothing is computed by the model yet.
    ///
    /// # Errors
    /// [`Error::Request`] if there is nothing to answer, [`Error::Media`] naming the message and the part that cannot be read
    /// or used, [`Error::NotLoaded`] for media without encoders.
    pub fn prompt(&self, messages: &[Message], options: &GenerateOptions) -> Result<Prompt> {
        options.validate()?;
        let started = Instant::now();
        let mut prompt = Processor::new(&self.inner, options).prompt(messages)?;
        prompt.preprocessing = started.elapsed();
        Ok(prompt)
    }

    /// The whole answer.
    ///
    /// # Errors
    /// The errors of [`Omni::stream`] and its events.
    pub fn generate(&self, messages: &[Message], options: &GenerateOptions) -> Result<Reply> {
        whole(self.stream(messages, options)?)
    }

    /// The answer piece by piece: text as it is written, sound from the first word on. Work begins at once, in threads of its
    /// own, and waits for a reader that is behind; dropping the stream stops it.
    ///
    /// # Errors
    /// Before the model runs: [`Error::Busy`] if as many answers are in the making as [`OmniBuilder::max_answers`] allows,
    /// [`Error::Request`] for a conversation or options that cannot be served, [`Error::Media`],
    /// [`Error::ContextLength`], or [`Error::NotLoaded`] if speech is asked for and not there.
    pub fn stream(&self, messages: &[Message], options: &GenerateOptions) -> Result<ReplyStream> {
        let place = self.place()?;
        options.validate()?;
        self.speech_plan(options)?;
        self.stream_with(self.prompt(messages, options)?, options, None, place)
    }

    /// Streams the answer to a conversation that was read and counted by [`Omni::prompt`] with the same options.
    ///
    /// # Errors
    /// The errors of [`Omni::stream`].
    pub fn stream_prompt(&self, prompt: Prompt, options: &GenerateOptions) -> Result<ReplyStream> {
        self.stream_with(prompt, options, None, self.place()?)
    }

    /// A conversation of several turns, which remembers what the model has read.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    pub(crate) fn stream_with(
        &self,
        prompt: Prompt,
        options: &GenerateOptions,
        memory: Option<Memory>,
        place: Place,
    ) -> Result<ReplyStream> {
        options.validate()?;
        let plan = self.speech_plan(options)?;
        let (tokens, limit) = (prompt.tokens(), self.context_length());
        // One token at least must be left for the answer.
        if tokens >= limit {
            return Err(Error::ContextLength { tokens, limit });
        }
        ReplyStream::new(self.inner.clone(), prompt, options.clone(), (plan, memory), place)
    }

    /// A place for an answer.
    pub(crate) fn place(&self) -> Result<Place> {
        self.inner.places.take()
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
        let own = self.inner.speech.as_ref().is_some_and(|parts| matches!(parts.voice, Voice::Own(_)));
        if !own && matches!(options.vocoder, VocoderMode::Chunked(_)) {
            let reason =
                "chunks as the reference decodes them were asked for, but another vocoder was given to the builder";
            return Err(Error::Request(reason.into()));
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
            residual_sampling: options.code_predictor.clone().unwrap_or_else(predictor),
            speak: moe_talker::SpeakOptions {
                sampling,
                max_codes: options.max_codes.unwrap_or(generation.max_codes()),
                end_code: None,
            },
        }))
    }
}

/// All of an answer, its sound included.
pub(crate) fn whole(events: impl Iterator<Item = Result<Event>>) -> Result<Reply> {
    let mut samples = Vec::new();
    for event in events {
        match event? {
            Event::Audio(Audio { samples: piece, .. }) => samples.extend(piece),
            Event::Done(mut reply) => {
                if let Some(speech) = &mut reply.speech {
                    speech.audio.samples = samples;
                }
                return Ok(*reply);
            }
            Event::Thinking(_) | Event::Text(_) => {}
        }
    }
    unreachable!("a stream ends with an error or with `Done`")
}

fn default_speaker(talker: &moe_talker::TalkerConfig) -> u32 {
    let named = talker.speaker_id.get("ethan");
    *named.or_else(|| talker.speaker_id.values().next()).expect("checked when the config was read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_draws_with_a_seed_of_its_own() {
        let omni = Omni::builder(testkit::tiny()).load().unwrap();
        let seeds = |seed| {
            let plan = omni.speech_plan(&GenerateOptions { seed, ..GenerateOptions::default() }).unwrap().unwrap();
            [plan.speak.sampling.seed, plan.residual_sampling.seed]
        };
        let [a, b] = [seeds(1), seeds(2)];
        assert!(a[0] != a[1] && a[0] != b[0] && a[1] != b[1], "{a:?} {b:?}");
        assert_eq!(a, seeds(1));
    }
}
