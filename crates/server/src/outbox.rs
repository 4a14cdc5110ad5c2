//! What waits in a session, bounded in number and in bytes: a client that does not read is not read from, and holds no memory.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::chat::Gone;

/// Messages that wait for the client.
const OUTPUTS: usize = 256;
/// Bytes that wait in one direction.
const BYTES: u32 = 32 << 20;

/// Room for the bytes that wait in one direction.
pub(crate) struct Room {
    free: Arc<Semaphore>,
    all: u32,
}

/// Room that is free again when this is dropped.
pub(crate) struct Taken(#[allow(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>);

impl Room {
    pub(crate) fn new() -> Self {
        Self::of(BYTES)
    }

    /// Room for this many bytes.
    pub(crate) fn of(bytes: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes as usize)), all: bytes }
    }

    /// Waits until there is room. What is larger than all of it waits until nothing else is there.
    pub(crate) async fn take(&self, bytes: usize) -> Taken {
        let bytes = u32::try_from(bytes).unwrap_or(self.all).min(self.all);
        Taken(self.free.clone().acquire_many_owned(bytes).await.ok())
    }
}

/// What is sent to the client.
pub(crate) enum Output {
    Event(String),
    Sound(Vec<u8>),
    /// The session ends.
    Close(u16, &'static str),
}

impl Output {
    fn bytes(&self) -> usize {
        match self {
            Self::Event(event) => event.len(),
            Self::Sound(sound) => sound.len(),
            Self::Close(..) => 0,
        }
    }
}

/// Messages that wait, each with its room.
pub(crate) type Outputs = Receiver<(Output, Taken)>;

/// Takes messages for the client.
pub(crate) struct Outbox {
    outputs: Sender<(Output, Taken)>,
    room: Room,
}

impl Outbox {
    pub(crate) fn new() -> (Self, Outputs) {
        Self::holding(OUTPUTS)
    }

    /// An outbox in which this many messages wait.
    pub(crate) fn holding(most: usize) -> (Self, Outputs) {
        let (outputs, waiting) = channel(most);
        (Self { outputs, room: Room::new() }, waiting)
    }

    /// Sends a message; a slow client is waited for.
    ///
    /// # Errors
    /// [`Gone`] if nobody sends it on: the connection has ended.
    pub(crate) async fn send(&self, output: Output) -> Result<(), Gone> {
        let taken = self.room.take(output.bytes()).await;
        self.outputs.send((output, taken)).await.map_err(|_| Gone)
    }

    /// Sends a message from a thread that may block.
    ///
    /// # Errors
    /// The error of [`Outbox::send`].
    pub(crate) fn blocking_send(&self, runtime: &Handle, output: Output) -> Result<(), Gone> {
        runtime.block_on(self.send(output))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn bytes_wait_for_bytes_and_what_is_larger_than_all_room_comes_alone() {
        let (outbox, mut outputs) = Outbox::new();
        let event = |bytes: u32| Output::Event("a".repeat(bytes as usize));
        assert!(outbox.send(event(BYTES / 2)).now_or_never().is_some());
        assert!(outbox.send(event(BYTES / 2 + 1)).now_or_never().is_none());
        let first = outputs.recv().await.unwrap();
        assert!(outbox.send(event(2 * BYTES)).now_or_never().is_none(), "the first one is still being sent");
        drop(first);
        assert!(outbox.send(event(2 * BYTES)).now_or_never().is_some());
        assert!(outbox.send(event(1)).now_or_never().is_none());
        drop(outputs);
        assert!(outbox.send(event(1)).await.is_err());
    }
}
