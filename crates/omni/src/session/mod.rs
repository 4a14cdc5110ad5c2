//! Conversations of several turns.

mod answer;
mod audio_turn;
mod turns;

use std::sync::Arc;

use media::audio::AudioInput;
use omni_core::{Error, Result};

pub use answer::Answer;
pub use audio_turn::{AudioTurn, MelNorm};

#[cfg(feature = "conversation")]
pub(crate) use turns::Turns;
#[cfg(not(feature = "conversation"))]
use turns::Turns;

use crate::Omni;
use crate::output::{Played, Reply, collect_reply};
use crate::prefill::{PrefillRequest, Prefilled, PrefixCache, ThinkerPrefix, content_digests, prefill};
use crate::prompt::{Feature, GenerateOptions, Message, Part, PartKind, Prompt, Role, VideoSound};

/// A conversation of several turns, with a prefix cache.
///
/// A turn computes only what is new: the prefix that the conversation shares with what was computed before is not prefilled again,
/// media included. The answer is that of [`Omni::stream`] for the whole conversation. Many sessions can share one model; each
/// answers one question at a time, which borrowing ensures.
///
/// ```no_run
/// # fn main() -> qwen3_omni::Result<()> {
/// # let omni = qwen3_omni::Omni::builder("model").load()?;
/// use qwen3_omni::{GenerateOptions, Message};
///
/// let mut session = omni.session();
/// session.push(Message::user().text("what is seven plus five"));
/// let reply = session.reply(&GenerateOptions::default())?;
/// session.push(Message::user().text("and one more?"));
/// let reply = session.reply(&GenerateOptions::default())?;
/// # Ok(())
/// # }
/// ```
///
/// An answer belongs to whoever reads it: it can be sent to another thread, or handed to an asynchronous runtime. Until it has ended or
/// was dropped, the session can be looked at and added to, but not asked again:
///
/// ```no_run
/// # fn main() -> qwen3_omni::Result<()> {
/// # let mut session = qwen3_omni::Omni::builder("model").load()?.session();
/// # let options = qwen3_omni::GenerateOptions::default();
/// let answer = session.answer(&options)?;
/// assert!(session.answer(&options).is_err());
/// let reader = std::thread::spawn(move || answer.count());
/// # reader.join().unwrap();
/// # Ok(())
/// # }
/// ```
pub struct Session {
    omni: Omni,
    turns: Turns,
    prefix_cache: PrefixCache,
}

impl Omni {
    /// Starts a conversation of several turns, with a prefix cache.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }
}

impl Session {
    pub(crate) fn new(omni: Omni) -> Self {
        Self { omni, turns: Turns::default(), prefix_cache: PrefixCache::default() }
    }

    /// The conversation so far. Sound of answered turns is kept as the log-mel frames that the model read.
    pub fn messages(&self) -> Vec<Message> {
        self.turns.messages()
    }

    /// Adds a message.
    pub fn push(&mut self, message: Message) {
        self.turns.push(message);
    }

    /// Removes all but the first `length` messages, to edit the conversation; the prefix cache keeps the rest.
    ///
    /// ```no_run
    /// # let omni = qwen3_omni::Omni::builder("model").load()?;
    /// # let mut session = omni.session();
    /// let before = session.messages().len();
    /// session.push(qwen3_omni::Message::user().text("And in French?"));
    /// session.reply(&Default::default())?;
    /// session.truncate(before); // as if it had not been asked
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    pub fn truncate(&mut self, length: usize) {
        self.turns.truncate(length);
    }

    /// Answers the conversation piece by piece.
    ///
    /// # Errors
    /// The errors of [`Omni::stream`], and [`Error::Request`] while the last answer is being read; the conversation stays as it is.
    pub fn answer(&mut self, options: &GenerateOptions) -> Result<Answer> {
        self.turns.settle()?;
        let permit = self.omni.admit()?;
        let prompt = self.omni.prompt(&self.messages(), options)?;
        self.keep_mel(&prompt);
        let stream = self.omni.stream_with(prompt, Some(self.prefix_cache.clone()), permit)?;
        Ok(Answer::new(self.turns.clone(), stream))
    }

