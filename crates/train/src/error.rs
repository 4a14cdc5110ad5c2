use std::path::PathBuf;

/// What can go wrong in training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the model's own crates.
    #[error(transparent)]
    Model(#[from] omni_core::Error),
    /// A stage's patterns match no parameter of the model.
    #[error("the patterns `{0}` match no parameter: nothing would be trained")]
    NothingTrained(String),
    /// A pattern over parameter names is malformed.
    #[error("pattern `{0}`: expected `+` (train) or `-` (freeze) before a name")]
    Pattern(String),
    /// A batch cannot be computed: a label beyond the vocabulary, sizes that contradict each other, no rows that carry loss.
    #[error("batch: {0}")]
    Batch(String),
    /// An option has a value without sense.
    #[error("option `{name}`: {reason}")]
    Option {
        /// The option's name.
        name: &'static str,
        /// What was found and what was expected.
        reason: String,
    },
    /// The loss of a batch cannot be computed.
    #[error("step {step}, the batch with {batch}: {source}")]
    InBatch {
        /// Number of the step, from 1.
        step: usize,
        /// Where its samples came from.
        batch: String,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// A loss is NaN or infinite.
    #[error("step {step}: the loss of the batch with {batch} is not a finite number")]
    NotFiniteLoss {
        /// Number of the step, from 1.
        step: usize,
        /// Where its samples came from.
        batch: String,
    },
    /// The gradients of several steps in a row were NaN or infinite.
    #[error("step {step}: the gradients of {steps} steps in a row are not finite: is the learning rate too high?")]
    NotFiniteGradients {
        /// Number of the last step, from 1.
        step: usize,
        /// Steps in a row.
        steps: usize,
    },
    /// No group of answers had different rewards for many rounds.
    #[error("the answers to every prompt of {rounds} rounds had equal rewards: nothing can be learned from them")]
    EqualRewards {
        /// Rounds in a row.
        rounds: usize,
    },
    /// A run was to be resumed with other settings than it began with.
    #[error("{}: the setting `{setting}` was {before} and is now {now}: resume it unchanged, or begin another", run.display())]
    Changed {
        /// Folder of the run.
        run: PathBuf,
        /// The setting.
        setting: String,
        /// Its value, as JSON, when the run began.
        before: String,
        /// Its value now.
        now: String,
    },
    /// A line of training data is not as expected.
    #[error("{}:{line}: {reason}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What was found and what was expected.
        reason: String,
    },
    /// A line of training data holds a conversation that cannot be read, or is too long.
    #[error("{}:{line}: {source}", path.display())]
    Conversation {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// Why it cannot be read.
        source: omni_core::Error,
    },
    /// A source of training data gives nothing.
    #[error("source `{name}`: {reason}")]
    Source {
        /// The source's name.
        name: String,
        /// What was found in it.
        reason: String,
    },
    /// A golden file is missing, damaged or lacks a value.
    #[error("{}: {reason}", path.display())]
    Golden {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<checkpoint::CheckpointError> for Error {
    fn from(error: checkpoint::CheckpointError) -> Self {
        Self::Model(error.into())
    }
}

/// The result of training functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
