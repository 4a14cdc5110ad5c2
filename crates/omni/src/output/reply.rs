//! A complete answer, with its counts and times.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::audio::Audio;
use super::words::SpokenWord;
use crate::prompt::Message;

/// Why the text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The model generated its end token.
    End,
    /// The limit on tokens was reached.
    Limit,
    /// The model's context is full.
    Context,
    /// One of [`crate::GenerateOptions::stop`] was generated.
    Stop,
    /// The answer was cancelled, or its stream was dropped.
    Cancelled,
}

/// Why the speech ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SpeechFinish {
    /// The talker chose its end code.
    End,
    /// The limit on codes was reached, or the talker's context is full.
    Limit,
    /// The answer was cancelled, or its stream was dropped.
    Cancelled,
    /// A guard stopped speech that went on far beyond its text ([`crate::Guards::frames_per_token`]).
    Overrun,
    /// A guard stopped speech that repeated itself ([`crate::Guards::looping_frames`]).
    Loop,
    /// A guard stopped speech that had fallen silent ([`crate::Guards::silent_frames`]).
    Silence,
}

impl SpeechFinish {
    /// Whether all of the text was spoken.
    pub(crate) fn is_whole(self) -> bool {
        matches!(self, Self::End | Self::Silence)
    }
}

impl From<moe_talker::SpeechFinish> for SpeechFinish {
    fn from(finish: moe_talker::SpeechFinish) -> Self {
        match finish {
            moe_talker::SpeechFinish::End => Self::End,
            moe_talker::SpeechFinish::Limit => Self::Limit,
        }
    }
}

/// A complete answer.
///
/// ```no_run
/// # let omni = qwen3_omni::Omni::builder("model").load()?;
/// # let chat = [qwen3_omni::Message::user().text("hello")];
/// let reply = omni.generate(&chat, &Default::default())?;
/// println!("{:?}: {}; {}", reply.finish_reason, reply.usage, reply.timings);
/// let next = [chat.to_vec(), vec![reply.to_message()]].concat();
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reply {
    /// The text without special tokens and without tool calls; if the model was thinking, what follows the last `</think>`.
    pub text: String,
    /// The thinking text before the answer.
    pub thinking: Option<String>,
    /// The functions that the model calls, in order.
    pub tool_calls: Vec<ToolCall>,
    /// For each of `token_ids`, if [`crate::GenerateOptions::log_probs`] is set. A stream hands out each as
    /// [`crate::Event::LogProbs`], too.
    pub log_probs: Vec<TokenLogProbs>,
    /// Ids of all generated tokens, thinking included, without the end token.
    pub token_ids: Vec<u32>,
    /// Why the text ended.
    pub finish_reason: FinishReason,
    /// The speech; `None` if there was nothing to say or no speech was requested.
    pub speech: Option<Speech>,
    /// Counts.
    pub usage: Usage,
    /// Times by stage.
    pub timings: Timings,
}

/// A function that the model calls.
///
/// ```no_run
/// # let omni = qwen3_omni::Omni::builder("model").load()?;
/// # let mut session = omni.session();
/// let reply = session.reply(&Default::default())?;
/// for call in &reply.tool_calls {
///     let result = if call.name == "weather" { "light rain" } else { "there is no such function" };
///     session.push(qwen3_omni::Message::tool(result));
/// }
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ToolCall {
    /// Name of the function.
    pub name: String,
    /// Its arguments, an object as the function's schema describes it.
    pub arguments: Value,
}

/// A token and its log-probability.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogProb {
    /// Id of the token.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub log_prob: f32,
}

/// The log-probabilities at one place of the answer.
///
/// ```no_run
/// # let omni = qwen3_omni::Omni::builder("model").load()?;
/// # use qwen3_omni::{Event, GenerateOptions};
/// # let chat = [qwen3_omni::Message::user().text("Yes or no?")];
/// for event in omni.stream(&chat, &GenerateOptions::default().log_probs(5))? {
///     if let Event::LogProbs(place) = event? {
///         println!("{:.0} %, of {} likely ones", 100.0 * place.token.log_prob.exp(), place.best.len());
///     }
/// }
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TokenLogProbs {
    /// The token that follows.
    pub token: LogProb,
    /// The likeliest tokens, best first.
    pub best: Vec<LogProb>,
    /// Byte offset in the answer's text at which the text up to this token ends. It stays where it is at thinking, at tool calls and
    /// within a character, goes back where line ends before a tool call are dropped, and begins anew behind `</think>`; a stop string
    /// still counts.
    #[serde(default)]
    pub text_end: usize,
}

