//! Conversations by voice: sound goes in as it is recorded, and the model answers when a turn ends.

mod detector;
mod ear;
mod event;
mod options;
mod worker;

use std::iter::FusedIterator;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::Builder;

use async_channel::{Receiver, Sender, unbounded};
use omni_core::{Error, Result};

pub use detector::{TurnDetector, VoiceDetector};
pub use event::ConversationEvent;
pub use options::ConversationOptions;

use crate::prompt::Message;
use crate::session::{Session, Turns};
use worker::{Input, Worker};

/// A conversation by voice that is going on; made by [`Session::converse`].
///
/// It listens all the time. When a person begins to speak, their sound is prefilled as it comes; when their turn ends, the model
/// answers. Sound that comes while the model answers is heard, too: a person who begins to speak interrupts the answer, which is then
/// cut to what was played of it. If that is nothing, the person had only paused: the answer is dropped, and what they say now goes on
/// from their last turn, as one message with one answer.
///
/// Handles are cheap to clone and may be used from any thread; no call waits. The conversation ends when the last handle was dropped and
/// what was said before has been answered, or when its [`ConversationEvents`] are dropped.
///
/// ```no_run
/// # fn main() -> qwen3_omni::Result<()> {
/// # let omni = qwen3_omni::Omni::builder("model").load()?;
/// # fn microphone() -> Vec<f32> { Vec::new() }
/// # fn play(_: &[f32]) {}
/// # fn stop_playing() {}
/// use qwen3_omni::{ConversationEvent, ConversationOptions};
///
/// let (conversation, events) = omni.session().converse(ConversationOptions::default())?;
/// let recorder = conversation.clone();
/// std::thread::spawn(move || loop { recorder.push(&microphone(), 48_000) });
/// for event in events {
///     match event? {
///         ConversationEvent::Text(piece) => print!("{piece}"),
///         ConversationEvent::Audio(sound) => play(&sound.samples), // and conversation.played(samples) as it is played
///         ConversationEvent::Interrupted(_) => stop_playing(),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Conversation {
    inputs: Arc<Inputs>,
    turns: Turns,
}

/// The way to the worker, which is told when the last handle is dropped.
struct Inputs(Sender<Input>);

impl Drop for Inputs {
    fn drop(&mut self) {
        let _ = self.0.try_send(Input::Closed);
    }
}

impl Session {
    /// Goes on by voice, behind the messages that the session holds.
    ///
    /// ```no_run
    /// # let omni = qwen3_omni::Omni::builder("model").load()?;
    /// let mut session = omni.session();
    /// session.push(qwen3_omni::Message::system("Answer in one sentence."));
    /// let (conversation, events) = session.converse(Default::default())?;
    /// conversation.say(qwen3_omni::Message::user().text("Greet me."));
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotLoaded`] without the checkpoint's audio encoder; [`Error::Request`] for options that cannot be served, or while an
    /// answer of the session is being read; [`Error::Device`] if no thread can be started.
    pub fn converse(mut self, options: ConversationOptions) -> Result<(Conversation, ConversationEvents)> {
        // What a turn needs is missing now, or never.
        drop(self.audio_turn(&options.answer, options.mel_norm)?);
        let turns = self.turns().clone();
        let (inputs, received) = unbounded();
        let (sender, events) = unbounded();
        let worker = Worker::new(self, options, inputs.clone(), received, sender);
        let spawned = Builder::new().name("qwen3-omni conversation".into()).spawn(move || worker.run());
        spawned.map_err(|error| Error::Device(format!("no thread for the conversation: {error}")))?;
        Ok((Conversation { inputs: Arc::new(Inputs(inputs)), turns }, ConversationEvents { events: Box::pin(events) }))
    }
}

impl Conversation {
    /// Takes samples of one channel as they are recorded, in pieces of any size. Silence belongs to it: turns end by it.
    pub fn push(&self, samples: &[f32], sample_rate: u32) {
        self.send(Input::Sound(samples.to_vec(), sample_rate));
    }

    /// Tells how many samples of the current answer were played so far. An application that never calls this is taken to play an
    /// answer without a pause from its first piece on.
    pub fn played(&self, samples: usize) {
        self.send(Input::Played(samples));
    }

    /// Ends the person's turn now, as when a button is released; without a turn it does nothing.
    pub fn end_turn(&self) {
        self.send(Input::EndTurn);
    }

    /// Interrupts the answer as speech does; without an answer it does nothing. The turn that was answered is over: what is said next is a
    /// message of its own.
    pub fn interrupt(&self) {
        self.send(Input::Interrupt);
    }

    /// Says something in writing, with media if need be; it is answered like a spoken turn, and interrupts the answer.
    pub fn say(&self, message: Message) {
        self.send(Input::Message(Box::new(message)));
    }

    /// The messages so far.
    pub fn messages(&self) -> Vec<Message> {
        self.turns.messages()
    }

    fn send(&self, input: Input) {
        // After the end nobody listens.
        let _ = self.inputs.0.try_send(input);
    }
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation").field("turns", &self.turns).finish_non_exhaustive()
    }
}

/// The events of a conversation: an iterator that waits for the next one. An error ends the answer or the turn it belongs to, not the
/// conversation.
#[must_use = "a conversation ends when its events are dropped"]
pub struct ConversationEvents {
    // Pinned for the asynchronous reader.
    events: Pin<Box<Receiver<Result<ConversationEvent>>>>,
}

impl std::fmt::Debug for ConversationEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConversationEvents").field("waiting", &self.events.len()).finish()
    }
}

impl Iterator for ConversationEvents {
    type Item = Result<ConversationEvent>;

    fn next(&mut self) -> Option<Self::Item> {
        self.events.recv_blocking().ok()
    }
}

impl FusedIterator for ConversationEvents {}

#[cfg(feature = "async")]
impl ConversationEvents {
    /// Turns the events into a stream for an asynchronous reader.
    pub fn into_async(self) -> impl futures_core::Stream<Item = Result<ConversationEvent>> + Send + Unpin + 'static {
        self.events
    }
}
