use code2wav::Chunking;
use media::image::PixelBounds;
use media::video::VideoOptions;
pub use mtp::MAX_DRAFT_CODES;
use omni_core::{Result, SamplingOptions};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::hook::TokenHooks;

/// Whether the last token of an answer that the token limit truncated is spoken.
///
/// The reference's talker never gets the last generated token. If that is the end token, nothing is lost; if the limit stopped the
/// text, a word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LastWord {
    /// All generated text is spoken.
    #[default]
    Spoken,
    /// The last token is left out, as in the reference.
    AsReference,
}

/// Positions of sound in video, for the talker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TalkerPositions {
    /// Interleaved by time, as for the thinker.
    #[default]
    Exact,
    /// One after the other: the reference does not pass the interleaving to its talker.
    AsReference,
}

/// Decoding of codec frames to samples.
///
/// ```
/// use qwen3_omni::{Chunking, GenerateOptions, VocoderMode};
///
/// // Chunks of 300 frames after 25 of left context, as the reference decodes.
/// let options = GenerateOptions::default().vocoder(VocoderMode::Chunked(Chunking::default()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VocoderMode {
    /// Exact streaming: the samples are those of one whole decode.
    #[default]
    Exact,
    /// Chunks with a left context, as in the reference; sound comes only at the end.
    Chunked(Chunking),
}

/// Frames per piece of sound. The first piece is short, so that it comes soon; then the size doubles, since a long piece costs less
/// per frame.
///
/// ```
/// use qwen3_omni::{ChunkRamp, GenerateOptions};
///
/// // Pieces of 4, 8, 16, 16, … frames: later, but with less work for each.
/// let options = GenerateOptions::default().chunks(ChunkRamp::default().first(4).most(16));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
#[non_exhaustive]
pub struct ChunkRamp {
    /// Frames of the first piece (a frame is 80 ms).
    pub first: usize,
    /// Most frames of a piece.
    pub most: usize,
}

omni_core::setters! { ChunkRamp {
    first: usize,
    most: usize,
} }

impl Default for ChunkRamp {
    /// 1, 2, 4, 8, 8, …
    fn default() -> Self {
        Self { first: 1, most: 8 }
    }
}

impl ChunkRamp {
    /// Makes all pieces the same size.
    pub fn fixed(frames: usize) -> Self {
        Self { first: frames, most: frames }
    }

    /// The frames of each piece, in order.
    pub(crate) fn sizes(self) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(self.first), move |size| Some(size.saturating_mul(2)))
            .map(move |size| size.min(self.most))
    }
}

/// Concurrency of the stages of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stages {
    /// Thinker, talker and vocoder run concurrently, each in a thread of its own: speech starts with the first word.
    #[default]
    Concurrent,
    /// One stage runs at a time, and speech starts when the text is complete; for measurements.
    Sequential,
}

/// Guards that stop a talker that has lost its way. `None` turns a guard off.
///
/// ```
/// use qwen3_omni::{GenerateOptions, Guards};
///
/// // Long pauses are wanted; the other guards stay on.
/// let options = GenerateOptions::default().guards(Guards::default().silent_frames(None));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
#[non_exhaustive]
pub struct Guards {
    /// Most frames per token of spoken text; 50 more are allowed in all.
    pub frames_per_token: Option<usize>,
    /// Frames during which the first codes repeat themselves in a loop of at most 16 frames.
    pub looping_frames: Option<usize>,
    /// Consecutive silent frames.
    pub silent_frames: Option<usize>,
}

omni_core::setters! { Guards {
    frames_per_token: impl Into<Option<usize>> => frames_per_token.into(),
    looping_frames: impl Into<Option<usize>> => looping_frames.into(),
    silent_frames: impl Into<Option<usize>> => silent_frames.into(),
} }

impl Default for Guards {
    /// 40 frames (3.2 s) per token; loops of 8 s; silence of 8 s.
    fn default() -> Self {
        Self { frames_per_token: Some(40), looping_frames: Some(100), silent_frames: Some(100) }
    }
}

impl Guards {
    /// Turns all guards off; `max_codes` still applies.
    pub fn off() -> Self {
        Self { frames_per_token: None, looping_frames: None, silent_frames: None }
    }
}

