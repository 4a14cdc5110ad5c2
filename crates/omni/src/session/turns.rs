//! What a session and its answer share: the messages, and which answer is being generated.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use omni_core::{Error, Result};

use crate::answer::ReplyStream;
use crate::prompt::Message;

/// The messages of a session, shared with its answer.
#[derive(Clone, Default)]
pub(crate) struct Turns {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    messages: Vec<Message>,
    answering: Answering,
}

#[derive(Default)]
enum Answering {
    #[default]
    No,
    /// An answer is being read. Its reply will stand behind this many messages, or nowhere if they were removed meanwhile.
    Running(Option<usize>),
    /// An answer was dropped, but its stages have not all ended.
    Dropped(Box<ReplyStream>),
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.lock().messages).finish()
    }
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn messages(&self) -> Vec<Message> {
        self.lock().messages.clone()
    }

    /// Changes the messages in place, without adding or removing any.
    pub(super) fn edit(&self, change: impl FnOnce(&mut [Message])) {
        change(&mut self.lock().messages);
    }

    pub(super) fn push(&self, message: Message) {
        self.lock().messages.push(message);
    }

    pub(super) fn truncate(&self, length: usize) {
        let mut shared = self.lock();
        shared.messages.truncate(length);
        if let Answering::Running(after) = &mut shared.answering {
            *after = after.filter(|after| *after <= length);
        }
    }

    /// Removes the last message if `wanted` returns true for it.
    pub(super) fn pop_if(&self, wanted: impl FnOnce(&mut Message) -> bool) -> Option<Message> {
        self.lock().messages.pop_if(wanted)
    }

    /// Waits until the stages of a dropped answer have put their states into the prefix cache.
    ///
    /// # Errors
    /// [`Error::Request`] if an answer is still being read.
    pub(super) fn settle(&self) -> Result<()> {
        let mut shared = self.lock();
        match &mut shared.answering {
            Answering::No => {}
            Answering::Running(_) => {
                let reason = "the session's last answer has not ended; read it to its end or drop it";
                return Err(Error::Request(reason.into()));
            }
            Answering::Dropped(stream) => {
                // Nobody is left to receive an error.
                let _ = stream.end();
                shared.answering = Answering::No;
            }
        }
        Ok(())
    }

    /// Notes that an answer to all messages so far begins.
    pub(super) fn begin(&self) {
        let mut shared = self.lock();
        shared.answering = Answering::Running(Some(shared.messages.len()));
    }

    /// Notes that the answer has ended with this reply, or without one.
    pub(super) fn end(&self, reply: Option<Message>) {
        let mut shared = self.lock();
        if let (Answering::Running(Some(after)), Some(reply)) = (std::mem::take(&mut shared.answering), reply) {
            shared.messages.insert(after, reply);
        }
    }

    /// Notes that the answer was dropped before its end.
    pub(super) fn abandon(&self, mut stream: ReplyStream) {
        stream.stop();
        self.lock().answering = Answering::Dropped(Box::new(stream));
    }
}