    /// Replaces sound by the log-mel frames that the model reads. As in the reference, the last frame of a recording depends on the
    /// longest one it is prepared with; later turns must not change earlier ones.
    fn keep_mel(&self, prompt: &Prompt) {
        let (mut features, mut heard) = (prompt.audio(), prompt.layout.audio_in_video.iter());
        self.turns.edit(|messages| {
            for part in messages.iter_mut().flat_map(Message::parts_mut) {
                let heard = part.kind() == PartKind::Video && heard.next() == Some(&true);
                let input = match part {
                    Part::Audio(input) => input,
                    Part::Video { sound, .. } if heard => given(sound),
                    Part::Encoded(_) if part.kind() == PartKind::Audio => {
                        features.next();
                        continue;
                    }
                    _ => continue,
                };
                if let Some(Feature::Raw(mel)) = features.next()
                    && !matches!(input, AudioInput::Frames(_))
                {
                    *input = AudioInput::Frames(Arc::new(mel.clone()));
                }
            }
        });
    }

    /// Answers the conversation and returns the whole answer.
    ///
    /// # Errors
    /// The errors of [`Session::answer`] and its events.
    pub fn reply(&mut self, options: &GenerateOptions) -> Result<Reply> {
        collect_reply(self.answer(options)?)
    }

    /// Log-mel frames of the audio encoder's attention window.
    pub(crate) fn window_frames(&self) -> Option<usize> {
        self.omni.model().encoders.as_ref()?.audio.window_frames()
    }

    /// Prefills the conversation and the sound of a turn that has not ended.
    pub(crate) fn prefill_audio(&self, message: Message, options: &GenerateOptions) -> Result<()> {
        let messages = [self.messages(), vec![message]].concat();
        let mut prompt = self.omni.prompt(&messages, options)?;
        let audio = prompt.layout.ids.audio;
        let end = prompt.ids().iter().rposition(|id| *id == audio).map_or(0, |last| last + 1);
        if end == 0 {
            return Ok(());
        }
        let model = self.omni.model();
        let digests = content_digests(model, &prompt);
        let request = PrefillRequest { end, with_tap: self.omni.speaks(), stopped: &|| false };
        if let Some(Prefilled { state, tokens, tap, .. }) =
            prefill(model, &mut prompt, &request, Some((&self.prefix_cache, &digests)))?
        {
            self.prefix_cache.put_thinker(ThinkerPrefix { state, tokens, tap });
        }
        Ok(())
    }

    /// Shortens the last answer to what was played of it ([`Reply::played`]), as when the user interrupts. An answer of which
    /// nothing was played is removed.
    ///
    /// ```no_run
    /// # let omni = qwen3_omni::Omni::builder("model").load()?;
    /// # let mut session = omni.session();
    /// let reply = session.reply(&Default::default())?;
    /// session.truncate_answer(&reply.played(12_000))?; // only half a second was played
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Request`] if the conversation does not end with an answer.
    pub fn truncate_answer(&mut self, played: &Played) -> Result<()> {
        if self.turns.pop_if(|message| message.role() == Role::Assistant).is_none() {
            return Err(Error::Request("the conversation does not end with an answer that could be truncated".into()));
        }
        if !played.text.is_empty() {
            self.push(Message::assistant(played.text.clone()));
        }
        Ok(())
    }

    /// Bytes of keys and values in the prefix cache; those of an answer that is being read are not in it.
    pub fn cache_bytes(&self) -> usize {
        let _ = self.turns.settle();
        self.prefix_cache.bytes()
    }

    /// Clears the prefix cache. The conversation stays, and its next turn computes all of it.
    ///
    /// # Errors
    /// [`Error::Request`] while the last answer is being read: it would fill the cache again.
    pub fn forget(&mut self) -> Result<()> {
        self.turns.settle()?;
        self.prefix_cache.clear();
        Ok(())
    }
}

/// What a conversation by voice needs.
#[cfg(feature = "conversation")]
impl Session {
    /// Another handle of the same session.
    pub(crate) fn handle(&self) -> Self {
        Self { omni: self.omni.clone(), turns: self.turns.clone(), prefix_cache: self.prefix_cache.clone() }
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Whether an answer with these options is spoken.
    pub(crate) fn speaks(&self, options: &GenerateOptions) -> bool {
        options.speech.unwrap_or(self.omni.speaks())
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("turns", &self.turns).finish_non_exhaustive()
    }
}

/// The sound that a video is given in place of its track, under the same condition.
fn given(sound: &mut VideoSound) -> &mut AudioInput {
    match sound {
        VideoSound::Auto => *sound = VideoSound::Given(AudioInput::samples([], 1, 1)),
        VideoSound::Track => *sound = VideoSound::Always(AudioInput::samples([], 1, 1)),
        _ => {}
    }
    match sound {
        VideoSound::Given(input) | VideoSound::Always(input) => input,
        _ => unreachable!("a silent video is not heard"),
    }
}