/// What of an answer's text is spoken. Thinking and tool calls never are.
///
/// ```
/// use qwen3_omni::{GenerateOptions, SpeechFilter};
///
/// let options = GenerateOptions::default().speech_filter(SpeechFilter::Prose);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SpeechFilter {
    /// All of it, as in the reference.
    #[default]
    Everything,
    /// Prose: no code blocks, no addresses of links, no marks of Markdown. A token is left out if none of its characters is spoken.
    Prose,
}

/// A question to which what is said in a recording is the answer, as the model's own examples ask it.
///
/// ```
/// use qwen3_omni::{Message, TRANSCRIBE};
///
/// let question = Message::user().audio("meeting.m4a").text(TRANSCRIBE);
/// ```
pub const TRANSCRIBE: &str = "Transcribe the audio into text.";

/// A question that a text read aloud is the answer to; `{text}` stands for the text.
///
/// The talker sees the question, so it should be one that asks for the text.
///
/// ```
/// use qwen3_omni::{GenerateOptions, Message, READ_ALOUD};
///
/// let text = "The ship leaves at nine.";
/// let question = Message::user().text(READ_ALOUD.replace("{text}", text));
/// let options = GenerateOptions::default().read_aloud(text);
/// ```
pub const READ_ALOUD: &str =
    "Read the following text aloud, word for word. Say nothing before it and nothing after it.\n\n{text}";

/// Text of an answer that is given instead of generated. It is streamed, spoken and part of the reply as if the model had written it.
///
/// ```
/// use qwen3_omni::{GenerateOptions, GivenText};
///
/// let options = GenerateOptions::default().given(GivenText::Beginning("In one word:".into()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GivenText {
    /// The model writes the whole answer.
    #[default]
    Nothing,
    /// The answer begins with this text and the model continues it. It does not count in `max_new_tokens`.
    Beginning(String),
    /// The answer is this text, which is only read aloud.
    Whole(String),
}

impl GivenText {
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            GivenText::Nothing => None,
            GivenText::Beginning(text) | GivenText::Whole(text) => Some(text),
        }
    }
}

/// Options of an answer. `Default` has the settings of the released model.
///
/// Each field has a setter of its name; those of optional fields take the value, or `None`.
///
/// ```
/// use qwen3_omni::{GenerateOptions, SpeechFilter};
///
/// let mut options = GenerateOptions::default().max_new_tokens(200).stop(["\n\n"]).speaker("chelsie").seed(7);
/// options.speech_filter = SpeechFilter::Prose; // the fields are public, too
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
#[non_exhaustive]
pub struct GenerateOptions {
    /// Most text tokens that are generated.
    pub max_new_tokens: usize,
    /// Strings that end the answer. Text and speech stop before the first that is generated, also where it lies across tokens; what
    /// the model thinks does not count.
    pub stop: Vec<String>,
    /// Text of the answer that is given instead of generated.
    pub given: GivenText,
    /// Hook between the thinker's logits and the sampler; not serialised.
    #[serde(skip)]
    pub hook: Option<TokenHooks>,
    /// Number of most likely tokens whose log-probabilities are reported at each place, beside that of the token itself; `None`
    /// reports nothing. Computed before penalties, bias and temperature; see [`crate::Event::LogProbs`] and
    /// [`crate::Reply::log_probs`].
    pub log_probs: Option<usize>,
    /// Sampling of the text; greedy by default, as in the reference.
    pub thinker: SamplingOptions,
    /// Whether the answer is spoken; `None` for whether the talker is loaded.
    pub speech: Option<bool>,
    /// Name of the speaker, in upper or lower case; `None` for `ethan`, or else the first of the checkpoint.
    pub speaker: Option<String>,
    /// Sampling of the first codes; `None` for the checkpoint's `generation_config.json`.
    pub talker: Option<SamplingOptions>,
    /// Sampling of the residual codes; `None` for the reference's settings, greedy if the talker is greedy.
    pub code_predictor: Option<SamplingOptions>,
    /// Residual codes that the code predictor drafts at once and then verifies together, at most [`MAX_DRAFT_CODES`]; 0 for none.
    /// Greedy codes stay the same, sampled ones keep their distribution. Whether it saves time depends on how many drafts the model
    /// accepts: see [`crate::Usage::accepted_codes`].
    pub draft_codes: usize,
    /// Samples first codes greedily if `talker` is `None`; the checkpoint's repetition penalty still applies.
    pub greedy_speech: bool,
    /// Seed of everything that is random in the answer. Each stage derives its own from it and from the seed of its own sampling
    /// options, which changes that stage alone.
    pub seed: u64,
    /// Most first codes; `None` for the checkpoint's `generation_config.json`.
    pub max_codes: Option<usize>,
    /// What of the text is spoken.
    pub speech_filter: SpeechFilter,
    /// Whether the last token of a truncated answer is spoken.
    pub last_word: LastWord,
    /// Decoding of codec frames to samples.
    pub vocoder: VocoderMode,
    /// Codec frames per piece of sound in a stream.
    pub chunks: ChunkRamp,
    /// Concurrency of the stages.
    pub stages: Stages,
    /// Guards that stop a talker that has lost its way.
    pub guards: Guards,
    /// Functions that the model may call, as JSON schemas.
    pub tools: Vec<Value>,
    /// Passed to the chat template if set.
    pub enable_thinking: Option<bool>,
    /// Whether special tokens in texts are recognised, as in the reference. By default they are plain text: what a user writes cannot
    /// end a turn, begin another, or stand for media.
    pub special_tokens_in_text: bool,
    /// Whether the answer starts with thinking text; `None` for whether it starts with `<think>` or the prompt ends with it.
    pub starts_thinking: Option<bool>,
    /// Uses the sound of videos that have any, interleaved with their frames; [`VideoSound`](crate::VideoSound) decides for one video.
    pub audio_in_video: bool,
    /// Positions of sound in video, for the talker.
    pub talker_positions: TalkerPositions,
    /// Bounds of image sizes; `None` for the settings of the checkpoint's processor.
    pub image_bounds: Option<PixelBounds>,
    /// Sampling of videos and bounds of their frame sizes. Patch sizes are always the checkpoint's.
    ///
    /// Without a `token_budget`, the frames of videos that do not fit the context are shrunk to nine tenths of it, less what the rest of
    /// the prompt takes.
    pub video: VideoOptions,
}

