//! Events of a conversation.

use crate::output::{Audio, Played, Reply, TokenLogProbs, ToolCall};

/// What happens in a conversation, in order.
///
/// ```no_run
/// # let omni = qwen3_omni::Omni::builder("model").load()?;
/// # let (conversation, events) = omni.session().converse(Default::default())?;
/// use qwen3_omni::ConversationEvent as Event;
///
/// for event in events {
///     match event? {
///         Event::TurnResumed => println!("(the last answer was not heard and is dropped)"),
///         Event::Interrupted(heard) => println!("[heard: {}]", heard.text),
///         _ => {}
///     }
/// }
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ConversationEvent {
    /// A person has begun to speak.
    SpeechStarted,
    /// The person goes on with their last turn, of whose answer nothing was heard yet. That answer is dropped; the next one is to all that
    /// they said. Comes after `SpeechStarted` and `Interrupted`.
    TurnResumed,
    /// The person's turn has ended; the answer begins.
    TurnEnded,
    /// A piece of thinking text.
    Thinking(String),
    /// A piece of the answer's text.
    Text(String),
    /// The log-probabilities at the answer's next token, as in [`Event::LogProbs`](crate::Event::LogProbs).
    LogProbs(TokenLogProbs),
    /// A piece of the answer's sound, which follows the previous one of the same answer without a gap.
    Audio(Audio),
    /// The model calls a function.
    ToolCall(ToolCall),
    /// A person spoke into the answer. What was not played is to be discarded; the conversation holds only this much of it.
    Interrupted(Played),
    /// The answer has been generated, to its end or up to the interruption.
    Done(Box<Reply>),
}
