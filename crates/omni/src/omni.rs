use std::sync::Arc;
use std::time::Instant;

use moe_talker::speaker_id;
use omni_core::{Error, Result, SamplingOptions};

use crate::answer::ReplyStream;
use crate::config::OmniConfig;
use crate::model::{AnyVocoder, Model};
use crate::output::{Reply, collect_reply};
use crate::prefill::PrefixCache;
use crate::prompt::{GenerateOptions, Message, Preparer, Prompt, SpeechPlan, Tokenizer, VocoderMode};
use crate::schedule::Permit;

// Each stage has its own seed, so that they do not draw the same numbers.
const TALKER_SEED: u64 = 1;
const PREDICTOR_SEED: u64 = 2;

/// A loaded model. Cheap to clone and to share between threads; each answer has its own state.
///
/// ```no_run
/// use qwen3_omni::{GenerateOptions, Message, Omni};
///
/// let omni = Omni::builder("/models/Qwen3-Omni-30B-A3B-Instruct").load()?;
/// let other = omni.clone(); // the same weights
/// std::thread::spawn(move || other.generate(&[Message::user().text("hello")], &GenerateOptions::default()));
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Clone)]
pub struct Omni {
    model: Arc<Model>,
}

impl std::fmt::Debug for Omni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Omni").finish_non_exhaustive()
    }
}

impl Omni {
    pub(crate) fn new(model: Arc<Model>) -> Self {
        Self { model }
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// The checkpoint's config.
    pub fn config(&self) -> &OmniConfig {
        &self.model.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.model.tokenizer
    }

    /// Samples per second of speech, as the vocoder makes it.
    pub fn sample_rate(&self) -> u32 {
        self.model.sample_rate()
    }

    /// Whether talker, code predictor and vocoder are loaded.
    pub fn speaks(&self) -> bool {
        self.model.speech.is_some()
    }

    /// Names of the speakers; empty if the model does not speak.
    ///
    /// ```no_run
    /// # let omni = qwen3_omni::Omni::builder("model").load()?;
    /// println!("expected one of {}", omni.speakers().join(", "));
    /// let options = qwen3_omni::GenerateOptions::default().speaker("chelsie");
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    pub fn speakers(&self) -> Vec<&str> {
        let talker = self.model.config.talker().ok().filter(|_| self.speaks());
        talker.map_or_else(Vec::new, |talker| talker.speaker_id.keys().map(String::as_str).collect())
    }

    /// How first codes are sampled if [`GenerateOptions::talker`](field@GenerateOptions::talker) is not set: the checkpoint's
    /// `generation_config.json`.
    pub fn talker_sampling(&self) -> SamplingOptions {
        self.model.generation.talker(TALKER_SEED)
    }

    /// Whether this is the only owner of the model: there is no clone, and no answer is being generated.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.model) == 1
    }

    /// Most tokens a conversation and its answer can have together.
    pub fn context_length(&self) -> usize {
        self.model.thinker.context_length()
    }

    /// Whether the audio and vision encoders are loaded.
    pub fn sees_and_hears(&self) -> bool {
        self.model.encoders.is_some()
    }