omni_core::setters! { GenerateOptions {
    max_new_tokens: usize,
    stop: impl IntoIterator<Item = impl Into<String>> => stop.into_iter().map(Into::into).collect(),
    given: GivenText,
    hook: impl Into<TokenHooks> => Some(hook.into()),
    log_probs: impl Into<Option<usize>> => log_probs.into(),
    thinker: SamplingOptions,
    speech: impl Into<Option<bool>> => speech.into(),
    speaker: impl Into<String> => Some(speaker.into()),
    talker: impl Into<Option<SamplingOptions>> => talker.into(),
    code_predictor: impl Into<Option<SamplingOptions>> => code_predictor.into(),
    draft_codes: usize,
    greedy_speech: bool,
    seed: u64,
    max_codes: impl Into<Option<usize>> => max_codes.into(),
    speech_filter: SpeechFilter,
    last_word: LastWord,
    vocoder: VocoderMode,
    chunks: ChunkRamp,
    stages: Stages,
    guards: Guards,
    tools: impl IntoIterator<Item = Value> => tools.into_iter().collect(),
    enable_thinking: impl Into<Option<bool>> => enable_thinking.into(),
    special_tokens_in_text: bool,
    starts_thinking: impl Into<Option<bool>> => starts_thinking.into(),
    audio_in_video: bool,
    talker_positions: TalkerPositions,
    image_bounds: impl Into<Option<PixelBounds>> => image_bounds.into(),
    video: VideoOptions,
} }

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 1024,
            stop: Vec::new(),
            given: GivenText::Nothing,
            hook: None,
            log_probs: None,
            thinker: SamplingOptions::greedy(),
            speech: None,
            speaker: None,
            talker: None,
            code_predictor: None,
            draft_codes: 0,
            greedy_speech: false,
            seed: 0,
            max_codes: None,
            speech_filter: SpeechFilter::default(),
            last_word: LastWord::default(),
            vocoder: VocoderMode::default(),
            chunks: ChunkRamp::default(),
            stages: Stages::default(),
            guards: Guards::default(),
            tools: Vec::new(),
            enable_thinking: None,
            special_tokens_in_text: false,
            starts_thinking: None,
            audio_in_video: false,
            talker_positions: TalkerPositions::default(),
            image_bounds: None,
            video: VideoOptions::default(),
        }
    }
}

