//! A long turn is prefilled while it is still being spoken.

use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use qwen3_omni::media::audio::SAMPLE_RATE;
use qwen3_omni::{GenerateOptions, MelNorm, Message, Session};

/// A session that listens to a turn in a thread of its own. The turn itself is added when it has ended: what was computed of it lies in
/// the session's prefix cache, where its contents are found again.
pub(super) struct Prefill {
    sound: Sender<Vec<f32>>,
    thread: JoinHandle<Session>,
    /// Samples that were given to it.
    given: usize,
}

impl Prefill {
    /// Begins to listen, behind these messages; `None` if there is no thread for it.
    pub(super) fn begin(session: Session, messages: Vec<Message>, options: GenerateOptions) -> Option<Self> {
        let (sound, pieces) = channel::<Vec<f32>>();
        let listen = move || {
            let mut session = session;
            session.truncate(0);
            messages.into_iter().for_each(|message| session.push(message));
            // What cannot be prefilled now is refused, with the reason, when the turn is answered.
            if let Ok(mut turn) = session.audio_turn(&options, MelNorm::Exact) {
                let _ = pieces.iter().try_for_each(|piece| turn.push(&piece, SAMPLE_RATE));
            }
            session
        };
        let thread = Builder::new().name("realtime prefill".into()).spawn(listen).ok()?;
        Some(Self { sound, thread, given: 0 })
    }

    /// Gives it what it has not heard of the turn so far.
    pub(super) fn listen(&mut self, turn: &[f32]) {
        if let Some(more) = turn.get(self.given..).filter(|more| !more.is_empty()) {
            self.given = turn.len();
            // It may have stopped at sound that it cannot read.
            let _ = self.sound.send(more.to_vec());
        }
    }

    /// Ends it and gives the session back; waits for what it is computing.
    pub(super) fn end(self) -> Option<Session> {
        drop(self.sound);
        self.thread.join().ok()
    }
}
