//! Rewards of answers, by rules or by a judge.

mod command;
mod judge;
mod rule;
mod weighted;

use std::collections::BTreeMap;

use crate::Result;
use crate::data::Line;

pub use command::CommandReward;
pub use judge::Judge;
pub use rule::Rule;
pub use weighted::Weighted;

/// Scores answers to one line.
///
/// ```
/// use qwen3_omni_train::data::Line;
/// use qwen3_omni_train::reward::Reward;
///
/// /// Short answers are better.
/// struct Brief;
///
/// impl Reward for Brief {
///     fn score(&self, _: &Line, answers: &[String]) -> qwen3_omni_train::Result<Vec<f64>> {
///         Ok(answers.iter().map(|answer| 1.0 / (1.0 + answer.len() as f64)).collect())
///     }
/// }
/// ```
pub trait Reward: Send + Sync {
    /// One finite number for each answer; the larger, the better.
    ///
    /// # Errors
    /// [`crate::Error::Data`] if the line lacks what the rule compares with.
    fn score(&self, line: &Line, answers: &[String]) -> Result<Vec<f64>>;

    /// What it counted since it was last asked, for the log: judgements without a score, for example.
    fn take_counts(&self) -> BTreeMap<&'static str, u64> {
        BTreeMap::new()
    }
}
