use serde::{Deserialize, Serialize};

/// Where batches stand: with it, and the same files and options, exactly those follow that would have followed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchesState {
    /// Batches that were taken.
    pub batches: u64,
    /// The window that the next batch is from.
    pub(super) window: u64,
    /// Batches of it that were taken.
    pub(super) taken: u64,
    /// Each source at the window's start.
    pub(super) sources: Vec<SourceState>,
    /// Checksum of what the order depends on.
    pub(super) fingerprint: u32,
}

/// What was read of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// Lines of the epoch that were read.
    pub next: u32,
    /// Tokens of the lines that were given.
    pub tokens: u64,
    /// Lines that were given.
    pub given: u64,
    /// Lines dropped because they are longer than the context or a batch.
    pub too_long: u64,
    /// Lines dropped because they are not as expected.
    pub bad: u64,
}

impl SourceState {
    /// Lines that were read, empty ones apart.
    pub fn read(&self) -> u64 {
        self.given + self.too_long + self.bad
    }
}
