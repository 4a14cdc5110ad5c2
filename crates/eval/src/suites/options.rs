//! Options of all suites.

/// How the files of a suite are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// The part of the suite; each form has its usual one.
    pub split: Option<String>,
    /// Language as a code, `en` or `zh`, where the files do not tell it.
    pub language: Option<String>,
    /// Seed of the order of options, where the files always have the right one first.
    pub seed: u64,
}