    /// Prepares a conversation with all its media and counts its tokens, without running the model.
    ///
    /// ```no_run
    /// # let omni = qwen3_omni::Omni::builder("model").load()?;
    /// # use qwen3_omni::{GenerateOptions, Message};
    /// let question = Message::user().video("holiday.mp4").text("Where is this?");
    /// let prompt = omni.prompt(&[question], &GenerateOptions::default())?;
    /// println!("{} of {} tokens, {:?}", prompt.tokens(), omni.context_length(), prompt.tokens_by_kind());
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Request`] if there is nothing to answer, [`Error::Media`] naming the message and the part that cannot be read
    /// or used, [`Error::NotLoaded`] for media if no encoders are loaded, [`Error::ContextLength`] for pictures and videos that do not
    /// fit the context, before they are decoded.
    pub fn prompt(&self, messages: &[Message], options: &GenerateOptions) -> Result<Prompt> {
        options.validate()?;
        self.check_bias(options)?;
        let speech = self.speech_plan(options)?;
        let started = Instant::now();
        let mut prompt = Preparer::new(self.model.for_prompts(), options).prompt(messages)?;
        (prompt.speech, prompt.preprocessing) = (speech, started.elapsed());
        Ok(prompt)
    }

    /// Generates the whole answer.
    ///
    /// ```no_run
    /// # let omni = qwen3_omni::Omni::builder("model").load()?;
    /// # use qwen3_omni::{GenerateOptions, Message};
    /// let reply = omni.generate(&[Message::user().text("Name a sea.")], &GenerateOptions::default())?;
    /// println!("{}", reply.text);
    /// if let Some(speech) = reply.speech {
    ///     speech.audio.save_wav("reply.wav")?;
    /// }
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`Omni::stream`] and its events.
    pub fn generate(&self, messages: &[Message], options: &GenerateOptions) -> Result<Reply> {
        collect_reply(self.stream(messages, options)?)
    }

    /// Generates `n` answers to the same conversation, one after another; the prompt is computed once. The seed of each is one more than
    /// that of the one before, so that they differ if anything is sampled.
    ///
    /// ```no_run
    /// # let omni = qwen3_omni::Omni::builder("model").load()?;
    /// # use qwen3_omni::{GenerateOptions, Message, SamplingOptions};
    /// let sampled = GenerateOptions::default().thinker(SamplingOptions::default().sampled().temperature(0.8));
    /// for reply in omni.generate_n(&[Message::user().text("Name a ship.")], &sampled.text_only(), 3)? {
    ///     println!("{}", reply.text);
    /// }
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`Omni::generate`]; [`Error::Request`] if `n` is 0.
    pub fn generate_n(&self, messages: &[Message], options: &GenerateOptions, n: usize) -> Result<Vec<Reply>> {
        if n == 0 {
            return Err(Error::Request("0 answers were asked for, expected at least 1".into()));
        }
        let mut session = self.session();
        messages.iter().for_each(|message| session.push(message.clone()));
        let answer = |index: usize| {
            let seed = options.seed.wrapping_add(index as u64);
            let reply = session.reply(&options.clone().seed(seed))?;
            session.truncate(messages.len());
            Ok(reply)
        };
        (0..n).map(answer).collect()
    }

    /// Generates the answer piece by piece: text as it is decoded, sound from the first word on. Work starts at once, in threads of
    /// its own, and waits for a slow reader. Dropping the stream stops it.
    ///
    /// ```no_run
    /// # let omni = qwen3_omni::Omni::builder("model").load()?;
    /// # use qwen3_omni::{Event, GenerateOptions, Message};
    /// for event in omni.stream(&[Message::user().text("Count to ten.")], &GenerateOptions::default())? {
    ///     if let Event::Text(piece) = event? {
    ///         print!("{piece}");
    ///     }
    /// }
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    ///
    /// # Errors
    /// Before the model runs: [`Error::Busy`] if as many answers are being generated as
    /// [`OmniBuilder::max_answers`](crate::OmniBuilder::max_answers) allows,
    /// [`Error::Request`] for a conversation or options that cannot be served, [`Error::Media`],
    /// [`Error::ContextLength`], or [`Error::NotLoaded`] if speech is asked for and not there.
    pub fn stream(&self, messages: &[Message], options: &GenerateOptions) -> Result<ReplyStream> {
        let permit = self.admit()?;
        self.stream_with(self.prompt(messages, options)?, None, permit)
    }

    /// Streams the answer to a prompt, with the options that [`Omni::prompt`] made it with.
    ///
    /// ```no_run
    /// # let omni = qwen3_omni::Omni::builder("model").load()?;
    /// # use qwen3_omni::{GenerateOptions, Message};
    /// let prompt = omni.prompt(&[Message::user().image("page.png").text("Read this.")], &GenerateOptions::default())?;
    /// if prompt.tokens() < 4096 {
    ///     let stream = omni.stream_prompt(prompt)?;
    /// }
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`Omni::stream`].
    pub fn stream_prompt(&self, prompt: Prompt) -> Result<ReplyStream> {
        self.stream_with(prompt, None, self.admit()?)
    }

    pub(crate) fn stream_with(
        &self,
        prompt: Prompt,
        prefix_cache: Option<PrefixCache>,
        permit: Permit,
    ) -> Result<ReplyStream> {
        let (tokens, limit) = (prompt.tokens() + prompt.given.len(), self.context_length());
        // At least one token must be left for the answer.
        if tokens >= limit {
            return Err(Error::ContextLength { tokens, limit });
        }
        ReplyStream::new(self.model.clone(), prompt, prefix_cache, permit)
    }

    /// Takes a permit for an answer.
    pub(crate) fn admit(&self) -> Result<Permit> {
        self.model.admission.admit()
    }

    /// Checks that every id with a bias is one that its stage can choose.
    fn check_bias(&self, options: &GenerateOptions) -> Result<()> {
        let config = self.config();
        let codes = |ids: Option<usize>| ids.unwrap_or(usize::MAX);
        let talker = codes(config.talker.as_ref().map(|talker| talker.text.vocab_size));
        let predictor = codes(config.code_predictor.as_ref().map(|predictor| predictor.vocab_size));
        let stages = [
            ("thinker", Some(&options.thinker), config.thinker.text.vocab_size),
            ("talker", options.talker.as_ref(), talker),
            ("code predictor", options.code_predictor.as_ref(), predictor),
        ];
        for (stage, sampling, ids) in stages {
            let wrong = sampling.and_then(|sampling| sampling.logit_bias.keys().find(|id| **id as usize >= ids));
            if let Some(id) = wrong {
                let reason = format!("{stage} sampling: logit_bias names id {id}, but there are {ids} ids");
                return Err(Error::Request(reason));
            }
        }
        Ok(())
    }

    /// Plans the speech of an answer; `None` for text alone.
    fn speech_plan(&self, options: &GenerateOptions) -> Result<Option<SpeechPlan>> {
        if !options.speech.unwrap_or(self.speaks()) {
            return Ok(None);
        }
        let talker = self.model.config.talker()?;
        if !self.speaks() {
            return Err(Error::NotLoaded("speech was asked for, but the model was loaded for text only".into()));
        }
        let own = self.model.speech.as_ref().is_some_and(|parts| matches!(parts.vocoder, AnyVocoder::Builtin(_)));
        if !own && matches!(options.vocoder, VocoderMode::Chunked(_)) {
            let reason =
                "chunks as the reference decodes them were asked for, but another vocoder was given to the builder";
            return Err(Error::Request(reason.into()));
        }
        let speaker = match &options.speaker {
            Some(name) => speaker_id(&talker.speaker_id, name)?,
            None => default_speaker(talker),
        };
        let generation = &self.model.generation;
        let usual = || {
            let mut usual = self.talker_sampling();
            usual.greedy = options.greedy_speech;
            usual
        };
        let mut sampling = options.talker.clone().unwrap_or_else(usual);
        sampling.seed = options.stage_seed(sampling.seed);
        // The reference's code predictor follows the talker's choice.
        let usual = || {
            let mut usual = SamplingOptions::code_predictor().seed(PREDICTOR_SEED);
            usual.greedy = sampling.greedy;
            usual
        };
        let mut residual_sampling = options.code_predictor.clone().unwrap_or_else(usual);
        residual_sampling.seed = options.stage_seed(residual_sampling.seed);
        Ok(Some(SpeechPlan {
            speaker,
            residual_sampling,
            speak: moe_talker::SpeakOptions {
                sampling,
                max_codes: options.max_codes.unwrap_or(generation.max_codes()),
                end_code: None,
            },
        }))
    }
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