/// The speech of an answer.
///
/// ```no_run
/// # let omni = qwen3_omni::Omni::builder("model").load()?;
/// # let reply = omni.generate(&[], &Default::default())?;
/// for word in reply.speech.iter().flat_map(|speech| &speech.words) {
///     println!("{:?} {}", word.start, &reply.text[word.text.clone()]); // subtitles
/// }
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Speech {
    /// The whole sound. Only [`crate::Omni::generate`] and [`crate::Session::reply`] fill it; a stream has handed it out in pieces.
    pub audio: Audio,
    /// Codes of each frame, first codebook first.
    pub codes: Vec<Vec<u32>>,
    /// Why the speech ended.
    pub finish_reason: SpeechFinish,
    /// The words of the spoken text and when they are spoken, estimated.
    pub words: Vec<SpokenWord>,
    /// Byte offset in [`Reply::text`] at which the text of each spoken token ends.
    pub text_ends: Vec<usize>,
    /// Samples of one frame.
    pub samples_per_frame: usize,
    /// Samples of a frame that the vocoder makes only with the next frame.
    pub lookahead: usize,
}

impl Speech {
    /// The beginning of `text` whose words were heard in the first `samples` samples.
    fn heard<'t>(&self, text: &'t str, samples: usize) -> &'t str {
        let rate = f64::from(self.audio.sample_rate.max(1));
        let played = Duration::from_secs_f64((samples + self.lookahead) as f64 / rate);
        let count = self.words.partition_point(|word| (word.start + word.end) / 2 <= played);
        // With what stands before the next word: its punctuation.
        let end = match (count, self.words.get(count)) {
            (0, _) => 0,
            (_, Some(next)) => next.text.start,
            (_, None) => self.words[count - 1].text.end,
        };
        text.get(..end).unwrap_or(text).trim_end()
    }
}

/// The part of an answer that was heard when some of its samples were played.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Played {
    /// The beginning of [`Reply::text`] that was heard, estimated by [`Speech::words`].
    pub text: String,
    /// The beginning of [`Reply::text`] that can have been heard at most.
    pub at_most: String,
    /// Spoken tokens in [`Played::at_most`].
    pub tokens: usize,
    /// Frames that were played, the last one perhaps in part.
    pub frames: usize,
}

impl Reply {
    /// The answer as a message of the conversation, with its tool calls and what was thought before it.
    pub fn to_message(&self) -> Message {
        let message = Message::assistant(self.text.clone());
        let message = self.thinking.iter().fold(message, |message, thinking| message.thinking(thinking.clone()));
        self.tool_calls.iter().fold(message, |message, call| message.tool_call(&call.name, call.arguments.clone()))
    }

    /// Computes which part of the answer was heard when its first `samples` samples were played.
    ///
    /// A word counts as heard when half of it was played. The upper bound is certain: the talker takes one token of text per frame, so a
    /// token that it had not taken when it made a frame cannot have been heard in it.
    ///
    /// ```no_run
    /// # let omni = qwen3_omni::Omni::builder("model").load()?;
    /// # let reply = omni.generate(&[], &Default::default())?;
    /// let second = omni.sample_rate() as usize;
    /// println!("heard in the first second: {}", reply.played(second).text);
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    pub fn played(&self, samples: usize) -> Played {
        let Some(speech) = self.speech.as_ref().filter(|_| samples > 0) else {
            return Played::default();
        };
        let begun = samples.saturating_add(speech.lookahead).div_ceil(speech.samples_per_frame.max(1));
        let frames = begun.min(speech.codes.len());
        let tokens = frames.min(speech.text_ends.len());
        let end = match tokens {
            0 => 0,
            tokens => speech.text_ends[tokens - 1],
        };
        let at_most = self.text.get(..end).unwrap_or(&self.text);
        let all = frames == speech.codes.len();
        let text = if all && speech.finish_reason.is_whole() { at_most } else { speech.heard(at_most, samples) };
        Played { text: text.to_owned(), at_most: at_most.to_owned(), tokens, frames }
    }

    /// Text tokens per second, the first one and its prefill excluded.
    pub fn tokens_per_second(&self) -> f64 {
        let later = self.usage.text_tokens.saturating_sub(1) as f64;
        later / self.timings.thinker.saturating_sub(self.timings.prefill).as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Time from the first token to the end, divided by the duration of the sound: below 1, playback never waits. `None` without
    /// sound.
    pub fn real_time_factor(&self) -> Option<f64> {
        let spent = self.timings.total.saturating_sub(self.timings.first_text).as_secs_f64();
        (!self.usage.audio.is_zero()).then(|| spent / self.usage.audio.as_secs_f64())
    }
}

/// Counts of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt by kind.
    pub prompt: PromptTokens,
    /// Tokens of the prompt that the session's prefix cache held.
    pub cached_tokens: usize,
    /// Tokens of the answer, without the end token.
    pub text_tokens: usize,
    /// Codec frames (80 ms each in the released model).
    pub frames: usize,
    /// Residual codes that were drafted; see [`GenerateOptions::draft_codes`](crate::GenerateOptions::draft_codes).
    #[serde(default)]
    pub drafted_codes: usize,
    /// Drafts that were accepted.
    #[serde(default)]
    pub accepted_codes: usize,
    /// Duration of the sound.
    #[serde(with = "super::seconds")]
    pub audio: Duration,
    /// Bytes of the KV caches of thinker and talker at the end.
    pub cache_bytes: usize,
}