impl GenerateOptions {
    /// Makes text and speech greedy, so that the answer is the same every time. The talker's repetition penalty still applies.
    ///
    /// ```
    /// let options = qwen3_omni::GenerateOptions::default().greedy();
    /// assert!(options.thinker.greedy && options.greedy_speech);
    /// ```
    pub fn greedy(mut self) -> Self {
        self.thinker.greedy = true;
        self.greedy_speech = true;
        for stage in [&mut self.talker, &mut self.code_predictor].into_iter().flatten() {
            stage.greedy = true;
        }
        self
    }

    /// Gives the whole text of the answer, so that it is only read aloud.
    ///
    /// ```no_run
    /// # let omni = qwen3_omni::Omni::builder("model").load()?;
    /// # use qwen3_omni::{GenerateOptions, Message};
    /// let chat = [Message::user().text("Read this to me.")];
    /// let reply = omni.generate(&chat, &GenerateOptions::default().read_aloud("The ship leaves at nine."))?;
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    pub fn read_aloud(mut self, text: impl Into<String>) -> Self {
        self.given = GivenText::Whole(text.into());
        self
    }

    /// Turns speech off.
    pub fn text_only(mut self) -> Self {
        self.speech = Some(false);
        self
    }

    /// The seed of a stage whose own options have the seed `own`.
    pub(crate) fn stage_seed(&self, own: u64) -> u64 {
        // Seeds that follow each other lie far apart, so that no stage draws the numbers of another.
        self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ own
    }

    pub(crate) fn validate(&self) -> Result<()> {
        self.thinker.validate("thinker")?;
        if self.given.text() == Some("") {
            return Err(omni_core::Error::Request("the given text of the answer is empty".into()));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(omni_core::Error::Request("a stop string is empty".into()));
        }
        let stages = [("talker", &self.talker), ("code predictor", &self.code_predictor)];
        for (name, sampling) in stages.into_iter().filter_map(|(name, s)| Some((name, s.as_ref()?))) {
            sampling.validate(name)?;
        }
        if self.draft_codes > MAX_DRAFT_CODES {
            let found = self.draft_codes;
            let reason = format!("draft_codes is {found}, expected at most {MAX_DRAFT_CODES}");
            return Err(omni_core::Error::Request(reason));
        }
        let positive = [
            ("max_new_tokens", self.max_new_tokens),
            ("max_codes", self.max_codes.unwrap_or(1)),
            ("chunks.first", self.chunks.first),
            ("chunks.most", self.chunks.most),
            ("guards.frames_per_token", self.guards.frames_per_token.unwrap_or(1)),
            ("guards.looping_frames", self.guards.looping_frames.unwrap_or(1)),
            ("guards.silent_frames", self.guards.silent_frames.unwrap_or(1)),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(omni_core::Error::Request(format!("{name} is 0, expected at least 1"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_double_up_to_the_bound() {
        let sizes = |ramp: ChunkRamp| ramp.sizes().take(6).collect::<Vec<_>>();
        assert_eq!(sizes(ChunkRamp::default()), [1, 2, 4, 8, 8, 8]);
        assert_eq!(sizes(ChunkRamp { first: 3, most: 10 }), [3, 6, 10, 10, 10, 10]);
        assert_eq!(sizes(ChunkRamp::fixed(5)), [5; 6]);
    }

    #[test]
    fn zero_limits_and_bad_sampling_are_refused_by_name() {
        let bad = SamplingOptions::talker().top_p(2.0);
        let cases = [
            (GenerateOptions { max_new_tokens: 0, ..Default::default() }, "max_new_tokens"),
            (GenerateOptions { max_codes: Some(0), ..Default::default() }, "max_codes"),
            (GenerateOptions { chunks: ChunkRamp::fixed(0), ..Default::default() }, "chunks.first"),
            (
                GenerateOptions { guards: Guards { silent_frames: Some(0), ..Guards::off() }, ..Default::default() },
                "guards.silent_frames",
            ),
            (GenerateOptions { draft_codes: 5, ..Default::default() }, "draft_codes is 5, expected at most 4"),
            (GenerateOptions { thinker: bad.clone(), ..Default::default() }, "thinker sampling: top_p"),
            (GenerateOptions { talker: Some(bad.clone()), ..Default::default() }, "talker sampling: top_p"),
            (GenerateOptions { code_predictor: Some(bad), ..Default::default() }, "code predictor sampling"),
        ];
        for (options, expected) in cases {
            let message = options.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        GenerateOptions::default().greedy().validate().unwrap();
    }
}
