use super::sample::SampleReader;
use super::source::DataSource;
use crate::{Error, Result};

/// How lines become batches.
///
/// Each field has a setter of its name.
///
/// ```
/// use qwen3_omni_train::data::BatchOptions;
///
/// let options = BatchOptions::default().tokens_per_batch(4096).seed(7).epochs(3);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct BatchOptions {
    /// Most tokens of a batch. Conversations are not padded, so each token counts once. A longer line is dropped and counted.
    pub tokens_per_batch: usize,
    /// Most lines of a batch.
    pub rows: Option<usize>,
    /// Number of batches whose lines are sorted by length together before they are cut into batches.
    pub window: usize,
    /// Whether lines and batches are shuffled; otherwise lines come in the order of the files, and the batches of a window by length.
    pub shuffle: bool,
    /// Decides the order, with the epoch.
    pub seed: u64,
    /// Times that a source is read: batches end where the next line would be one of a later epoch. `None`: they never end.
    pub epochs: Option<u64>,
    /// Batches that are made ahead.
    pub prefetch: usize,
    /// Whether the first bad line ends the batches with its error; otherwise it is dropped, counted and reported as a warning.
    pub strict: bool,
    /// Whether rejected answers are read too; then a line without one is bad, and both answers count as tokens.
    pub rejected: bool,
    /// Whether a line without a token to learn is bad.
    pub needs_labels: bool,
    /// Bytes of a window that are held decoded; lines beyond are decoded twice, for their length and for their batch.
    pub memory: usize,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            tokens_per_batch: 8192,
            rows: None,
            window: 64,
            shuffle: true,
            seed: 0,
            epochs: None,
            prefetch: 4,
            strict: false,
            rejected: false,
            needs_labels: true,
            memory: 1 << 30,
        }
    }
}

omni_core::setters! { BatchOptions {
    tokens_per_batch: usize,
    rows: impl Into<Option<usize>> => rows.into(),
    window: usize,
    shuffle: bool,
    seed: u64,
    epochs: impl Into<Option<u64>> => epochs.into(),
    prefetch: usize,
    strict: bool,
    rejected: bool,
    needs_labels: bool,
    memory: usize,
} }

/// Checks that no size is 0.
pub(super) fn check(options: &BatchOptions) -> Result<()> {
    let BatchOptions { tokens_per_batch, rows, window, .. } = options;
    let sizes = [("tokens_per_batch", *tokens_per_batch), ("rows", rows.unwrap_or(1)), ("window", *window)];
    match sizes.into_iter().find(|(_, size)| *size == 0) {
        Some((name, _)) => Err(Error::Option { name, reason: "0, expected 1 or more".into() }),
        None => Ok(()),
    }
}

/// Checksum of everything that the order depends on, but for the contents of the files.
pub(super) fn fingerprint(sources: &[DataSource], reader: &SampleReader, options: &BatchOptions) -> u32 {
    let BatchOptions { tokens_per_batch, rows, window, shuffle, seed, rejected, needs_labels, .. } = options;
    let sources: Vec<_> =
        sources.iter().map(|source| (source.name(), source.share().to_bits(), source.lines())).collect();
    let sizes = (tokens_per_batch, rows, window, reader.context());
    crc32fast::hash(format!("{sources:?} {sizes:?} {shuffle} {seed} {rejected} {needs_labels}").as_bytes())
}