/// Tokens of a prompt by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PromptTokens {
    /// Text, with all that the chat template adds.
    pub text: usize,
    /// Sound.
    pub audio: usize,
    /// Pictures.
    pub image: usize,
    /// Videos, with their sound.
    pub video: usize,
}

impl PromptTokens {
    /// All tokens.
    pub fn total(&self) -> usize {
        self.text + self.audio + self.image + self.video
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} prompt tokens, {} text tokens", self.prompt_tokens, self.text_tokens)?;
        match self.frames {
            0 => Ok(()),
            frames => write!(f, ", {frames} frames ({:.2} s of speech)", self.audio.as_secs_f64()),
        }
    }
}

/// Times of an answer, by stage. Stages run concurrently, so their times overlap. On a GPU work is queued, and its time counts for
/// the stage that waits for the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Timings {
    /// Preparation of the prompt: files, mel frames, patches, tokens. The other times do not include it.
    #[serde(with = "super::seconds")]
    pub preprocessing: Duration,
    /// The audio and vision encoders.
    #[serde(with = "super::seconds")]
    pub encoders: Duration,
    /// Prefill and decode of the thinker.
    #[serde(with = "super::seconds")]
    pub thinker: Duration,
    /// Prefill of the thinker, up to the first token; a part of [`Timings::thinker`].
    #[serde(with = "super::seconds")]
    pub prefill: Duration,
    /// From the request to the first token of text.
    #[serde(with = "super::seconds")]
    pub first_text: Duration,
    /// Prefill of the talker, up to the first code.
    #[serde(with = "super::seconds")]
    pub first_code: Duration,
    /// From the request to the first piece of sound.
    #[serde(with = "super::seconds::optional")]
    pub first_audio: Option<Duration>,
    /// The talker, without the code predictor.
    #[serde(with = "super::seconds")]
    pub talker: Duration,
    /// The code predictor.
    #[serde(with = "super::seconds")]
    pub code_predictor: Duration,
    /// The vocoder.
    #[serde(with = "super::seconds")]
    pub vocoder: Duration,
    /// From the request to the end.
    #[serde(with = "super::seconds")]
    pub total: Duration,
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        if !self.preprocessing.is_zero() {
            write!(f, "preprocessing {:.0} ms; ", ms(self.preprocessing))?;
        }
        write!(f, "first text {:.0} ms", ms(self.first_text))?;
        if let Some(first_audio) = self.first_audio {
            write!(f, ", first sound {:.0} ms", ms(first_audio))?;
        }
        if !self.encoders.is_zero() {
            write!(f, "; encoders {:.0} ms", ms(self.encoders))?;
        }
        write!(f, "; thinker {:.0} ms", ms(self.thinker))?;
        if self.first_audio.is_some() {
            let [talker, predictor, vocoder] = [self.talker, self.code_predictor, self.vocoder].map(ms);
            write!(f, ", talker {talker:.0} ms, code predictor {predictor:.0} ms, vocoder {vocoder:.0} ms")?;
        }
        write!(f, "; {:.0} ms in all", ms(self.total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(usage: Usage, timings: Timings) -> Reply {
        Reply {
            text: String::new(),
            thinking: None,
            tool_calls: Vec::new(),
            log_probs: Vec::new(),
            token_ids: Vec::new(),
            finish_reason: FinishReason::End,
            speech: None,
            usage,
            timings,
        }
    }

    #[test]
    fn rates_exclude_prefill_and_count_all_sound() {
        let timings = Timings {
            prefill: Duration::from_secs(1),
            thinker: Duration::from_secs(5),
            first_text: Duration::from_secs(2),
            total: Duration::from_secs(8),
            ..Timings::default()
        };
        let usage = Usage { text_tokens: 41, audio: Duration::from_secs(3), ..Usage::default() };
        let reply = reply(usage, timings);
        // 40 tokens after the first in the 4 seconds after the prompt; 6 seconds for 3 seconds of sound.
        assert_eq!((reply.tokens_per_second(), reply.real_time_factor()), (10.0, Some(2.0)));
    }

    #[test]
    fn without_sound_there_is_no_real_time_factor_and_one_token_has_no_rate() {
        let reply = reply(Usage { text_tokens: 1, ..Usage::default() }, Timings::default());
        assert_eq!((reply.tokens_per_second(), reply.real_time_factor()), (0.0, None));
    }
}
