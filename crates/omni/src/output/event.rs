//! Events of an answer while it is generated.

use serde::{Deserialize, Serialize};

use omni_core::Result;

use super::audio::Audio;
use super::reply::{Reply, TokenLogProbs, ToolCall};

/// An event of a stream: thinking text if the model thinks, then text and sound as they are made, then one `Done`.
///
/// ```no_run
/// # let omni = qwen3_omni::Omni::builder("model").load()?;
/// # let (chat, options) = ([qwen3_omni::Message::user().text("Weather?")], Default::default());
/// for event in omni.stream(&chat, &options)? {
///     match event? {
///         qwen3_omni::Event::Thinking(piece) => eprint!("{piece}"),
///         qwen3_omni::Event::ToolCall(call) => println!("{}({})", call.name, call.arguments),
///         _ => {}
///     }
/// }
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A piece of thinking text, before the answer; split only at character boundaries.
    Thinking(String),
    /// A piece of the answer's text, split only at character boundaries.
    Text(String),
    /// The log-probabilities at the next token, thinking and tool calls included, before any text that the token completes. Only if
    /// [`crate::GenerateOptions::log_probs`] is set; in order they are [`Reply::log_probs`].
    LogProbs(TokenLogProbs),
    /// The model calls a function. Its text is in no other event and is not spoken.
    ToolCall(ToolCall),
    /// A piece of sound that follows the previous one without a gap.
    Audio(Audio),
    /// The answer is complete.
    Done(Box<Reply>),
}

/// Collects the events of a whole answer, its sound included.
pub(crate) fn collect_reply(events: impl Iterator<Item = Result<Event>>) -> Result<Reply> {
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
            Event::Thinking(_) | Event::Text(_) | Event::LogProbs(_) | Event::ToolCall(_) => {}
        }
    }
    unreachable!("a stream ends with an error or with `Done`")
}
